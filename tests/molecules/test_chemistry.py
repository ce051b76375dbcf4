"""Hydrogens, strain, checks and xTB by the helper process; its time limit and its crashes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctrlgen.domains.molecules import chemistry, chemistry_process, rdkit, subprocesses
from ctrlgen.domains.molecules.elements import classes_of
from ctrlgen.domains.molecules.perception import name
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError, packed, shared, unpacked

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def test_hydrogens_are_placed_near_the_minimum(molecule: Callable[[str], Mol]) -> None:
    given = [molecule(s) for s in ("CC(=O)O", "CC=O", "NC=O")]
    positions, classes, _ = rdkit.tensors(given, "qm9-heavy")
    skeletons = rdkit.mols(positions, classes, "qm9-heavy")
    placed = chemistry.place_hydrogens([*skeletons, None])
    assert placed[3] is None
    numbers, places = rdkit.arrays(placed[:3])
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


def test_relaxation_returns_to_the_minimum(molecule: Callable[[str], Mol]) -> None:
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


def test_what_the_force_field_does_not_know_is_an_answer(molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    overfull = Chem.RWMol(molecule("CC"))
    overfull.AddBond(0, 5, Chem.BondType.TRIPLE)
    (found,) = chemistry.relax([overfull.GetMol()])
    assert math.isnan(found.strain) and "valence" in found.error.lower()


def test_posebusters_finds_what_is_wrong(molecule: Callable[[str], Mol]) -> None:
    pytest.importorskip("posebusters")
    good, bad = molecule("CCO"), molecule("CCO")
    bad.GetConformer().SetAtomPosition(2, good.GetConformer().GetPositions().mean(0))
    first, second, nothing = chemistry.posebusters([good, bad, None])
    assert first.passed and len(first.checks) >= 10 and not first.error
    assert not second.passed and not second.checks["bond_lengths"] and second.checks["sanitization"]
    assert not nothing.passed and nothing.error == "no molecule"


def test_xtb_of_water_and_its_failures(molecule: Callable[[str], Mol]) -> None:
    pytest.importorskip("tblite.interface", reason="tblite has no build for this system")
    water, nothing = chemistry.xtb([molecule("O"), None])
    assert not water.error and 2.0 < water.mu_raw < 2.5 and water.gradient < 1.5
    assert water.gap == pytest.approx(water.lumo - water.homo) and water.homo < water.lumo
    assert 1.5 < water.mu < 2.5, "calibrated on QM9, where water has 1.85 D"
    assert math.isnan(nothing.mu) and nothing.error


@pytest.mark.parametrize(
    ("values", "passed"),
    [([True, math.nan], None), ([False, math.nan], False), ([True, None], None), ([True], True)],
)
def test_a_check_that_could_not_be_made_is_not_passed(
    molecule: Callable[[str], Mol],
    monkeypatch: pytest.MonkeyPatch,
    values: list[bool | float | None],
    passed: bool | None,
) -> None:
    """As PoseBusters' internal energy of a small cage, C1C2CC12, which is NaN."""
    pandas = pytest.importorskip("pandas")
    names = ["bond_lengths", "internal_energy"][: len(values)]

    class PoseBusters:
        def __init__(self, config: str) -> None:
            assert config == "mol"

        def bust(self, mols: list[Mol], *_: None) -> object:
            return pandas.DataFrame([values], columns=names)

    monkeypatch.setitem(sys.modules, "posebusters", SimpleNamespace(PoseBusters=PoseBusters))
    reply = chemistry_process.posebusters({"mol": packed(molecule("CO"))})
    json.dumps(reply, allow_nan=False)
    monkeypatch.setattr(chemistry, "require", lambda *_: None)
    monkeypatch.setattr(Helper, "ask", lambda *_, **__: reply)
    (told,) = chemistry.posebusters([molecule("CO")])
    assert told.passed is passed
    assert told.checks == {n: None if v != v else v for n, v in zip(names, values, strict=True)}


def test_positions_travel_in_double_precision(molecule: Callable[[str], Mol]) -> None:
    mol = molecule("CO")
    mol.GetConformer().SetAtomPosition(0, [0.123456789012345, 1e-9, -2.0])
    place = unpacked(packed(mol)).GetConformer().GetAtomPosition(0)
    assert (place.x, place.y, place.z) == (0.123456789012345, 1e-9, -2.0)
    script = subprocesses._SCRIPT.read_text()
    assert "CoordsAsDouble" in script
    # there and back through the helper, which moves nothing here
    (named,) = name([mol], stereo=False)
    assert named.mol is not None
    assert np.array_equal(
        named.mol.GetConformer().GetPositions(), mol.GetConformer().GetPositions()
    )


def test_one_helper_serves_all_calls(molecule: Callable[[str], Mol]) -> None:
    with shared(20.0) as helper:
        process = helper._process
    chemistry.relax([molecule("CO")])
    with shared(5.0) as again:
        assert again is helper and again.timeout == 5.0
        assert process is None or again._process is process


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
