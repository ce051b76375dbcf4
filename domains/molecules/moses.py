"""MOSES as it is published: 1.94 million drug-like SMILES in the molsets wheel, in three splits.

    moses/dataset/data/{train,test,test_scaffolds}.csv.gz   inside molsets-0.3.1-py3-none-any.whl

Molecules of ZINC's clean leads: 250 to 350 Da, neutral, of C, N, O, S, F, Cl, Br and H, without
stereo marks, written as RDKit's canonical SMILES; `test_scaffolds` has scaffolds that the other two
lack. A subset is the beginning of an order that no molecule's neighbours decide: increasing
sha256 of the SMILES. A larger subset holds the smaller one.

Source: Polykovskiy et al., "Molecular Sets (MOSES)", Front. Pharmacol. 11, 565644 (2020); molsets
0.3.1 (MIT).
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np

from ctrlgen.training.wheels import needed, wheel

__all__ = ["PACKAGE", "SPLITS", "fetch", "heavy_atoms", "order", "smiles"]

PACKAGE = "molsets==0.3.1"
"""Whose wheel has the molecules."""

SPLITS: dict[str, str] = {
    "train": "786f0313aa6b9ba5514df685f885742a70ea8d86f1a4fa48115f7f80a634265c",
    "test": "f896fbf3764f88d94670b9959e5872c600c12152a18233823e820761b7a791b2",
    "test_scaffolds": "adffb2192c1bfe31ab0e13154d4af19a37dc18bdbf3cd7b4491e04405128adde",
}
"""MOSES's splits and the sha256 of their files."""


_ATOM = re.compile(r"\[[^]]*]|Cl|Br|[BCNOFSPIbcnops]")


def fetch(into: str | Path) -> Path:
    """Download the molsets wheel (52 MB, MIT) by name with pip into a folder; returns its path.

    Raises:
        RuntimeError: pip is missing or cannot download it.
    """
    return wheel(PACKAGE, into)


def smiles(folder: str | Path, split: str) -> list[str]:
    """SMILES of a split, in the order of its file.

    Raises:
        ValueError: another split, or a file that is not MOSES's.
        FileNotFoundError: the wheel is not in the folder; the call that fetches it is named.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    file = needed(PACKAGE, folder, f"{__name__}.fetch")
    with zipfile.ZipFile(file) as archive:
        content = archive.read(f"moses/dataset/data/{split}.csv.gz")
    if hashlib.sha256(content).hexdigest() != SPLITS[split]:
        raise ValueError(f"{file}: {split}.csv.gz: expected sha256 {SPLITS[split]}; download again")
    title, *lines = gzip.decompress(content).decode().split()
    assert title == "SMILES"
    return lines


def heavy_atoms(text: str) -> int:
    """Heavy atoms of a SMILES of MOSES, which writes hydrogens inside brackets alone."""
    return len(_ATOM.findall(text))


def order(texts: list[str]) -> np.ndarray:
    """Rows of SMILES by increasing sha256, of which a subset is the beginning, int64."""
    first = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.argsort(np.frombuffer(first, ">u8"), kind="stable")
