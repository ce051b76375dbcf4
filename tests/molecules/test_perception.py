"""The molecule that is named is the molecule that is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctrlgen.domains.molecules.data import attach
from ctrlgen.domains.molecules.elements import classes_of
from ctrlgen.domains.molecules.metrics import assess
from ctrlgen.domains.molecules.perception import Names, name, perceive
from ctrlgen.domains.molecules.rdkit import arrays
from ctrlgen.domains.molecules.scoring import score
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

pytest.importorskip("rdkit")

FIXTURE = Path(__file__).with_name("qm9_500.npz")
"""500 molecules of QM9, every one of its 130,831 as likely: positions rounded to 0.0001 A, its own
SMILES, and the InChIKeys of its own InChIs, which have no stereo marks."""


def real() -> tuple[torch.Tensor, torch.Tensor, list[str], list[str]]:
    """Positions (500, A, 3), atomic numbers (500, A), SMILES, InChIKeys."""
    with np.load(FIXTURE) as file:
        counts, flat = file["counts"].astype(int), file["positions"] / 1e4
        elements = file["numbers"]
        texts = [bytes(file[key]).decode().split("\n") for key in ("smiles", "inchikeys")]
    numbers = torch.zeros(len(counts), counts.max(), dtype=torch.long)
    positions = torch.zeros(len(counts), counts.max(), 3)
    start = 0
    for row, count in enumerate(counts):
        numbers[row, :count] = torch.from_numpy(elements[start : start + count].astype(int))
        positions[row, :count] = torch.from_numpy(flat[start : start + count]).float()
        start += count
    return positions, numbers, texts[0], texts[1]


def heavy_of(positions: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same molecules in the alphabet "qm9-heavy"."""
    attached = attach(numbers, positions)
    x = torch.zeros(len(numbers), 9, 3)
    z, h = torch.zeros(len(numbers), 9, dtype=torch.long), torch.zeros(len(numbers), 9).long()
    for row in range(len(numbers)):
        own = (numbers[row] > 1).nonzero().flatten()
        x[row, : len(own)] = positions[row, own]
        z[row, : len(own)], h[row, : len(own)] = numbers[row, own], attached[row, own]
    return x, classes_of(z, h)


def same(key: str | None, reference: str) -> bool:
    """Two InChIKeys but for the marks of stereo that positions have and QM9's InChIs lack."""
    return key is not None and key[:14] == reference[:14] and key[-1] == reference[-1]


@pytest.mark.parametrize("alphabet", ["qm9", "qm9-heavy"])
def test_real_molecules_have_their_own_inchikey(alphabet: str) -> None:
    positions, numbers, _, keys = real()
    if alphabet == "qm9-heavy":  # the same perception, in half the time
        positions, numbers, keys = positions[:100], numbers[:100], keys[:100]
    classes = classes_of(numbers)
    if alphabet == "qm9-heavy":
        positions, classes = heavy_of(positions, numbers)
    names = name(perceive(positions, classes, alphabet))
    right = [same(own.inchikey, key) for own, key in zip(names, keys, strict=True)]
    assert len(right) == len(keys) and sum(right) >= 0.99 * len(right), sum(right)
    assert sum(own.valid for own in names) >= 0.99 * len(right)
    if alphabet == "qm9":  # with EDM's table one in forty of the same molecules is not even valid
        assert int(assess(positions, classes, alphabet).valid.sum()) < 0.99 * len(right)


BY_HAND = {
    "benzene": ("c1ccccc1", "UHOVQNZJYSORNB-UHFFFAOYSA-N"),
    "pyridine": ("c1ccncc1", "JUJWROOIHBZHMG-UHFFFAOYSA-N"),
    "aspirin": ("CC(=O)Oc1ccccc1C(=O)O", "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"),
    "caffeine": ("Cn1c(=O)c2c(ncn2C)n(C)c1=O", "RYYVLZVUVIJVGH-UHFFFAOYSA-N"),
    "CO2": ("O=C=O", "CURLTUGMZLYLDI-UHFFFAOYSA-N"),
    "ethyl radical": ("[CH2]C", "QUPDWYMUPZLYJZ-UHFFFAOYSA-N"),
    "glycine zwitterion": ("[NH3+]CC(=O)[O-]", "DHMQDGOQFOQNFH-UHFFFAOYSA-N"),
    "methylammonium": ("C[NH3+]", "BAVYZALUXZFZLV-UHFFFAOYSA-O"),
}


@pytest.mark.parametrize("label", BY_HAND)
@pytest.mark.parametrize("alphabet", ["qm9", "qm9-heavy"])
def test_by_hand(molecule: Callable[[str], Mol], label: str, alphabet: str) -> None:
    from rdkit import Chem

    text, key = BY_HAND[label]
    numbers, positions = arrays([molecule(text)])
    classes = classes_of(numbers)
    if alphabet == "qm9-heavy":
        if int((numbers > 1).sum()) > 9 or label in ("methylammonium", "glycine zwitterion"):
            pytest.skip("more than nine heavy atoms, or NH3+, which is no class")
        positions, classes = heavy_of(positions, numbers)
    (own,) = name(perceive(positions, classes, alphabet))
    assert own.smiles == Chem.CanonSmiles(text) and own.inchikey == key
    assert own.valid == (label not in ("ethyl radical", "methylammonium"))
    if label == "ethyl radical":
        assert own.radicals == 1 and own.reason == "a radical" and own.charge == 0
    if label == "methylammonium":
        assert own.charge == 1 and own.reason == "charge +1" and own.formula == "CH6N+"
    if label == "glycine zwitterion":
        assert own.charge == 0 and own.charged == 2


