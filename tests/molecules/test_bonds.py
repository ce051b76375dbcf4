"""Bond orders by the distance table, and the pieces that they leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules.bonds import LENGTHS, MARGINS, bond_orders, components, thresholds
from ctrlgen.domains.molecules.elements import ALL_ATOM, HEAVY, NUMBERS


def pair(first: str, second: str, pm: float) -> int:
    """Order of one pair at a distance in pm."""
    classes = torch.tensor([[ALL_ATOM.index(first), ALL_ATOM.index(second)]])
    positions = torch.tensor([[[0.3, -0.2, 0.1], [0.3, -0.2, 0.1 + pm / 100]]])
    orders = bond_orders(positions, classes)
    assert torch.equal(orders, orders.mT) and int(orders[0, 0, 0]) == int(orders[0, 1, 1]) == 0
    return int(orders[0, 0, 1])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_threshold_lies_within_a_tenth_of_a_picometre(order: int) -> None:
    for symbols, length in LENGTHS[order - 1].items():
        first, second = symbols
        limit = length + MARGINS[order - 1]
        assert pair(first, second, limit - 0.1) == pair(second, first, limit - 0.1) == order
        assert pair(first, second, limit + 0.1) == order - 1


def test_the_margin_is_strict() -> None:
    classes = torch.tensor([[1, 1]])  # C-C in float64, 154 + 10 pm
    positions = torch.zeros(1, 2, 3, dtype=torch.float64)
    positions[0, 1, 0] = float(thresholds()[0, 6, 6])
    assert int(bond_orders(positions, classes)[0, 0, 1]) == 0
    positions[0, 1, 0] -= 1e-9
    assert int(bond_orders(positions, classes)[0, 0, 1]) == 1


def test_every_pair_of_elements_has_a_single_bond_and_orders_nest() -> None:
    table = thresholds()
    for first in NUMBERS.values():
        for second in NUMBERS.values():
            one, two, three = table[:, first, second].tolist()
            assert one > 0.8 and two < one and (three < two or three == -1)
    assert bool((table[:, 0] == -1).all())
    assert len(LENGTHS[0]) == 15 and pair("C", "F", 100) == 1 and pair("H", "H", 1) == 1


def test_padding_and_nan_have_no_bonds() -> None:
    positions = torch.tensor([[[0.0, 0, 0], [1.2, 0, 0], [0.1, 0, 0]]])
    classes = torch.tensor([[1, 3, -1]])
    assert bond_orders(positions, classes).tolist() == [[[0, 2, 0], [2, 0, 0], [0, 0, 0]]]
    positions[0, 1] = float("nan")
    assert not bond_orders(positions, classes).any()


def test_heavy_classes_use_their_elements() -> None:
    classes = torch.tensor([[HEAVY.index(("C", 3)), HEAVY.index(("N", 2))]])
    positions = torch.tensor([[[0.0, 0, 0], [1.47, 0, 0]]])
    assert int(bond_orders(positions, classes, "qm9-heavy")[0, 0, 1]) == 1
    positions[0, 1, 0] = 1.58  # longer than C-N 147 + 10, shorter than C-C 154 + 10
    assert int(bond_orders(positions, classes, "qm9-heavy")[0, 0, 1]) == 0


@pytest.mark.parametrize(
    ("positions", "classes", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), "expected"),
        (torch.zeros(1, 3, 3), torch.zeros(1, 2).long(), "expected"),
        (torch.zeros(1, 2, 3), torch.tensor([[0, 5]]), r"-1\.\.4"),
        (torch.zeros(1, 2, 3), torch.tensor([[0, -2]]), r"-1\.\.4"),
    ],
)
def test_bad_input(positions: Tensor, classes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bond_orders(positions, classes)


def test_components() -> None:
    def count(edges: list[tuple[int, int]], present: int, size: int = 29) -> int:
        orders = torch.zeros(1, size, size, dtype=torch.long)
        for i, j in edges:
            orders[0, i, j] = orders[0, j, i] = 1
        mask = (torch.arange(size) < present).unsqueeze(0)
        return int(components(orders, mask)[0])

    chain = [(i, i + 1) for i in range(28)]
    assert count(chain, 29) == 1  # the longest path that there can be
    assert count(chain[:14] + chain[15:], 29) == 2
    assert count([], 4) == 4 and count([(0, 3), (1, 2)], 5) == 3
    assert count([(2, 0), (1, 2)], 3) == 1 and count([], 0) == 0
    assert count([], 1, size=1) == 1
