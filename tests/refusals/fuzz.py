"""Readers under libFuzzer: bytes that are led by the branches they reach, from valid files onwards.

    python tests/refusals/fuzz.py sdf -runs=100000

Takes a target and libFuzzer's own options; needs atheris (pip install atheris), which is no
dependency of the tests: `test_fuzz` runs a few hundred of each where it is installed. An error that
is not ours ends it with a stack and the bytes that led there.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ctrlgen.domains", "ctrlgen.priors"]):
    from ctrlgen.domains.images.files import read_image, read_mask
    from ctrlgen.domains.molecules.readers import read_records
    from ctrlgen.priors.cards import Card

CARD = b'{"name": "a", "domain": "images", "factory": "os:system", "config": {"command": "x"}, '
CARD += b'"path": {"type": "CondOT"}, "prediction": "velocity", "source": {"type": "Gaussian"}}'
ATOM = "    0.0000    0.0000    {} {}   0  0  0  0  0  0  0  0  0  0  0  0\n"
SDF = "water\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n" + ATOM.format("0.0000", "O")
SDF += ATOM.format("0.9600", "H") + ATOM.format("9.0000", "H")
XYZ = b"2\nq=1\nC 0 0 0\nO 0 0 1\n"
SDF += "  1  2  1  0\n  1  3  1  0\nM  END\n>  <gap>\n6.8\n\n$$$$\n"


def _picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (4, 3), 90).save(stream, "PNG")
    return stream.getvalue()


TARGETS: dict[str, tuple[str, Callable[[Path], object], Callable[[], bytes]]] = {
    "card": ("a.json", Card.read, lambda: CARD),
    "sdf": ("a.sdf", lambda file: read_records(file, "file"), SDF.encode),
    "xyz": (
        "a.xyz",
        lambda file: read_records(file, "file"),
        lambda: b"2\nq=1\nC 0 0 0\nO 0 0 1\n",
    ),
    "image": ("a.png", read_image, _picture),
    "mask": ("a.png", read_mask, _picture),
}
"""Of each: a name for the file, its reader, and a valid content."""


def main() -> None:
    target, folder = sys.argv[1], Path(tempfile.mkdtemp())
    name, read, valid = TARGETS[target]
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid())
    file = folder / name

    def one(content: bytes) -> None:
        file.write_bytes(content)
        try:
            read(file)
        except ValueError as error:
            assert str(error).isprintable(), error  # what is refused says why, in one line

    options = [f"-artifact_prefix={folder}/", "-max_len=2000", "-timeout=60", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
