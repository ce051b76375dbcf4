"""Bad files: whatever is wrong with one, the error names the argument or the file, and no insides.

The readers that stand behind the commands are asked themselves; records of molecules that cannot be
used are rows with a reason, so that these reasons are held to the same.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import ctrlgen
from ctrlgen.domains.audio.files import read as read_sound
from ctrlgen.domains.images import packed as packed_images
from ctrlgen.domains.images.files import read_image, read_mask
from ctrlgen.domains.images.networks import build
from ctrlgen.domains.molecules import packed as packed_molecules
from ctrlgen.domains.molecules.readers import read_records
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.training.packed import write_packed

INSIDES = (
    "Traceback", "Errno", "<_io.", "0x7f", "object has no", "NoneType", "codec can't", "aten::",
    "SafetensorError", "LibsndfileError", "PIL.", "rdkit", "numpy", "torch", "cannot reshape",
    "HeaderTooSmall", "HeaderTooLarge", "InvalidHeader", "MetadataIncomplete",
)  # fmt: skip
"""Words of libraries, which say nothing to whoever gave the file."""


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A grey PNG whose header says what it likes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def wav(
    samples: bytes, rate: int = 8000, channels: int = 1, form: int = 1, bits: int = 16
) -> bytes:
    """A WAV file whose header says what it likes."""
    align = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", form, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(body) + len(samples)) + body + samples


def sdf(*atoms: str, counts: str | None = None, end: str = "M  END\n$$$$\n") -> str:
    """A V2000 record of atoms without bonds."""
    counts = f"{len(atoms):3d}  0  0  0  0  0  0  0  0  0999 V2000" if counts is None else counts
    lines = [f"{atom} 0  0  0  0  0  0  0  0  0  0  0  0" for atom in atoms]
    return "\n".join(["title", "", "", counts, *lines, end])


def place(symbol: str, x: str = "0.0000", y: str = "0.0000", z: str = "0.5000") -> str:
    return f"{x:>10}{y:>10}{z:>10} {symbol:3}"


def pdb(symbol: str, x: str = "0.000", name: str = "") -> str:
    return f"HETATM    1 {name or symbol:<4} LIG A   1    {x:>8}   0.000   0.000  1.00  0.00          {symbol:>2}\n"  # noqa: E501


def photo(pixels: Any, mode: str | None = None) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(np.asarray(pixels), mode).save(file, "TIFF")


GREY = png(2, 2, b"\0\x10\x20\0\x30\x40")
LONG = "C" * 30
IMAGES: dict[str, Any] = {
    "empty": b"",
    "text": b"this is no picture",
    "only its magic": b"\x89PNG\r\n\x1a\n",
    "cut in the header": GREY[:20],
    "cut in the pixels": png(64, 64, b"\0" * 100),
    "without pixels": png(2, 2),
    "no width": png(0, 4),
    "no height": png(4, 0),
    "absurd size": png(2**31 - 1, 2**31 - 1),
    "large size": png(60000, 60000),
    "broken checksum": GREY[:30] + b"\xff" + GREY[31:],
    "jpeg without pixels": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9",
    "gif without a frame": b"GIF89a\x04\0\x04\0\0\0\0;",
    "bmp cut": b"BM" + bytes(20),
    "floating point": photo(np.full((4, 4), np.nan, np.float32)),
    "negative numbers": photo(np.full((4, 4), -5, np.int32)),
    "script": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "folder": Path.mkdir,
    "broken link": lambda file: file.symlink_to("nowhere"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "absent": lambda file: None,
}
MASKS = {
    name: IMAGES[name]
    for name in ("empty", "text", "cut in the pixels", "absurd size", "folder", "broken link")
} | {"hides nothing": png(2, 2, b"\0\0\0\0\0\0"), "hides all": png(2, 2, b"\0\xff\xff\0\xff\xff")}
RECORDS: dict[str, Any] = {
    "a.sdf empty": "",
    "a.sdf blank": "\n\n",
    "a.sdf text": "no molecule at all\n",
    "a.sdf bytes": bytes(range(256)),
    "a.sdf other encoding": "Benzol für alle\n".encode("utf-16"),
    "a.sdf cut": sdf(place("C"), counts="  3  0  0  0  0  0  0  0  0  0999 V2000", end=""),
    "a.sdf without its end": sdf(place("C"), end=""),
    "a.sdf without atoms": sdf(),
    "a.sdf NaN": sdf(place("C", "nan")),
    "a.sdf infinite": sdf(place("C", "inf")),
    "a.sdf text for a number": sdf(place("C", "x.xxxx")),
    "a.sdf unknown element": sdf(place("Zz")),
    "a.sdf two in one place": sdf(place("C"), place("O", "1.0000"), place("C", "0.0005")),
    "a.sdf absurd count": sdf(place("C"), counts="999999  0  0  0  0  0  0  0  0999 V2000"),
    "a.sdf negative count": sdf(place("C"), counts=" -1  0  0  0  0  0  0  0  0  0999 V2000"),
    "a.sdf text for a count": sdf(place("C"), counts="abc  0  0  0  0  0  0  0  0  0999 V2000"),
    "a.sdf bond to nowhere": sdf(
        place("C"), "  1  9  1  0", counts="  1  1  0  0  0  0  0  0  0  0999 V2000"
    ),
    "a.sdf.gz no gzip": b"no gzip",
    "a.sdf.gz cut": gzip.compress(sdf(place("C")).encode())[:-12],
    "a.sdf.gz empty": b"",
    "a.xyz empty": "",
    "a.xyz text": "hello\nworld\n",
    "a.xyz cut": "3\n\nO 0 0 0\nH 0 0 1\n",
    "a.xyz no atoms": "0\n\n",
    "a.xyz negative": "-1\n\n",
    "a.xyz absurd": "99999999999999999999\n\nC 0 0 0\n",
    "a.xyz other digits": "²\n\nC 0 0 0\nC 0 0 1\n",
    "a.xyz NaN": "1\n\nC nan 0 0\n",
    "a.xyz infinite": "1\n\nC 1e999 0 0\n",
    "a.xyz text for a number": "1\n\nC a b c\n",
    "a.xyz two coordinates": "1\n\nC 0 0\n",
    "a.xyz number for an element": "1\n\n6 0 0 0\n",
    "a.xyz unknown element": "1\n\nXe 0 0 0\n",
    "a.xyz too large": "30\n\n" + "".join(f"C {i} 0 0\n" for i in range(30)),
    "a.xyz text for a charge": "1\ncharge=x\nC 0 0 0\n",
    "a.xyz absurd charge": "1\ncharge=99999999999999999999\nC 0 0 0\n",
    "a.xyz all in one place": "2\n\nC 0 0 0\nC 0 0 0\n",
    "a.xyz other encoding": "1\n\nC 0 0 0\n".encode("utf-16"),
    "a.xyz.gz no gzip": b"1\n\nC 0 0 0\n",
    "a.pdb empty": "",
    "a.pdb text": "hello\n",
    "a.pdb without atoms": "HEADER    NOTHING\nEND\n",
    "a.pdb NaN": pdb("C", "nan"),
    "a.pdb text for a number": pdb("C", "abc"),
    "a.pdb unknown element": pdb("ZN"),
    "a.pdb cut": pdb("C")[:40],
    "a.pdb too large": "".join(pdb("C", f"{i}.000") for i in range(30)),
    "a.smi empty": "",
    "a.smi blank": " \n\n",
    "a.smi no SMILES": "this is none\n",
    "a.smi open ring": "C1CC\n",
    "a.smi unclosed": "CC(C\n",
    "a.smi five bonds": "C(C)(C)(C)(C)C\n",
    "a.smi unknown element": "[Zz]\n",
    "a.smi no positions": "CCO\n",
    "a.smi bytes": bytes(range(128, 256)),
    "a.smi other encoding": "CCO\n".encode("utf-16"),
    "a.txt another ending": "CCO\n",
    "a another ending": "CCO\n",
    "a.sdf folder": Path.mkdir,
    "a.xyz broken link": lambda file: file.symlink_to("nowhere"),
    "a.smi link to itself": lambda file: file.symlink_to(file.name),
    "a.pdb two in one place": pdb("C") + pdb("O"),
    "a.pdb absent": lambda file: None,
}
SOUNDS: dict[str, Any] = {
    "empty": b"",
    "text": b"la la la",
    "only its magic": b"RIFF",
    "without samples": wav(b""),
    "cut in the header": wav(bytes(40))[:30],
    "cut in the samples": wav(bytes(4000))[:200],
    "no channels": wav(bytes(40), channels=0),
    "absurd channels": wav(bytes(40), channels=60000),
    "no rate": wav(bytes(40), rate=0),
    "no bits": wav(bytes(40), bits=0),
    "unknown form": wav(bytes(40), form=0x7777),
    "NaN": wav(struct.pack("<4f", 0, float("nan"), 1, 0), form=3, bits=32),
    "infinite": wav(struct.pack("<4f", 0, float("inf"), 1, 0), form=3, bits=32),
    "flac cut": b"fLaC" + bytes(10),
    "ogg cut": b"OggS" + bytes(10),
    "a picture": GREY,
    "folder": Path.mkdir,
    "broken link": lambda file: file.symlink_to("nowhere"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "absent": lambda file: None,
}


def arrays(metadata: dict[str, str], **held: Any) -> Callable[[Path], None]:
    return lambda file: save_file(
        {name: np.asarray(value) for name, value in held.items()}, file, metadata=metadata
    )


def packing(data: str, **held: Any) -> Callable[[Path], None]:
    """Whole and with the right sha256, and still not what it should be."""
    return lambda file: (
        write_packed(file, data, {name: np.asarray(value) for name, value in held.items()}) and None
    )


def broken(shape: list[int], dtype: str = "|u1", payload: bytes = b"ab") -> Callable[[Path], None]:
    """Packed images whose header says what it likes."""
    forms = {name: [dtype, shape] for name in ("residuals", "labels")}
    code = np.frombuffer(zlib.compress(payload), np.uint8)
    header = {"packed": "mnist", "arrays": json.dumps(forms), "sha256": "0" * 64}
    return arrays(header, residuals=code, labels=code)


BYTE, QM9 = np.uint8, {name: np.ones(3, np.float32) for name in packed_molecules._NAMES}
PACKED: dict[str, Any] = {
    "empty": b"",
    "text": b"no safetensors at all",
    "absurd header": struct.pack("<Q", 2**62) + b"{}",
    "header cut": struct.pack("<Q", 100) + b'{"a":',
    "not packed": arrays({}, a=np.ones(3, BYTE)),
    "another data set": packing("qm9", residuals=np.ones((1, 1, 2, 2), BYTE)),
    "not deflated": arrays(
        {"packed": "mnist", "arrays": '{"labels": ["|u1", [1]]}', "sha256": "0"},
        labels=np.ones(3, BYTE),
    ),
    "arrays of text": arrays({"packed": "mnist", "arrays": "x", "sha256": "0"}, a=np.ones(1, BYTE)),
    "arrays as a list": arrays({"packed": "mnist", "arrays": "[1]", "sha256": "0"}, a=np.ones(1)),
    "no forms": arrays({"packed": "mnist", "sha256": "0"}, a=np.ones(1, BYTE)),
    "no sha256": arrays({"packed": "mnist", "arrays": "{}"}, a=np.ones(1, BYTE)),
    "another shape": broken([3]),
    "absurd shape": broken([2**40]),
    "negative shape": broken([-1, -1]),
    "unknown numbers": broken([2], "nonsense"),
    "objects": broken([1], "O", bytes(8)),
    "numbers of no size": broken([1], "|V0"),
    "another sha256": broken([2]),
    "other arrays": packing("mnist", a=np.ones(3, BYTE)),
    "flat images": packing("mnist", residuals=np.ones(4, BYTE), labels=np.ones(1, BYTE)),
    "fewer labels": packing(
        "mnist", residuals=np.ones((1, 3, 2, 2), BYTE), labels=np.ones(2, BYTE)
    ),
    "images of floats": packing("mnist", residuals=np.ones((1, 3, 2, 2)), labels=np.ones(3, BYTE)),
    "folder": Path.mkdir,
    "broken link": lambda file: file.symlink_to("nowhere"),
    "absent": lambda file: None,
}
MOLECULES: dict[str, Any] = {
    "empty": b"",
    "images": packing("mnist", residuals=np.ones((1, 1, 2, 2), BYTE), labels=np.ones(1, BYTE)),
    "other arrays": packing("qm9", a=np.ones(3, BYTE)),
    "numbers of no molecule": packing("qm9", **QM9),
}
WEIGHTS: dict[str, Any] = {
    "empty": b"",
    "text": b"no safetensors at all",
    "absurd header": struct.pack("<Q", 2**62) + b"{}",
    "header cut": struct.pack("<Q", 100) + b'{"a":',
    "header of a list": struct.pack("<Q", 2) + b"[]",
    "a pickle": b"\x80\x04\x95" + bytes(40),
    "other tensors": arrays({}, a=np.ones(3, np.float16)),
    "folder": Path.mkdir,
    "broken link": lambda file: file.symlink_to("nowhere"),
    "absent": lambda file: None,
}


def _card(file: Path) -> Any:
    """Load the card whose weights the file is; its sha256 is right where the file can be read."""
    from hashlib import sha256

    config: dict[str, Any] = {"network": "unet", "shape": [1, 4, 4], "classes": 2, "widths": [2]}
    made = file.parent / "made"
    prior = Prior(Flow(build(**config), CondOT()), Gaussian([1, 4, 4]))
    prior.save(made, "toy", factory="ctrlgen.domains.images.networks:build", config=config)
    content = json.loads((made / "toy.json").read_text()) | {"weights": file.name}
    if file.is_file():
        content["sha256"] = sha256(file.read_bytes()).hexdigest()
    (file.parent / "toy.json").write_text(json.dumps(content))
    return ctrlgen.load(file.parent / "toy.json")


def _reasons(file: Path) -> None:
    """What is wrong with the file, or with the first record of it that is no molecule."""
    for record in read_records(file, "file"):
        if record.mol is None:
            assert record.reason
            raise ValueError(f"file: {file}, record {record.number}: {record.reason}")


def cases() -> Iterator[Any]:
    tables = {
        "image": ("image.png", "file", read_image, IMAGES),
        "mask": ("mask.png", "mask", read_mask, MASKS),
        "molecule": ("", "file", _reasons, RECORDS),
        "sound": ("sound.wav", "file", read_sound, SOUNDS),
        "packed": (
            "data.safetensors",
            "data",
            lambda file: packed_images.load("mnist", file),
            PACKED,
        ),
        "packed molecules": ("data.safetensors", "data", packed_molecules.load, MOLECULES),
        "weights": ("weights.safetensors", "card toy", _card, WEIGHTS),
    }
    for kind, (name, argument, read, bad) in tables.items():
        for what, content in bad.items():
            own = name or what.split()[0]
            yield pytest.param(own, argument, read, content, id=f"{kind}: {what}")


CASES = list(cases())


@pytest.mark.parametrize(("name", "argument", "read", "content"), CASES)
def test_every_file(
    tmp_path: Path, name: str, argument: str, read: Callable[[Path], Any], content: Any
) -> None:
    file = tmp_path / name
    if isinstance(content, str):
        file.write_text(content)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content(file)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(file)
    message = str(caught.value)
    assert message.startswith((f"{argument}: ", str(file))), message
    assert str(file) in message or argument == "card toy", message
    own = message.replace(str(file), "")
    assert not [word for word in INSIDES if word in own], message
    assert "\n" not in message and len(own) < 300, message
    assert message.isprintable(), message


def test_there_are_enough() -> None:
    assert len(CASES) >= 150
