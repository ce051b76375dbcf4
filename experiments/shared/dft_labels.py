r"""QM9's own values of molecules that QM9 has: a judge that no network stands behind.

A molecule is found by its constitution among the InChIs that QM9 comes with, which have no stereo
marks, and then among the geometries of that constitution by InChIs with hydrogens fixed, which tell
tautomers apart, and without the layer `/m`, which tells mirror images apart: these have the same
energies, dipoles and polarizabilities. The value is of QM9's geometry, not of the generated one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.domains.molecules import perception, qm9
from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Labels", "constitution"]

_STEREO = re.compile(r"/[btms]")
_MIRROR = re.compile(r"/m[01.]+")


def constitution(inchi: str) -> str:
    """A standard InChI up to its first layer of stereo marks."""
    return _STEREO.split(inchi, maxsplit=1)[0]


class Labels:
    """Values of QM9 by molecule.

    Args:
        folder: of QM9, with the wheel of qm9pack, which has the names.
    """

    def __init__(self, folder: Path) -> None:
        self.data = read("qm9", folder, "all")
        self.values = torch.stack([self.data.properties[name] for name in PROPERTIES], 1)
        place = {index: row for row, index in enumerate(self.data.index.tolist())}
        self.rows: dict[str, list[int]] = {}
        for name in qm9.names(folder):
            self.rows.setdefault(constitution(name.inchi), []).append(place[name.index])

    def __call__(self, mols: Sequence[Mol | None]) -> Tensor:
        """Properties (B, 6) of sanitised molecules with their stereo marks, in their order.

        NaN for None and for what QM9 lacks; of two entries of one molecule the first.
        """
        inchi = require("rdkit.Chem", "molecules").MolToInchi

        def name(mol: Mol) -> str:
            return _MIRROR.sub("", inchi(mol, options="/FixedH"))

        pools = [[] if m is None else self.rows.get(constitution(inchi(m)), []) for m in mols]
        rows = sorted({row for pool in pools for row in pool})
        near = self.data.take(torch.tensor(rows, dtype=torch.int64))
        named = perception.name(perception.perceive(near.positions, near.classes)) if rows else []
        there: dict[str, int] = {}
        for row, names in zip(rows, named, strict=True):
            if names.mol is not None:
                there.setdefault(name(names.mol), row)
        found = torch.full((len(mols), len(PROPERTIES)), torch.nan)
        for i, (mol, pool) in enumerate(zip(mols, pools, strict=True)):
            if mol is not None and pool and (own := there.get(name(mol))) is not None:
                found[i] = self.values[own]
        return found
