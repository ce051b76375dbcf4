"""Stability, validity, uniqueness, novelty and connectivity of generated molecules.

One entry per sample, always: a sample with a NaN or infinite position counts as a failure of every
kind, and all its atoms as unstable, in denominators that hold every sample and every atom.

    atom_stable       stable atoms / atoms              molecule_stable   all atoms stable / samples
    valid             RDKit sanitises / samples         unique            distinct SMILES / valid
    valid_unique      distinct SMILES / samples         connected         one piece / samples
    novel             distinct SMILES not in the reference / distinct SMILES
    valid_unique_novel   the same / samples             valid_connected   both / samples

Bonds by the distance table, SMILES of the largest piece (see `rdkit`), the reference being the
SMILES of training molecules by the same rule. Source: Hoogeboom et al. (arXiv 2203.17003),
section 5. As a command, this module measures a split of QM9 itself, the ceiling of all of these:

    python -m ctrlgen.domains.molecules.metrics --data FOLDER
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.domains.molecules import rdkit
from ctrlgen.domains.molecules.data import CACHE, read
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.splits import SPLITS, Split
from ctrlgen.domains.molecules.stability import Stability, stability
from ctrlgen.runs.json_files import dumps, write_json

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Assessment", "assess", "reference_smiles"]


@dataclass(frozen=True)
class Assessment:
    """What holds of each sample.

    Attributes:
        atoms: (B,) long, atoms of each sample.
        stable_atoms: (B,) long.
        stable, valid, connected, finite: (B,) bool.
        unique: (B,) bool, valid and the first sample with its SMILES.
        novel: (B,) bool, valid and not in the reference; None without a reference.
        smiles: one per sample, None where not valid.
        mols: RDKit molecules, None where a position is not finite.
    """

    atoms: Tensor
    stable_atoms: Tensor
    stable: Tensor
    valid: Tensor
    connected: Tensor
    finite: Tensor
    unique: Tensor
    novel: Tensor | None
    smiles: list[str | None]
    mols: list[Mol | None]

    def __len__(self) -> int:
        return len(self.atoms)

    def summary(self) -> dict[str, float | int]:
        """All rates, between 0 and 1, and the numbers behind them; NaN for a rate of nothing."""
        samples, atoms = len(self), int(self.atoms.sum())
        valid, distinct = int(self.valid.sum()), int(self.unique.sum())

        def rate(part: Tensor | int, whole: int) -> float:
            return int(part if isinstance(part, int) else part.sum()) / whole if whole else math.nan

        found: dict[str, float | int] = {
            "samples": samples,
            "atoms": atoms,
            "atom_stable": rate(self.stable_atoms, atoms),
            "molecule_stable": rate(self.stable, samples),
            "valid": rate(valid, samples),
            "unique": rate(distinct, valid),
            "valid_unique": rate(distinct, samples),
            "connected": rate(self.connected, samples),
            "valid_connected": rate(self.connected & self.valid, samples),
            "finite": rate(self.finite, samples),
        }
        if self.novel is not None:
            new = int((self.novel & self.unique).sum())
            found |= {"novel": rate(new, distinct), "valid_unique_novel": rate(new, samples)}
        return found


def assess(
    positions: Tensor,
    classes: Tensor,
    name: str = "qm9",
    reference: Collection[str] | None = None,
    chunk: int = 1024,
) -> Assessment:
    """Assess generated molecules.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        name: alphabet.
        reference: SMILES that are not novel, e.g. `reference_smiles(...)`; a set is quick.
        chunk: molecules whose pairs are held in memory at a time.

    Raises:
        ValueError: shapes that do not match, a class outside the alphabet, or an empty molecule.
        MissingExtra: RDKit is not installed.
    """
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1, got {chunk}")
    parts: list[Stability] = []
    mols: list[Mol | None] = []
    for x, h in zip(positions.split(chunk), classes.split(chunk), strict=True):
        parts.append(stability(x, h, name))
        mols.extend(rdkit.mols(x, h, name, parts[-1].orders))
    smiles = [rdkit.smiles(mol) for mol in mols]
    seen: set[str] = set()
    first = []
    for text in smiles:
        first.append(text is not None and text not in seen)
        if text is not None:
            seen.add(text)
    novel = None
    if reference is not None:
        novel = torch.tensor([s is not None and s not in reference for s in smiles])
    return Assessment(
        atoms=(classes >= 0).sum(dim=1).cpu(),
        stable_atoms=torch.cat([part.atoms.sum(dim=1) for part in parts]).cpu(),
        stable=torch.cat([part.molecules for part in parts]).cpu(),
        valid=torch.tensor([s is not None for s in smiles]),
        connected=torch.cat([part.connected for part in parts]).cpu(),
        finite=torch.cat([part.finite for part in parts]).cpu(),
        unique=torch.tensor(first),
        novel=novel,
        smiles=smiles,
        mols=mols,
    )


def reference_smiles(folder: str | Path, name: str = "qm9", split: Split = "train") -> set[str]:
    """SMILES of a split of QM9 by the rule of this module, kept beside the data once made.

    The file `smiles-{name}-{split}.txt` in the folder is written at the first call, a minute for
    the training set, and read from then on.

    Raises:
        ValueError: unknown alphabet or split.
        FileNotFoundError: no QM9 in the folder.
    """
    alphabet(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if split == "train":  # the two halves serve by themselves as well
        return reference_smiles(folder, name, "D_a") | reference_smiles(folder, name, "D_b")
    folder = Path(folder)
    path = folder / f"smiles-{name}-{split}.txt"
    if not path.is_file():
        data = read(name, folder, split)
        found: set[str | None] = set()
        for rows in torch.arange(len(data)).split(1024):  # molecules are let go part by part
            part = data.take(rows)
            found.update(map(rdkit.smiles, rdkit.mols(part.positions, part.classes, name)))
        scratch = folder / f".{path.name}.{os.getpid()}"
        scratch.write_text("\n".join(sorted(s for s in found if s is not None)) + "\n")
        scratch.replace(path)
    return set(path.read_text().split())


def main() -> None:
    """Command line: measure a split of QM9 in both alphabets and print JSON."""
    parser = argparse.ArgumentParser(description="Metrics of real QM9, the ceiling of a model's.")
    parser.add_argument("--data", type=Path, required=True, help=f"folder of QM9 or its {CACHE}")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--reference", choices=SPLITS, default=None, help="split for novelty")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON there too")
    options = parser.parse_args()
    found: dict[str, object] = {"split": options.split, "reference": options.reference}
    for name in ("qm9", "qm9-heavy"):
        data = read(name, options.data, options.split)
        known = options.reference and reference_smiles(options.data, name, options.reference)
        found[name] = assess(data.positions, data.classes, name, known).summary()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, found)
    print(dumps(found))


if __name__ == "__main__":
    main()
