"""Costs of properties, composition and geometry against closed forms; each row by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import BlackBoxCost, Cost, PropertyCost, best_of
from ctrlgen.domains.molecules.composition import (
    CompositionCost,
    element_table,
    parse_formula,
    parse_limit,
)
from ctrlgen.domains.molecules.costs import (
    FragmentCost,
    SimilarityCost,
    ValenceCost,
    allowed_classes,
)
from ctrlgen.domains.molecules.elements import HEAVY
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.rows.seeds import normal

SEEDS = [5, 1, 8]


def linear(x: Tensor) -> Tensor:
    """Two properties: the sum and the first entry."""
    return torch.stack((x.sum(1), x[:, 0]), dim=1)


def molecules(kinds: int = 14, places: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    """Three molecules of 6, 4 and 5 atoms with classes close to one-hot, shape (3, 6, 3 + K)."""
    positions = 1.5 * normal(SEEDS, (places, 3), 1, dtype=dtype)
    classes = normal(SEEDS, (places,), 2, dtype=dtype).mul(1e6).long().abs() % kinds
    counts = torch.tensor([6, 4, 5])
    classes = torch.where(torch.arange(places) < counts[:, None], classes, -1)
    signal = join(positions, classes, kinds)
    noise = 0.05 * normal(SEEDS, (places, kinds), 3, dtype=dtype).abs()
    weights = torch.where((classes >= 0)[..., None], signal[..., 3:] + noise, 0)
    return torch.cat((signal[..., :3], weights), dim=2)


def turned(x: Tensor, mirror: bool = False) -> Tensor:
    """Molecules rotated and moved (or mirrored), the padding left at zero."""
    q, _ = torch.linalg.qr(normal([3], (3, 3), dtype=x.dtype)[0])
    q = q * torch.linalg.det(q)
    q = -q if mirror else q
    exists = (x[..., 3:] != 0).any(2, keepdim=True)
    moved = x[..., :3] @ q + torch.tensor([1.0, -2.0, 0.5]).to(x)
    return torch.cat((torch.where(exists, moved, 0), x[..., 3:]), dim=2)


def rows_alone(cost: Cost, x: Tensor) -> None:
    """The cost of a row does not depend on its neighbours."""
    whole = cost(x)
    for row in range(len(x)):
        index = torch.tensor([row])
        assert torch.allclose(cost.take(index)(x[index]), whole[index], rtol=1e-12)


@pytest.mark.parametrize("form", ["squared", "smooth-l1"])
def test_targets_ranges_and_weights_in_units_of_the_scale(form: str) -> None:
    x = torch.tensor([[1.0, 2.0], [4.0, 0.5], [-1.0, -1.0]], dtype=torch.float64)
    cost = PropertyCost(
        linear, [1.0, -math.inf], [1.0, 2.0], scale=[2.0, 0.5], weights=[1.0, 0.3], form=form
    )
    u = torch.tensor([[1.0, 0.0], [1.75, 4.0], [-1.5, 0.0]], dtype=torch.float64)
    assert torch.allclose(cost.errors(x), u)
    far = u.abs()
    value = u.square() if form == "squared" else torch.where(far <= 1, u**2 / 2, far - 0.5)
    assert torch.allclose(cost(x), value[:, 0] + 0.3 * value[:, 1])


def test_a_range_costs_nothing_inside_and_has_no_gradient_there() -> None:
    x = torch.tensor([[0.5], [1.5], [3.0]], dtype=torch.float64, requires_grad=True)
    cost = PropertyCost(lambda x: x[:, 0], 1.0, 2.0)
    (gradient,) = torch.autograd.grad(cost(x).sum(), x)
    assert cost(x).tolist() == [0.25, 0.0, 1.0]
    assert gradient[:, 0].tolist() == [-1.0, 0.0, 2.0]


def test_an_extreme_pulls_evenly_from_afar_and_stops_at_the_trust_limit() -> None:
    x = torch.tensor([[-50.0], [7.0], [10.0], [14.0]], dtype=torch.float64, requires_grad=True)
    cost = PropertyCost.extreme(lambda x: x[:, 0], 10.0, scale=2.0)
    (gradient,) = torch.autograd.grad(cost(x).sum(), x)
    assert gradient[:, 0].tolist() == [-0.5, -0.5, 0.0, 0.5]


def test_property_targets_of_single_samples_leave_with_them() -> None:
    low = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]])
    cost = PropertyCost(linear, low, low) + 0.5 * PropertyCost(lambda x: x[:, 1], 0.0, 1.0)
    rows_alone(cost, normal(SEEDS, (4,), dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 2.0, "high": 1.0}, "low <= high"),
        ({"low": math.nan, "high": 1.0}, "low: expected"),
        ({"low": -math.inf, "high": math.inf}, "finite bound"),
        ({"low": 0.0, "high": 1.0, "scale": 0.0}, "scale: expected positive"),
        ({"low": 0.0, "high": 1.0, "weights": -1.0}, "weights: expected numbers >= 0"),
        ({"low": 0.0, "high": 1.0, "form": "l1"}, "form: expected one of"),
        ({"low": [0.0, 1.0], "high": [1.0, 2.0], "scale": [1.0, 1.0, 1.0]}, r"scale|low"),
    ],
)
def test_property_costs_refuse(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PropertyCost(linear, **arguments)


def test_properties_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predict: expected shape \(3, 3\)"):
        PropertyCost(linear, [0.0, 0.0, 0.0], 1.0)(normal(SEEDS, (4,)))


def test_black_box_scores_rank_and_what_fails_is_last() -> None:
    cost = BlackBoxCost(lambda x: [float(v) if v > 0 else None for v in x[:, 0]])
    value = cost(torch.tensor([[3.0], [-1.0], [2.0], [2.0]]))
    assert value.tolist() == [3.0, math.inf, 2.0, 2.0]
    assert best_of(value, 2).tolist() == [0, 2]  # the first among equals
    assert best_of(torch.tensor([math.nan, math.inf, 5.0, math.nan]), 2).tolist() == [0, 2]
    with pytest.raises(ValueError, match="groups of 3"):
        best_of(value, 3)


def test_element_table_counts_the_hydrogens_of_heavy_classes() -> None:
    assert element_table("qm9").tolist() == torch.eye(5).tolist()
    methyl = HEAVY.index(("C", 3))
    assert element_table("qm9-heavy")[methyl].tolist() == [3, 1, 0, 0, 0]


def test_formulas_and_limits_are_read() -> None:
    assert parse_formula("C7H10O2") == {
        "H": (10, 10), "C": (7, 7), "N": (0, 0), "O": (2, 2), "F": (0, 0)
    }  # fmt: skip
    assert parse_limit("N<=2") == {"N": (0, 2)}
    assert parse_limit("O >= 1") == {"O": (1, math.inf)}
    assert parse_limit("F=0") == {"F": (0, 0)}
    for wrong in ("C7H10S", "c6h6", "", "CC", "C2-"):
        with pytest.raises(ValueError, match=r"formula|element"):
            parse_formula(wrong)
    for wrong in ("N<2", "S<=1", "N<=-1", "N"):
        with pytest.raises(ValueError, match="element: expected"):
            parse_limit(wrong)


@pytest.mark.parametrize("types", ["straight-through", "soft"])
def test_composition_counts_atoms_and_pulls_the_probabilities(types: str) -> None:
    x = molecules().requires_grad_()
    cost = CompositionCost({"H": (1, 2), "N": (0, 0)}, "qm9-heavy", types)
    hard = element_table("qm9-heavy")[x[..., 3:].argmax(2)] * (x[..., 3:] != 0).any(2)[..., None]
    exact = hard.sum(1)[:, [0, 2]]
    counts = cost.counts(x)
    if types == "straight-through":
        assert torch.allclose(counts, exact)
    else:
        assert not torch.allclose(counts, exact) and (counts - exact).abs().max() < 3
    below, above = (1 - counts[:, 0]).clamp_min(0), (counts[:, 0] - 2).clamp_min(0)
    assert torch.allclose(cost(x), below**2 + above**2 + counts[:, 1] ** 2)
    (gradient,) = torch.autograd.grad(cost(x).sum(), x)
    assert gradient[..., 3:].abs().sum() > 0 and not gradient[..., :3].any()
    rows_alone(cost, x.detach())


def test_composition_refuses() -> None:
    with pytest.raises(ValueError, match="element: expected elements H, C, N, O, F, got S"):
        CompositionCost({"S": (0, 1)}, "qm9")
    with pytest.raises(ValueError, match="0 <= 3"):
        CompositionCost({"N": (3, 1)}, "qm9")


def piece(x: Tensor, row: int = 0, size: int = 4) -> FragmentCost:
    kinds = x[row, :size, 3:].argmax(1)
    allowed = torch.nn.functional.one_hot(kinds, x.shape[2] - 3).bool()
    return FragmentCost(x[row, :size, :3], allowed)


def test_a_fragment_is_found_however_it_lies_but_not_mirrored() -> None:
    x = molecules()
    cost = piece(x)
    assert cost(turned(x))[0] == pytest.approx(0, abs=1e-18)
    assert cost.deviation(turned(x, mirror=True))[0] > 0.01
    assert torch.allclose(cost(turned(x)), cost(x))
    assert (cost(x)[1:] > 1).all()
    rows_alone(cost, x)
    shifted = x.clone()
    shifted[0, 1, 0] += 0.3  # the best fit takes a part of it
    assert 0 < cost.deviation(shifted)[0] <= 0.09 * (1 / 4 - 1 / 16) + 1e-12


def test_fragment_gradients_agree_with_differences() -> None:
    x = molecules()
    cost = piece(x, size=4)
    sample = turned(x) + 0.05 * normal(SEEDS, x.shape[1:], 9, dtype=x.dtype) * (x != 0)
    place = sample[:, :, :3].clone().requires_grad_()

    def value(position: Tensor) -> Tensor:
        return cost.deviation(torch.cat((position, sample[..., 3:]), dim=2)).sum()

    (gradient,) = torch.autograd.grad(value(place), place)
    way = normal(SEEDS, place.shape[1:], 10, dtype=x.dtype)
    step = 1e-5 * way
    slope = (value(place + step) - value(place - step)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(float(slope.detach()), rel=1e-5)


def test_a_row_of_nan_does_not_harm_the_others_in_a_fragment() -> None:
    x = molecules()
    broken = x.clone()
    broken[1, 0, 0] = math.nan
    value = piece(x)(broken)
    assert value[1].isnan() and torch.equal(value[[0, 2]], piece(x)(x)[[0, 2]])


def test_fragments_refuse() -> None:
    x = molecules()
    with pytest.raises(ValueError, match="fragment: has 4 atoms"):
        piece(x)(x[:, :3])
    with pytest.raises(ValueError, match="finite"):
        FragmentCost(torch.full((2, 3), math.nan), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one class"):
        FragmentCost(torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.bool))


def test_allowed_classes_leave_hydrogens_open() -> None:
    allowed = allowed_classes([("C", 2), ("O", 0)], "qm9-heavy")
    names = [[HEAVY[i] for i in row.nonzero().flatten()] for row in allowed]
    assert names == [[("C", 0), ("C", 1), ("C", 2)], [("O", 0)]]
    with pytest.raises(ValueError, match="'H' is no atom of"):
        allowed_classes([("H", 0)], "qm9-heavy")


def test_similarity_is_zero_for_the_same_molecule_moved_and_renumbered() -> None:
    x = molecules()
    cost = SimilarityCost(x[0], "qm9-heavy")
    same = turned(x, mirror=True)[:, torch.tensor([3, 1, 5, 0, 4, 2])]
    assert cost(same)[0] == pytest.approx(0, abs=1e-9)
    assert (cost(x)[1:] > 0.01).all() and (cost(x) <= 1).all()
    padded = torch.cat((x, torch.zeros(3, 2, x.shape[2], dtype=x.dtype)), dim=1)
    assert torch.allclose(cost(padded), cost(x), atol=1e-12)
    rows_alone(SimilarityCost(x.flip(0), "qm9-heavy"), x)
    with pytest.raises(ValueError, match=r"reference: expected shape \(N, 8\)"):
        SimilarityCost(x[0], "qm9")


def test_similarity_has_the_gradient_of_its_value() -> None:
    x = molecules()
    cost = SimilarityCost(x[0], "qm9-heavy", types="soft")
    start = (x[1:2] * (1 + 0.01)).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(start).sum(), start)
    way = normal([4], x.shape[1:], dtype=x.dtype) * (x[1:2] != 0)
    slope = (cost(start + 1e-5 * way) - cost(start - 1e-5 * way)).detach() / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_soft_valences_become_those_of_the_bond_table() -> None:
    x = molecules()
    x = torch.cat((0.9 * x[..., :3], x[..., 3:]), dim=2)  # nearer, so that there are bonds
    parts = split(x)
    told = stability(parts.positions, parts.hard, "qm9-heavy")
    sharp = ValenceCost("qm9-heavy", width=1e-5, slack=0.5)
    assert torch.allclose(sharp.orders(x), told.orders.sum(2).double(), atol=1e-6)
    assert told.orders.any() and ((sharp(x) == 0) == told.molecules).all()


def test_valences_cost_what_they_miss_and_nothing_of_a_stable_molecule() -> None:
    ethane = join(
        torch.tensor([[[0.0, 0, 0], [1.53, 0, 0]], [[0.0, 0, 0], [3.0, 0, 0]]]).double(),
        torch.tensor([[3, 3], [3, 3]]),
        14,
    )
    cost = ValenceCost("qm9-heavy", slack=0.3)
    assert cost(ethane)[0] == 0
    assert float(cost(ethane)[1]) == pytest.approx(2 * 0.7**2)
    x = molecules()
    moved = turned(x, mirror=True)[:, torch.tensor([3, 1, 5, 0, 4, 2])]
    assert torch.allclose(cost(moved), cost(x), rtol=1e-9)
    padded = torch.cat((x, torch.zeros(3, 2, x.shape[2], dtype=x.dtype)), dim=1)
    assert torch.allclose(cost(padded), cost(x), atol=1e-12)
    rows_alone(cost, x)
    with pytest.raises(ValueError, match="width, slack"):
        ValenceCost("qm9-heavy", width=0)


def test_valences_have_the_gradient_of_their_value() -> None:
    x = molecules()
    cost = ValenceCost("qm9-heavy", width=0.2, slack=0.0, types="soft")
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cost(start).sum(), start)
    way = normal(SEEDS, x.shape[1:], dtype=x.dtype) * (x != 0)
    slope = (cost(start + 1e-6 * way) - cost(start - 1e-6 * way)).detach() / 2e-6
    assert torch.allclose((gradient * way).sum((1, 2)), slope, rtol=1e-4)
    assert gradient.isfinite().all() and gradient[..., 3:].any() and gradient[..., :3].any()
