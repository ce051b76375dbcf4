"""Bond orders that fit the valences: rings with sulphur and nitrogen, broken ones, optimality."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctrlgen.domains.molecules import kekule
from ctrlgen.domains.molecules.bonds import lengths
from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.composition import element_table
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.elements import ALPHABETS, DRUG, HEAVY, alphabet
from ctrlgen.domains.molecules.metrics import assess
from ctrlgen.domains.molecules.molecule_batches import alphabet_of, qm9_of
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.perception import name, perceive
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.requirements import parse_atoms
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior

if TYPE_CHECKING:
    from rdkit.Chem import Mol

HARD = [
    "CCCSc1nc(=O)n(Cc2ccco2)c2c1CCC2",
    "CC1CCc2c(sc3ncn(-n4cccc4)c(=O)c23)C1",
    "CC(C)(C)C(NS(C)(=O)=O)C(=O)NCc1csc(=O)[nH]1",
    "CCc1nnsc1C(=O)NCCNC(=O)C(C)C",
    "CNc1snc(C)c1C(=O)N1CCN(C(=O)C2CCCO2)CC1",
    "CCCS(=O)c1ccc2[nH]c(=NC(=O)OC)[nH]c2c1",
    "O=S(=O)(NCC#N)c1ccc(Br)s1",
    "Cc1nonc1NC(=O)c1cc(Cl)cnc1F",
]
"""Neutral molecules of MOSES; RDKit's search writes the first five as zwitterions."""


