"""Hydrogens, strain, checks and xTB by the helper process; its time limit and its crashes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctrlgen.domains.molecules import chemistry, graphs, subprocesses
from ctrlgen.domains.molecules.elements import classes_of
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    with Helper() as helper:
        yield helper


@pytest.fixture
def shared(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """One helper process for the tests: starting one takes a second."""

    class Shared:
        def __init__(self, timeout: float) -> None:
            self.timeout = timeout

        def __enter__(self) -> Helper:
            return helper

        def __exit__(self, *details: object) -> None:
            pass

    monkeypatch.setattr(chemistry, "Helper", Shared)
    return helper


def test_hydrogens_are_placed_near_the_minimum(
    shared: Helper, molecule: Callable[[str], Mol]
) -> None:
    given = [molecule(s) for s in ("CC(=O)O", "CC=O", "NC=O")]
    positions, classes, _ = graphs.tensors(given, "qm9-heavy")
    skeletons = graphs.mols(positions, classes, "qm9-heavy")
    placed = chemistry.place_hydrogens([*skeletons, None])
    assert placed[3] is None
    numbers, places = graphs.arrays(placed[:3])
    assert stability(places, classes_of(numbers)).molecules.all()
    for row, (mol, whole) in enumerate(zip(given, placed[:3], strict=True)):
        assert whole is not None and whole.GetNumAtoms() == mol.GetNumAtoms()
        n = int((numbers[row] > 1).sum())
        assert torch.allclose(places[row, :n], positions[row, :n], atol=1e-4)
        centre = mol.GetConformer().GetPositions()[:n].mean(0)
        real = torch.tensor(mol.GetConformer().GetPositions()[n:] - centre).float()
        h = places[row, n : whole.GetNumAtoms()]
        gap = torch.cdist(real, h).min(dim=1).values
        assert float(gap.median()) < 0.1, mol


def test_relaxation_returns_to_the_minimum(shared: Helper, molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    still = molecule("CCO")
    bent = Chem.Mol(still)
    bent.GetConformer().SetAtomPosition(
        2, still.GetConformer().GetPositions()[2] + np.array([0.1, 0.1, 0])
    )
    rest, strained, nothing = chemistry.relax([still, bent, None])
    assert rest.converged and 0 <= rest.strain < 0.1 and rest.rmsd < 0.1 and not rest.error
    assert strained.strain > rest.strain + 2 and strained.rmsd > rest.rmsd
    assert strained.mol is not None and strained.mol.GetNumAtoms() == 9
    assert math.isnan(nothing.strain) and nothing.error == "no molecule" and nothing.mol is None
    with pytest.raises(ValueError, match="steps"):
        chemistry.relax([still], steps=0)


def test_what_the_force_field_does_not_know_is_an_answer(
    shared: Helper, molecule: Callable[[str], Mol]
) -> None:
    from rdkit import Chem

    overfull = Chem.RWMol(molecule("CC"))
    overfull.AddBond(0, 5, Chem.BondType.TRIPLE)
    (found,) = chemistry.relax([overfull.GetMol()])
    assert math.isnan(found.strain) and "valence" in found.error.lower()


def test_posebusters_finds_what_is_wrong(shared: Helper, molecule: Callable[[str], Mol]) -> None:
    pytest.importorskip("posebusters")
    good, bad = molecule("CCO"), molecule("CCO")
    bad.GetConformer().SetAtomPosition(2, good.GetConformer().GetPositions().mean(0))
    first, second, nothing = chemistry.posebusters([good, bad, None])
    assert first.passed and len(first.checks) >= 10 and not first.error
    assert not second.passed and not second.checks["bond_lengths"] and second.checks["sanitization"]
    assert not nothing.passed and nothing.error == "no molecule"


def test_xtb_of_water_and_its_failures(shared: Helper, molecule: Callable[[str], Mol]) -> None:
    pytest.importorskip("tblite.interface", reason="tblite has no build for this system")
    water, nothing = chemistry.xtb([molecule("O"), None])
    assert not water.error and 2.0 < water.mu_raw < 2.5 and water.gradient < 1.5
    assert water.gap == pytest.approx(water.lumo - water.homo) and water.homo < water.lumo
    assert 1.5 < water.mu < 2.5, "calibrated on QM9, where water has 1.85 D"
    assert math.isnan(nothing.mu) and nothing.error


def test_bonds_from_positions_alone(shared: Helper, molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    mol = molecule("CC(=O)N")
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    found = chemistry.determine_bonds(numbers, mol.GetConformer().GetPositions())
    assert Chem.MolToSmiles(Chem.RemoveHs(found)) == "CC(N)=O"
    with pytest.raises(HelperError, match="bonds"):
        chemistry.determine_bonds([6, 8, 1], np.eye(3), charge=7)


def test_a_late_answer_ends_the_process_and_the_next_one_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    task = json.loads(line)['task']\n"
        "    if task == 'sleep': time.sleep(60)\n"
        "    if task == 'crash': os._exit(3)\n"
        "    if task == 'fail': print(json.dumps({'error': 'ValueError: no'}), flush=True)\n"
        "    else: print(json.dumps({'pid': os.getpid()}), flush=True)\n"
    )
    monkeypatch.setattr(subprocesses, "_SCRIPT", script)
    with Helper(timeout=2.0) as helper:
        first = helper.ask("hello")["pid"]
        assert helper.ask("hello")["pid"] == first
        with pytest.raises(HelperError, match="fail: ValueError: no"):
            helper.ask("fail")
        assert helper.ask("hello")["pid"] == first
        with pytest.raises(HelperError, match="the process crashed"):
            helper.ask("crash")
        second = helper.ask("hello")["pid"]
        assert second != first
        helper.timeout = 0.2
        with pytest.raises(HelperError, match=r"no answer within 0\.2 s"):
            helper.ask("sleep")
        helper.timeout = 20.0
        assert helper.ask("hello")["pid"] not in (first, second)
    with pytest.raises(ValueError, match="timeout"):
        Helper(timeout=0)
