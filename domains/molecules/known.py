"""The training molecules' SMILES as short digests, so that novelty needs no download of QM9.

    digest(s) = first 5 bytes of sha256(s), kept sorted:   s known  <=>  digest(s) in the table

About 10^5 entries of 40 bits: a molecule that is new is taken for a known one with probability
10^5 / 2^40 ≈ 10^-7. The SMILES are those of the heavy alphabet; the all-atom alphabet writes the
same ones. They are canonical for one version of RDKit, which the table names. Made by

    python -m ctrlgen.domains.molecules.known --data FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ctrlgen.domains.molecules.metrics import reference_smiles
from ctrlgen.extras import require

__all__ = ["Known", "known"]

_FILE = Path(__file__).with_name("known.safetensors")
_BYTES = 5


def _digest(smiles: str) -> int:
    return int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:_BYTES], "big")


class Known(Collection[str]):
    """SMILES that can be asked for but not listed; a reference for `metrics.assess`.

    Args:
        digests: sorted, uint64, shape (K,).
    """

    def __init__(self, digests: np.ndarray) -> None:
        self.digests = digests

    @classmethod
    def of(cls, smiles: Iterable[str]) -> Known:
        """The table of some SMILES."""
        return cls(np.unique(np.fromiter(map(_digest, smiles), np.uint64)))

    def __contains__(self, smiles: object) -> bool:
        if not isinstance(smiles, str):
            return False
        digest = np.uint64(_digest(smiles))
        place = int(np.searchsorted(self.digests, digest))
        return place < len(self.digests) and bool(self.digests[place] == digest)

    def __len__(self) -> int:
        return len(self.digests)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("Known: digests cannot be turned back into SMILES")


@cache
def known() -> Known:
    """SMILES of QM9's training set, D_a and D_b, that come with the package."""
    with safe_open(_FILE, framework="numpy") as file:
        packed = file.get_tensor("digests")
    wide = np.zeros((len(packed), 8), np.uint8)
    wide[:, 8 - _BYTES :] = packed
    return Known(wide.view(">u8").ravel().astype(np.uint64))


def main() -> None:
    """Command line: write the table from the training set."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of QM9")
    options = parser.parse_args()
    smiles = reference_smiles(options.data, "qm9-heavy")
    digests = Known.of(smiles).digests
    packed = digests.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - _BYTES :]
    version = require("rdkit", "molecules").__version__
    save_file({"digests": np.ascontiguousarray(packed)}, _FILE, metadata={"rdkit": version})
    print(f"{len(digests)} digests of {len(smiles)} SMILES, {_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
