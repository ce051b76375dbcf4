"""Metrics with every sample in every denominator."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ctrlgen.domains.molecules import data, metrics
from ctrlgen.domains.molecules.chemistry import place_hydrogens
from ctrlgen.domains.molecules.metrics import assess
from ctrlgen.domains.molecules.rdkit import arrays, mols, smiles, tensors

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SMILES = ["CCO", "CCO", "C#N", "NC=O", "C1CO1"]


@pytest.mark.parametrize("alphabet", ["qm9", "qm9-heavy"])
def test_rates_of_a_known_batch(molecule: Callable[[str], Mol], alphabet: str) -> None:
    """Of 8: five good with one twice, one in two pieces, one overfilled, one NaN."""
    given = [molecule(s) for s in [*SMILES, "CCC", "CCO", "CO"]]
    positions, classes, counts = tensors(given, alphabet)
    ends = [0, 3, 4, 5] if alphabet == "qm9" else [0]  # a methyl group, or its carbon
    positions[5, ends] += 30.0
    # ethanol's oxygen on its methyl carbon's side: within bonding distance of three atoms or more
    positions[6, 2] = (positions[6, 0] + positions[6, 1]) / 2
    positions[7, 0, 0] = float("nan")
    found = assess(positions, classes, alphabet, reference={"CCO"}, chunk=3)
    assert found.smiles[:5] == ["CCO", "CCO", "C#N", "NC=O", "C1CO1"]
    assert found.stable.tolist() == [True] * 5 + [False] * 3
    assert found.connected[:6].tolist() == [True] * 5 + [False]
    assert found.valid[:6].all() and found.smiles[5] == "CC" and not found.valid[7]
    assert found.unique.tolist()[:5] == [True, False, True, True, True]
    assert found.novel is not None
    assert found.novel.tolist()[:5] == [False, False, True, True, True]
    assert not found.finite[7] and found.mols[7] is None and found.stable_atoms[7] == 0
    assert not found.connected[7] and found.mols[6] is not None

    rates = found.summary()
    valid, distinct = int(found.valid.sum()), int(found.unique.sum())
    assert rates["samples"] == 8 and rates["atoms"] == int(counts.sum())
    assert rates["molecule_stable"] == 5 / 8 and rates["finite"] == 7 / 8
    assert rates["valid"] == valid / 8 and rates["valid_unique"] == distinct / 8
    assert rates["unique"] == distinct / valid
    assert rates["valid_unique_novel"] == (distinct - 1) / 8
    assert rates["novel"] == (distinct - 1) / distinct
    assert rates["atom_stable"] == int(found.stable_atoms.sum()) / int(counts.sum())


def test_nothing_valid_is_nan_not_a_crash() -> None:
    found = assess(torch.full((2, 3, 3), float("nan")), torch.tensor([[3, 0, 0], [1, 0, -1]]))
    rates = found.summary()
    assert rates["valid"] == rates["valid_unique"] == rates["atom_stable"] == 0.0
    assert math.isnan(rates["unique"]) and "novel" not in rates and rates["atoms"] == 5
    with pytest.raises(ValueError, match="chunk"):
        assess(torch.zeros(1, 3, 3), torch.tensor([[3, 0, 0]]), chunk=0)


def test_both_alphabets_write_one_smiles(molecule: Callable[[str], Mol]) -> None:
    given = [molecule(s) for s in ["CC(=O)O", "c1cc[nH]c1", "N#CC=O", "FC(F)F", "C1CC1O"]]
    texts = []
    for alphabet in ("qm9", "qm9-heavy"):
        positions, classes, _ = tensors(given, alphabet)
        texts.append([smiles(mol) for mol in mols(positions, classes, alphabet)])
    assert texts[0] == texts[1]
    assert texts[0][0] == "CC(=O)O" and texts[0][4] == "OC1CC1" and None not in texts[0]


def test_overfull_atoms_have_no_smiles_and_missing_ones_are_filled(
    molecule: Callable[[str], Mol],
) -> None:
    positions, classes, _ = tensors([molecule("CC"), molecule("CC")])
    classes[0, 7] = 4  # F in place of a hydrogen, at its distance: one bond, as before
    positions[1, 7] = 50.0  # one hydrogen gone: a radical that the rule fills
    first, second = mols(positions, classes)
    assert smiles(first) == "CCF"
    assert smiles(second) == "CC"
    assert any(atom.GetNumRadicalElectrons() for atom in second.GetAtoms())
    positions[0, 5:8] = positions[0, 2:5] + 0.01  # six hydrogens about one carbon
    assert smiles(mols(positions[:1], classes[:1])[0]) is None
    assert smiles(None) is None


def test_completed_molecules_keep_their_heavy_atoms(molecule: Callable[[str], Mol]) -> None:
    given = molecule("CC(=O)N")
    positions, classes, _ = tensors([given], "qm9-heavy")
    (whole,) = place_hydrogens(mols(positions, classes, "qm9-heavy"))
    assert whole is not None and whole.GetNumAtoms() == given.GetNumAtoms()
    numbers, places = arrays([whole, None], width=12)
    assert numbers[0].tolist()[:4] == [6, 6, 8, 7] and int((numbers[0] == 1).sum()) == 5
    assert torch.allclose(places[0, :4], positions[0, :4]) and not numbers[1].any()
    with pytest.raises(ValueError, match="width"):
        arrays([whole], width=3)


@pytest.mark.parametrize(
    ("text", "alphabet", "message"),
    [
        ("CCl", "qm9", "molecule 1: expected elements H, C, N, O, F, got Cl"),
        ("CCCCCCCCCC", "qm9", r"expected 3\.\.29 atoms.*got 32"),
        ("CCCCCCCCCC", "qm9-heavy", r"expected 1\.\.9 heavy atoms, got 10"),
    ],
)
def test_molecules_outside_qm9_are_refused(
    molecule: Callable[[str], Mol], text: str, alphabet: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tensors([molecule(text)], alphabet)


def test_a_skeleton_needs_its_hydrogens_in_the_full_alphabet(
    molecule: Callable[[str], Mol],
) -> None:
    from rdkit import Chem

    skeleton = Chem.RemoveHs(molecule("CCO"))
    with pytest.raises(ValueError, match="hydrogens as atoms"):
        tensors([skeleton])
    positions, classes, counts = tensors([skeleton], "qm9-heavy")
    expected = tensors([molecule("CCO")], "qm9-heavy")
    assert torch.equal(classes, expected[1]) and torch.allclose(positions, expected[0])
    assert counts.tolist() == [3]
    skeleton.RemoveAllConformers()
    with pytest.raises(ValueError, match="positions"):
        tensors([skeleton], "qm9-heavy")


def test_reference_is_made_once(
    tmp_path: Path, molecule: Callable[[str], Mol], monkeypatch: pytest.MonkeyPatch
) -> None:
    positions, classes, counts = tensors([molecule(s) for s in SMILES])
    made = data.Molecules(positions, classes, counts, {}, torch.arange(len(counts)))
    calls = []
    monkeypatch.setattr(metrics, "read", lambda *_: calls.append(1) or made)
    expected = {"CCO", "C#N", "NC=O", "C1CO1"}
    for _ in range(2):
        assert metrics.reference_smiles(tmp_path, "qm9", "valid") == expected
    assert calls == [1]
    with pytest.raises(ValueError, match="split"):
        metrics.reference_smiles(tmp_path, "qm9", "none")  # type: ignore[arg-type]


def test_the_recorded_ceiling() -> None:
    """Printed by `python -m ctrlgen.domains.molecules.metrics`, on QM9's test split."""
    file = Path(metrics.__file__).parent / "weights" / "quality" / "qm9-data.json"
    found = json.loads(file.read_text())
    assert found["split"] == "test" and found["qm9"]["samples"] == 13_083
    assert found["qm9"]["atom_stable"] == pytest.approx(0.993, abs=0.001)
    assert found["qm9-heavy"]["atom_stable"] == pytest.approx(0.987, abs=0.001)
    for alphabet in ("qm9", "qm9-heavy"):
        assert found[alphabet]["molecule_stable"] == pytest.approx(0.952, abs=0.002)
        assert found[alphabet]["valid"] == pytest.approx(0.977, abs=0.001)