def count(formula: str) -> dict[str, int]:
    """Atoms by element of a formula; a charge at its end is left out."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    table: dict[str, int] = {}
    for symbol, number in parts:
        table[symbol] = table.get(symbol, 0) + int(number or 1)
    return table


def assert_agreement(names: list[Names], mols: list[Any], formulas: list[str | None]) -> int:
    """SMILES, InChI, formula and structure have the same atoms; how many have a name."""
    from rdkit import Chem
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    named = 0
    for own, mol, formula in zip(names, mols, formulas, strict=True):
        if own.smiles is None:
            assert own.reason and own.inchikey is None
            continue
        named += 1
        written = Chem.MolFromSmiles(own.smiles)
        assert count(CalcMolFormula(written)) == count(formula or ""), own
        there: dict[str, int] = {}
        for atom in mol.GetAtoms():
            there[atom.GetSymbol()] = there.get(atom.GetSymbol(), 0) + 1
        assert there == count(own.formula or "")
        assert own.smiles.count(".") == own.pieces - 1
        inchi = Chem.MolToInchi(mol)
        if not own.charged and not own.radicals and own.pieces == 1:
            assert count(inchi.split("/")[1]) == there
        assert Chem.InchiToInchiKey(inchi) == own.inchikey
        again = Chem.MolFromSmiles(own.smiles)
        if not own.radicals and own.valid:
            assert Chem.MolToInchiKey(again)[:14] == own.inchikey[:14]
    return named


@pytest.mark.parametrize("alphabet", ["qm9", "qm9-heavy"])
def test_names_and_structure_agree_in_whatever_is_generated(alphabet: str) -> None:
    """Real molecules shaken until many break: radicals, ions, pieces, overfull atoms."""
    positions, numbers, _, _ = real()
    positions, numbers = positions[:120], numbers[:120]
    classes = classes_of(numbers)
    if alphabet == "qm9-heavy":
        positions, classes = heavy_of(positions, numbers)
    draw = torch.Generator().manual_seed(3)
    width = torch.linspace(0, 0.5, len(positions))[:, None, None]
    shaken = positions + width * torch.randn(positions.shape, generator=draw)
    shaken[7, 0] += 20.0  # an atom far away: pieces
    scores = score(join(shaken, classes, 5 if alphabet == "qm9" else 14), alphabet)
    named = assert_agreement(scores.names, scores.mols, scores.formulas)
    assert 20 < named < 120
    told = {own.reason for own in scores.names}
    assert any("pieces" in reason for reason in told)
    assert any("radical" in reason or "open" in reason for reason in told)
    assert scores.names[7].smiles is None or "." in scores.names[7].smiles
    for flags in scores.novel.values():
        assert [flag is None for flag in flags] == [n.inchikey is None for n in scores.names]


def test_hydrogens_are_never_lost() -> None:
    """A methyl radical's carbon at the distance of C=O: more bonds than carbon has."""
    from rdkit import Chem

    x = torch.tensor(
        [[[0.0, 0, 0], [1.2, 0, 0], [0, 0, 0]], [[0.0, 0, 0], [1.4, 0, 0], [0.7, 1, 0]]]
    )
    classes = torch.tensor([[3, 9, -1], [3, 3, 3]])  # CH3, O; and three CH3 in a ring
    signal = join(x, classes, 14)
    scores = score(signal, "qm9-heavy")
    assert scores.mols[0] is not None
    for mol in scores.mols:
        assert mol is not None
        places = mol.GetConformer().GetPositions()
        for atom in mol.GetAtoms():
            if atom.GetAtomicNum() == 1:
                (parent,) = [n.GetIdx() for n in atom.GetNeighbors()]
                gap = np.linalg.norm(places[atom.GetIdx()] - places[parent])
                assert 0.7 < gap < 1.3, Chem.MolToSmiles(mol)
        free = places[[a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 1]]
        gaps = np.linalg.norm(free[:, None] - free[None], axis=2) + 9 * np.eye(len(free))
        assert gaps.min() > 0.5
    assert scores.names[0].smiles == "C[O]" and scores.names[0].reason == "a radical"
    assert scores.names[1].smiles is None and "valences" in scores.names[1].reason


def test_a_bond_table_is_kept(molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    given = molecule("C[C@H](O)F")
    bent = Chem.Mol(given)
    spot = bent.GetConformer()
    spot.SetAtomPosition(0, np.array(spot.GetAtomPosition(0)) * 1.4)  # no bond by any table
    (own,) = name([bent], stereo=False)
    assert own.smiles == "C[C@H](O)F" and own.valid
    heavy = Chem.MolFromSmiles("[2H]OC([2H])([2H])[2H]")
    (own,) = name([heavy], stereo=False)
    assert own.smiles == Chem.CanonSmiles("[2H]OC([2H])([2H])[2H]")


def test_a_charge_that_is_said_is_kept(molecule: Callable[[str], Mol]) -> None:
    numbers, positions = arrays([molecule("CC(=O)[O-]")])
    classes = classes_of(numbers)
    radical, ion = (
        name(perceive(positions, classes, charges=[charge]))[0] for charge in (None, -1)
    )
    assert radical.smiles == "CC([O])=O" and not radical.valid
    assert ion.smiles == "CC(=O)[O-]" and ion.charge == -1


def test_no_answer_in_time_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, numbers, _, _ = real()
    x, classes = positions[100:101], classes_of(numbers[100:101])

    def late(*_: Any, **__: Any) -> Any:
        raise HelperError("bonds", "no answer within 20 s")

    monkeypatch.setattr(Helper, "ask", late)
    assert perceive(x, classes) == [None]
    scores = score(join(x, classes, 5), "qm9")
    assert scores.names[0].smiles is None and scores.names[0].reason
    assert scores.mols[0] is not None and scores.formulas[0] and not scores.valid[0]
    assert name([None])[0].reason == "no molecule"
