"""Fixtures of the molecular tests: small molecules that RDKit makes, and QM9 where it is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@pytest.fixture(scope="session")
def qm9_folder() -> str:
    """A folder that holds the compact QM9 file: CTRLGEN_QM9, or data/qm9 of the repository."""
    default = Path(__file__).parents[2] / "data" / "qm9"
    folder = Path(os.environ.get("CTRLGEN_QM9", default))
    if not (folder / "qm9.safetensors").is_file():
        pytest.skip(f"QM9 is not in {folder}; set CTRLGEN_QM9 to a folder that holds it")
    return str(folder)


@cache
def _embedded(smiles: str) -> Mol:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


@pytest.fixture(scope="session")
def molecule() -> Callable[[str], Mol]:
    """Builds `molecule(smiles)`: hydrogens as atoms, positions at a minimum of MMFF94."""

    def build(smiles: str) -> Mol:
        from rdkit import Chem

        return Chem.Mol(_embedded(smiles))

    return build
