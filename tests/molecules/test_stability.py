"""Atom and molecule stability in both alphabets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from ctrlgen.domains.molecules.elements import HEAVY
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.stability import stability

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SMILES = ["CCO", "C#N", "C=O", "NC=O", "FC(F)F", "C1CO1", "CC#C"]


@pytest.mark.parametrize("alphabet", ["qm9", "qm9-heavy"])
def test_real_molecules_are_stable(molecule: Callable[[str], Mol], alphabet: str) -> None:
    positions, classes, counts = tensors([molecule(s) for s in SMILES], alphabet)
    found = stability(positions, classes, alphabet)
    assert found.molecules.all() and found.connected.all() and found.finite.all()
    assert torch.equal(found.atoms, classes >= 0)
    assert torch.equal(found.atoms.sum(1), counts) and bool((found.fraction == 1).all())


def test_a_broken_bond_costs_its_two_atoms(molecule: Callable[[str], Mol]) -> None:
    positions, classes, counts = tensors([molecule("CCO")])
    positions[0, 8] += 3.0  # the hydrogen of the hydroxyl group
    found = stability(positions, classes)
    assert not found.molecules[0] and not found.connected[0]
    assert int(found.atoms.sum()) == int(counts) - 2 and not found.atoms[0, [2, 8]].any()
    assert float(found.fraction) == pytest.approx(7 / 9)


def test_fewer_and_more_hydrogens_than_the_valence_are_unstable() -> None:
    positions = torch.tensor([[[0.0, 0, 0], [1.5, 0, 0]]])
    stable = []
    for attached in range(5):
        classes = torch.tensor([[HEAVY.index(("C", 3)), HEAVY.index(("C", attached))]])
        stable.append(bool(stability(positions, classes, "qm9-heavy").molecules))
    assert stable == [False, False, False, True, False]


def test_nan_is_a_failure_also_of_atoms_that_need_no_bond() -> None:
    methane = torch.full((1, 9), -1)
    methane[0, 0] = HEAVY.index(("C", 4))
    positions = torch.zeros(1, 9, 3)
    assert stability(positions, methane, "qm9-heavy").molecules.all()
    positions[0, 0, 1] = float("nan")
    found = stability(positions, methane, "qm9-heavy")
    assert not found.molecules.any() and not found.atoms.any()
    assert not found.finite.any() and not found.connected.any()


def test_padding_its_positions_and_batch_mates_change_nothing(
    molecule: Callable[[str], Mol],
) -> None:
    positions, classes, counts = tensors([molecule(s) for s in SMILES])
    positions[1, 1] += 0.5
    together = stability(positions, classes)
    for row, n in enumerate(counts.tolist()):
        alone = stability(positions[row : row + 1, :n], classes[row : row + 1, :n])
        assert torch.equal(alone.atoms[0], together.atoms[row, :n])
        assert bool(alone.molecules[0]) == bool(together.molecules[row])
    garbage = positions.masked_fill((classes < 0).unsqueeze(2), float("nan"))
    wider = stability(F.pad(garbage, (0, 0, 0, 4)), F.pad(classes, (0, 4), value=-1))
    assert torch.equal(wider.atoms[:, :29], together.atoms)
    assert torch.equal(wider.molecules, together.molecules) and wider.finite.all()
    assert not together.molecules[1] and int(together.molecules.sum()) == len(SMILES) - 1


def test_an_empty_molecule_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1"):
        stability(torch.zeros(2, 3, 3), torch.tensor([[0, 0, -1], [-1, -1, -1]]))


@pytest.mark.parametrize(("alphabet", "atoms"), [("qm9", 0.9934), ("qm9-heavy", 0.9866)])
def test_real_qm9(qm9_folder: str, alphabet: str, atoms: float) -> None:
    from ctrlgen.domains.molecules.data import read

    data = read(alphabet, qm9_folder, "test")
    data = data.take(torch.arange(0, len(data), 8))
    found = stability(data.positions, data.classes, alphabet)
    assert float(found.atoms.sum() / data.counts.sum()) == pytest.approx(atoms, abs=0.003)
    assert float(found.molecules.float().mean()) == pytest.approx(0.952, abs=0.015)
