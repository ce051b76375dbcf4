"""Fronts: dominance by hand, hypervolumes in closed form and by counting, directions, kinks."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.costs import ChebyshevCost
from ctrlgen.costs.chebyshev import scalarised
from ctrlgen.costs.pareto import directions, hypervolume, nondominated, ranks, weights_of

NAN = math.nan


def test_what_nothing_dominates_is_the_front() -> None:
    values = torch.tensor([[0, 3], [1, 1], [1, 1], [2, 1], [3, 0], [3, 3], [NAN, -9], [1, 2]])
    assert nondominated(values).tolist() == [True, True, True, False, True, False, False, False]
    assert ranks(values).tolist() == [1, 1, 1, 2, 1, 3, 0, 2]
    many = torch.randn(
        600, 2, generator=torch.Generator().manual_seed(0)
    )  # more than are compared at once
    slow = [not any(bool((b <= a).all() and (b < a).any()) for b in many) for a in many[:20]]
    assert nondominated(many)[:20].tolist() == slow


def test_hypervolumes_in_closed_form() -> None:
    two = torch.tensor([[1.0, 3], [2, 2], [3, 1], [3, 3], [5, 0], [NAN, 0], [0, -math.inf]])
    assert hypervolume(two, torch.tensor([4.0, 4.0])) == 1 * 3 + 1 * 2 + 1 * 1
    assert hypervolume(two[:0], torch.tensor([4.0, 4.0])) == 0
    # two boxes that share a corner: inclusion and exclusion
    three = torch.tensor([[0.0, 1, 2], [1, 0, 0]])
    assert hypervolume(three, torch.full((3,), 4.0)) == 4 * 3 * 2 + 3 * 4 * 4 - 3 * 3 * 2
    assert hypervolume(torch.tensor([[0.5]]), torch.tensor([2.0])) == 1.5
    with pytest.raises(ValueError, match="reference: expected 3 finite numbers"):
        hypervolume(three, torch.tensor([4.0, 4.0]))


@pytest.mark.parametrize("costs", [2, 3, 4])
def test_the_hypervolume_is_the_share_of_points_that_are_dominated(costs: int) -> None:
    draw = torch.Generator().manual_seed(costs)
    values = torch.rand(24, costs, generator=draw)
    thrown = torch.rand(40_000, costs, generator=draw)
    share = float((values[:, None] <= thrown).all(2).any(0).double().mean())
    error = math.sqrt(share * (1 - share) / len(thrown))
    assert abs(hypervolume(values, torch.ones(costs)) - share) < 4 * error


def test_directions_are_even_and_reach_the_corners() -> None:
    assert directions(2, 5)[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(directions(3, 1), torch.full((1, 3), 1 / 3, dtype=torch.float64))
    whole = directions(3, 10)  # the lattice of three steps, all of it
    assert torch.equal(whole * 3, (whole * 3).round()) and len(whole.unique(dim=0)) == 10
    for number in (2, 3, 8, 20):
        some = directions(3, number)
        assert len(some.unique(dim=0)) == number and (some.max(1).values == 1).sum() == min(
            3, number
        )
        assert torch.allclose(some.sum(1), torch.ones(number).double())
        apart = torch.cdist(some, some) + 9 * torch.eye(number)
        assert apart.min() > 0.9 / math.sqrt(number)
    own = weights_of(directions(2, 3))
    assert torch.allclose(own[1], torch.tensor([0.5, 0.5]).double())
    assert torch.allclose(own[0] * torch.tensor([0.02, 1.0]), own.new_tensor(0.02 / 1.02).expand(2))


def test_every_row_descends_to_its_own_part_of_a_front_that_is_not_convex() -> None:
    """On c_1² + c_2² = 1, seen from 0, a weighted sum has its minima at the ends alone."""
    angle = torch.linspace(0, math.pi / 2, 2001).double()
    aim = directions(2, 7)[1:-1]
    weights = weights_of(aim)
    values = torch.stack((angle.sin(), angle.cos()), 1)
    best = scalarised(values, weights[:, None], torch.zeros(2)).argmin(1)
    along = values[best] / values[best].sum(1, keepdim=True)
    assert torch.allclose(along, aim, atol=2e-3)
    # the cost of each row is that of the table; a smooth maximum lies above by at most its share
    cost = ChebyshevCost([lambda x: x.sin(), lambda x: x.cos()], weights)
    assert torch.allclose(cost(angle[best]), scalarised(values[best], weights, torch.zeros(2)))
    smooth = ChebyshevCost([lambda x: x.sin(), lambda x: x.cos()], weights, smoothing=0.1)
    above = smooth(angle[best]) - cost(angle[best])
    assert (above > 0).all() and (above <= 0.1 * math.log(2) + 1e-12).all()


def test_beyond_the_reference_the_cost_is_negative() -> None:
    cost = ChebyshevCost([lambda x: x, lambda x: 2 * x], [1.0, 1.0], [1.0, 3.0], rho=0.1)
    x = torch.tensor([0.0, 2.0])
    assert torch.allclose(cost(x), torch.tensor([-1 + 0.1 * -4, 1 + 0.1 * 2]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([lambda x: x], [1.0]), "costs: expected at least 2, got 1"),
        (([lambda x: x] * 2, [1.0, -1.0]), "weights: expected numbers >= 0"),
        (([lambda x: x] * 2, [0.0, 0.0]), "weights: expected numbers >= 0, not all zero"),
        (([lambda x: x] * 2, [1.0, 1.0, 1.0]), "weights: expected 2 finite numbers"),
        (([lambda x: x] * 2, [1.0, 1.0], [NAN, 0.0]), "reference: expected 2 finite"),
    ],
)
def test_what_is_no_scalarisation_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChebyshevCost(*arguments)
