"""Fixtures of the molecular tests: small molecules that RDKit makes, and QM9 where it is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctrlgen.commands.console import screen, stdout
from ctrlgen.commands.main import main

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from tiny_molecules import Cards, Command, Outcome

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny_molecules`


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


@pytest.fixture
def ctrlgen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """`ctrlgen("generate", ...)`, or "resume", in this process and in an empty folder."""
    from tiny_molecules import Outcome

    monkeypatch.chdir(tmp_path)
    for console in (stdout, screen):
        monkeypatch.setattr(console, "width", 160)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            domain = [] if words[0] == "resume" else ["molecule"]
            main([*domain, *(str(word) for word in words)])
        captured = capsys.readouterr()
        code = stop.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Cards:
    from tiny_molecules import Cards, save_prior, save_regressor

    folder = tmp_path_factory.mktemp("cards")
    return Cards(
        save_prior(folder, 14, 9),
        save_regressor(folder, "guide", 14, 1),
        save_regressor(folder, "evaluator", 5, 2),
        save_prior(folder, 5, 29),
    )
