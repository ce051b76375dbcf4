"""The algebra of costs: each combination is again a cost with one value per sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost, ScaledCost
from ctrlgen.costs.base import as_cost
from ctrlgen.priors.codecs import Scaled
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import normal

X = normal(range(5), (2, 3), dtype=torch.float64)
TARGETS = torch.linspace(-1, 1, 5, dtype=torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Power(Cost):
    """Mean of x^p."""

    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return (x**self.exponent).flatten(1).mean(1)


class Distance(Cost):
    """Squared distance of the sum to a target of each sample."""

    per_sample = ("target",)

    def __init__(self, target: Tensor) -> None:
        self.target = target

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).sum(1) - self.target).square()


def power(p: int) -> Tensor:
    return (X**p).mean(dim=(1, 2))


def distance() -> Tensor:
    return (X.sum(dim=(1, 2)) - TARGETS) ** 2


def plain(x: Tensor) -> Tensor:
    return x.flatten(1).amax(1)


COMBINED: dict[str, tuple[Cost, Tensor]] = {
    "sum": (Power(2) + Distance(TARGETS), power(2) + distance()),
    "weights": (0.3 * Power(2) + Distance(TARGETS) * 2, 0.3 * power(2) + 2 * distance()),
    "nested": (3 * (Power(2) + 0.5 * Power(3)), 3 * power(2) + 1.5 * power(3)),
    "sum()": (sum([Power(1), Power(2), Power(3)]), power(1) + power(2) + power(3)),
    "per sample": (TARGETS * Power(2), TARGETS * power(2)),
    "per sample, right": (Power(2) * TARGETS, TARGETS * power(2)),
    "scalar tensor": (torch.tensor(2.0) * Power(2), 2 * power(2)),
    "plain, right": (Power(2) + plain, power(2) + X.amax(dim=(1, 2))),
    "plain, left": (plain + Power(2), power(2) + X.amax(dim=(1, 2))),
    "through": (
        Power(2).through(Scaled(2.0, 1.0)),
        (1 + 2 * X).square().mean(dim=(1, 2)),
    ),
    "through a sum": (
        (Power(2) + Distance(TARGETS)).through(Scaled([1.0, -1.0])) * 0.5,
        0.5 * (power(2) + (X[:, 0].sum(1) - X[:, 1].sum(1) - TARGETS) ** 2),
    ),
    "with data": (
        FunctionCost(lambda x, y: (x.sum((1, 2)) - y) ** 2, per_sample={"y": TARGETS}),
        distance(),
    ),
}


@pytest.fixture(params=list(COMBINED.values()), ids=list(COMBINED))
def case(request) -> tuple[Cost, Tensor]:
    return request.param


def test_value(case):
    cost, expected = case
    assert isinstance(cost, Cost)
    torch.testing.assert_close(cost(X), expected, **EXACT)


def test_take_takes_the_data_along(case):
    """Law 1: the rest of the batch can leave in any order, and no value changes."""
    cost, expected = case
    for rows in ([3], [4, 0, 2], [1, 2]):
        index = torch.tensor(rows)
        torch.testing.assert_close(cost.take(index)(X[index]), expected[index], **EXACT)
    twice = cost.take(torch.tensor([4, 0, 2])).take(torch.tensor([1]))
    torch.testing.assert_close(twice(X[:1]), expected[:1], **EXACT)
    torch.testing.assert_close(cost(X), expected, **EXACT)


def test_gradient(case):
    cost, _ = case
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(cost, x)
    (together,) = torch.autograd.grad(cost(x).sum(), x)
    index = torch.tensor([2])
    (alone,) = torch.autograd.grad(cost.take(index)(x[index]).sum(), x)
    torch.testing.assert_close(alone[2], together[2], **EXACT)


def test_dtype_and_device(case, dtype, device):
    cost, expected = case
    value = cost.to(device, dtype)(X.to(device, dtype))
    assert value.dtype == dtype and value.device.type == device.type
    torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-4, atol=1e-5)


def test_a_weight_does_not_change_the_dtype():
    weight = torch.ones(5, dtype=torch.float64)
    assert (weight * Power(2))(X.float()).dtype == torch.float32


def test_a_weight_can_be_learned():
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (weight * Power(2))(X).sum().backward()
    torch.testing.assert_close(weight.grad, power(2))


def test_names():
    assert repr(2.0 * Power(2) + plain) == "2.0·(Power) + plain"
    assert repr(torch.ones(5) * Power(2)) == "w·(Power)"
    assert repr(Power(2).through(Scaled(2.0))) == "Power through Scaled"
    assert repr(FunctionCost(plain, name="peak")) == "peak"


def test_as_cost():
    cost = Power(2)
    assert as_cost(cost) is cost
    torch.testing.assert_close(as_cost(plain)(X), plain(X))
    for wrong in (3, "gap", Power, None):
        with pytest.raises(TypeError, match="cost: expected a Cost or a function"):
            as_cost(wrong)
    with pytest.raises(TypeError, match="cost: expected"):
        Power(2) + 1  # type: ignore[operator]
    with pytest.raises(TypeError, match="fn: expected a function"):
        FunctionCost(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fn", "got"),
    [
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x.flatten(1), r"\(5, 6\)"),
        (lambda x: x.flatten(1).sum(1, keepdim=True), r"\(5, 1\)"),
        (lambda x: 1.0, "float"),
    ],
)
def test_a_cost_that_is_not_one_value_per_sample_is_refused(fn, got):
    with pytest.raises(CostError, match=rf"expected one value per sample, shape \(5,\), got {got}"):
        FunctionCost(fn)(X)
    with pytest.raises(ValueError, match="one value per sample"):
        (0.5 * FunctionCost(fn) + Power(2))(X)


@pytest.mark.parametrize(
    "weight", [math.nan, math.inf, torch.ones(5, 1), torch.tensor([1.0, math.nan])]
)
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight: expected a finite number"):
        ScaledCost(Power(2), weight)


def test_weights_of_another_kind_or_count_are_refused():
    with pytest.raises(TypeError, match="weight: expected a number or a tensor"):
        Power(2) * Power(3)  # type: ignore[operator]
    for count in (1, 4):
        with pytest.raises(ValueError, match=r"weight: expected shape \(5,\)"):
            (torch.ones(count) * Power(2))(X)


def test_costs_are_subtracted_and_divided() -> None:
    x = torch.arange(6.0, dtype=torch.float64).reshape(3, 2) + 1
    first, second = FunctionCost(lambda x: x.sum(1)), FunctionCost(lambda x: x.square().sum(1))
    a, b = first(x), second(x)
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    for made, expected in (
        (first - second, a - b),
        (-first, -a),
        (first / 4, a / 4),
        (first / weight, a / weight),
        (first - (lambda x: x.square().sum(1)), a - b),
        ((lambda x: x.square().sum(1)) - first, b - a),
        ((first - second) / 2 - first, (a - b) / 2 - a),
    ):
        torch.testing.assert_close(made(x), expected)
    part = torch.tensor([2, 0])
    torch.testing.assert_close((first / weight).take(part)(x[part]), (a / weight)[part])
    with pytest.raises(ValueError, match="weight: a cost cannot be divided by 0"):
        first / 0
    with pytest.raises(ValueError, match="weight: expected a finite number"):
        first / torch.tensor([1.0, 0.0, 1.0])
    with pytest.raises(TypeError, match="weight: expected a number or a tensor"):
        first / second  # type: ignore[operator]