@pytest.fixture(scope="module")
def hard(molecule: Callable[[str], Mol]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tensors([molecule(text) for text in HARD], "moses-heavy")


Skeletons = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def test_alphabets_differ_in_their_numbers_of_classes() -> None:
    sizes = [len(alphabet(key)) for key in ("qm9", "qm9-heavy", "moses-heavy")]
    assert sizes == [5, 14, 13] and set(DRUG) - set(HEAVY) == {("S", 0), ("Cl", 0), ("Br", 0)}


def test_what_holds_of_an_alphabet_is_read_from_its_description(
    hard: Skeletons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another alphabet of the same classes is treated alike, whatever its name."""
    monkeypatch.setitem(ALPHABETS, "other", ALPHABETS["moses-heavy"])
    positions, classes, counts = (part[:3] for part in hard)
    signals = join(positions, classes, len(DRUG))
    own, other = (Columns(key)(signals) for key in ("moses-heavy", "other"))
    assert own == other and all(row["stable"] and row["valid"] for row in other)
    assert parse_atoms(None, "other") == range(8, 28) and int(counts.max()) <= 27


def test_hard_rings_are_themselves(hard: Skeletons) -> None:
    from rdkit import Chem

    positions, classes, counts = hard
    names = name(perceive(positions, classes, "moses-heavy"), stereo=False)
    assert [own.smiles for own in names] == [Chem.CanonSmiles(text) for text in HARD]
    assert not any(own.charged or own.radicals or own.reason for own in names)
    told = stability(positions, classes, "moses-heavy")
    assert bool(told.molecules.all() & told.connected.all())
    assert told.atoms.sum(1).tolist() == counts.tolist()
    assert assess(positions[:2], classes[:2], "moses-heavy").summary()["valid_connected"] == 1
    alone = [
        kekule.fitting_orders(x[None], c[None], "moses-heavy")
        for x, c in zip(positions[:3], classes[:3], strict=True)
    ]
    assert torch.equal(torch.cat([orders for orders, _ in alone]), told.orders[:3])


def test_what_is_broken_is_open_and_says_where(hard: Skeletons) -> None:
    positions, classes, counts = (part.clone() for part in hard)
    positions[5, 0] += 20  # a methyl group far away
    positions[6, 1] = torch.nan
    told = stability(positions, classes, "moses-heavy")
    assert told.molecules.tolist() == [True] * 5 + [False, False, True]
    assert not told.connected[5] and not told.finite[6] and not told.atoms[6].any()
    # The lone methyl group and the carbon that it left; all others can still be satisfied.
    assert int(told.atoms[5].sum()) == int(counts[5]) - 2 and not told.atoms[5, 0]
    (lost,) = perceive(positions[6:7], classes[6:7], "moses-heavy")
    assert lost is None


@pytest.mark.parametrize(("neighbours", "rest"), [(1, 1), (2, 0), (3, 1), (4, 0), (6, 0), (7, -1)])
def test_sulphur_has_two_four_or_six_bonds(neighbours: int, rest: int) -> None:
    """Fluorines about it: single bonds alone, so that only its own valence can give."""
    around = np.eye(3)[[0, 0, 1, 1, 2, 2, 0]] * np.array([1, -1, 1, -1, 1, -1, 0.99])[:, None]
    around[6] = (0.6, 0.6, 0.5)
    where = np.concatenate((np.zeros((1, 3)), 1.58 * around[:neighbours]))
    numbers = np.array([16] + [9] * neighbours)
    if neighbours == 7:  # fluorines that touch count for nothing here
        where[7] *= 1.05
    orders, open_ = kekule.solve(numbers, np.zeros(len(numbers), np.int64), where)
    assert int(open_[0]) == rest and int(orders[0].sum()) == neighbours


def price(case: tuple[np.ndarray, ...], pairs: list[tuple[int, int]], orders: np.ndarray) -> float:
    """The module's objective, the least over sulphur's valences; infinite where it cannot be."""
    numbers, attached, where = case
    best, typical = np.inf, lengths().numpy()
    for k in range(3):
        valence = np.array([{6: 4, 7: 3, 8: 2, 16: 2 + 2 * k}[n] for n in numbers.tolist()])
        taken = [sum(o for p, o in zip(pairs, orders, strict=True) if a in p) for a in range(5)]
        rest = valence - attached - taken
        total = 100.0 * k + 1e5 * rest.sum()
        for (i, j), order in zip(pairs, orders, strict=True):
            ideal = typical[:, numbers[i], numbers[j]]
            length = 100 * np.linalg.norm(where[i] - where[j])
            total += (length - ideal[order - 1]) ** 2 - (length - ideal[0]) ** 2
        if (rest >= 0).all() and total < best:  # a NaN, for a bond that is none, is never less
            best = total
    return float(best)


def test_orders_are_the_best_of_all() -> None:
    """Against every choice of orders and valences of five atoms in a ring."""
    draw = np.random.default_rng(0)
    ring = np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(5) * 2 * np.pi / 5])
    numbers = np.array([6, 6, 7, 16, 6])
    where = 1.25 * ring + draw.normal(size=(5, 3)) * 0.05
    attached = np.array([numbers[0] == 6, 0, 0, 0, 0]).astype(np.int64)
    got, rest = kekule.solve(numbers, attached, where)
    pairs = [(int(i), int(j)) for i, j in np.argwhere(np.triu(got))]
    options = [np.array(o) for o in itertools.product((1, 2, 3), repeat=len(pairs))]
    prices = [price((numbers, attached, where), pairs, option) for option in options]
    assert [got[pair] for pair in pairs] == options[int(np.argmin(prices))].tolist()
    assert rest.sum() == min(prices) // 1e5 + (min(prices) % 1e5 > 5e4)


def test_what_is_of_qm9_alone_refuses_the_alphabet() -> None:
    network = build("geot", classes=13, scale=0.2, frequencies=[1 / 13] * 13, width=8, depth=1)
    drug_like = Prior(Flow(network, CondOT(), "velocity"), Atoms(27, 3 + len(DRUG)), AtomCodec())
    with pytest.raises(ValueError, match="prior: expected one of QM9's molecules, got the drug"):
        qm9_of(drug_like)
    assert alphabet_of(drug_like) == "moses-heavy"
    for refusing in (ValenceCost, element_table):
        with pytest.raises(ValueError, match="name: expected an alphabet of QM9"):
            refusing("moses-heavy")
