"""QM9's molecules as short digests, so that novelty needs no download.

    skeleton(m) = first block of the InChIKey, the same for stereoisomers and tautomers
    digest(m)   = first 5 bytes of sha256(skeleton(m)), sorted:   m known  <=>  digest(m) in a table

A table for each split (`splits`): D_b is what the embedded priors and guides were trained on, D_a
what the evaluator was; with valid and test they are all of QM9's 130,831 molecules. A skeleton that
is new is taken for a known one with probability 10^5 / 2^40 ≈ 10^-7. InChIKeys are those that QM9
comes with; they do not depend on the version of RDKit. Made by

    python -m ctrlgen.domains.molecules.novelty --data FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ctrlgen.domains.molecules.qm9 import names
from ctrlgen.domains.molecules.splits import split_rows
from ctrlgen.extras import require

__all__ = ["TRAINING", "Known", "known"]

TRAINING = "D_b"
"""The split that the embedded priors were trained on."""

_PARTS = ("D_a", "D_b", "valid", "test")
_FILE = Path(__file__).with_name("novelty.safetensors")
_BYTES = 5


def _digest(skeleton: str) -> int:
    return int.from_bytes(hashlib.sha256(skeleton.encode()).digest()[:_BYTES], "big")


class Known:
    """Skeletons that can be asked for but not listed.

    Args:
        digests: by split, sorted, uint64, shape (K,).
    """

    def __init__(self, digests: Mapping[str, np.ndarray]) -> None:
        self.digests = dict(digests)

    @classmethod
    def of(cls, skeletons: Mapping[str, Iterable[str]]) -> Known:
        """The table of some skeletons by split."""
        return cls(
            {
                name: np.unique(np.fromiter(map(_digest, texts), np.uint64))
                for name, texts in skeletons.items()
            }
        )

    def holds(self, skeleton: str, split: str | None = None) -> bool:
        """Whether a split has a molecule of this skeleton, or any split where it is None."""
        digest = np.uint64(_digest(skeleton))
        for table in self.digests.values() if split is None else (self.digests[split],):
            place = int(np.searchsorted(table, digest))
            if place < len(table) and bool(table[place] == digest):
                return True
        return False

    def __len__(self) -> int:
        return sum(map(len, self.digests.values()))

    def __repr__(self) -> str:
        return f"Known({', '.join(f'{k}: {len(v)}' for k, v in self.digests.items())})"


@cache
def known() -> Known:
    """Skeletons of QM9 that come with the package."""
    with safe_open(_FILE, framework="numpy") as file:
        tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wide = {}
    for name, packed in tables.items():
        bytes_of = np.zeros((len(packed), 8), np.uint8)
        bytes_of[:, 8 - _BYTES :] = packed
        wide[name] = bytes_of.view(">u8").ravel().astype(np.uint64)
    return Known(wide)


def main() -> None:
    """Command line: write the tables from QM9."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of QM9 as published")
    options = parser.parse_args()
    key = require("rdkit.Chem", "molecules").InchiToInchiKey
    skeletons = [key(name.inchi).split("-")[0] for name in names(options.data)]
    table = Known.of({p: [skeletons[row] for row in split_rows(p).tolist()] for p in _PARTS})
    packed = {
        name: digests.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - _BYTES :]
        for name, digests in table.digests.items()
    }
    save_file({name: np.ascontiguousarray(rows) for name, rows in packed.items()}, _FILE)
    print(f"{table!r} of {len(skeletons)} molecules, {_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
