"""Measurement, level-set and classifier costs: values, gradients, rows, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import (
    ClassifierCost,
    Cost,
    LevelSet,
    MeasurementCost,
    NegativePSNR,
    Reversed,
    SquaredError,
)
from ctrlgen.operators.base import LinearOperator, Operator, dense
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import normal

SEEDS = [4, 9, 6]
D, M = 4, 2
Build = Callable[..., Any]


def rows(*shape: int, stream: int = 2) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def gradient(cost: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(cost(x).sum(), x)[0]


# ------------------------------------------------------------------ values and gradients


def test_squared_error_and_its_gradient(operator: LinearOperator) -> None:
    x, y = rows(D), rows(M, stream=5)
    matrix = dense(operator, (D,))
    residual = x @ matrix.T - y
    assert torch.allclose(SquaredError(operator, y)(x), residual.square().sum(1), rtol=1e-12)
    found = gradient(SquaredError(operator, y), x)
    assert torch.allclose(found, 2 * residual @ matrix, rtol=1e-12)


@pytest.mark.parametrize("peak", [1.0, 2.0, 255.0])
def test_psnr_in_decibels(peak: float, operator: LinearOperator) -> None:
    x, y = rows(D), rows(M, stream=5)
    mse = (operator(x) - y).square().mean(1)
    expected = -10 * torch.log10(peak**2 / mse)
    assert torch.allclose(NegativePSNR(operator, y, peak=peak)(x), expected, rtol=1e-10)


def test_an_error_of_a_twentieth_is_32_decibels(operator: LinearOperator) -> None:
    """Noise of 0.05 in [−1, 1] is 32.04 dB, the target of the paper's noisy tasks."""
    x = rows(D)
    y = operator(x) + 0.05
    assert torch.allclose(
        NegativePSNR(operator, y)(x), torch.full_like(x[:, 0], -20 * math.log10(40)), atol=1e-6
    )


def test_psnr_gradient_is_free_of_scale(operator: LinearOperator) -> None:
    """∇(−PSNR) = (10/ln 10) ∇MSE/MSE, and scaling the data with the peak changes nothing."""
    x, y = rows(D), rows(M, stream=5)

    def mse(x: Tensor) -> Tensor:
        return (operator(x) - y).square().mean(1)

    expected = 10 / math.log(10) * gradient(mse, x) / mse(x).unsqueeze(1)
    found = gradient(NegativePSNR(operator, y), x)
    assert torch.allclose(found, expected, rtol=1e-10)
    scaled = NegativePSNR(operator, 7 * y, peak=14.0, floor=49e-12)
    assert torch.allclose(scaled(7 * x), NegativePSNR(operator, y)(x), rtol=1e-12)
    assert torch.allclose(7 * gradient(scaled, 7 * x), found, rtol=1e-12)


def test_psnr_is_finite_at_the_solution(operator: LinearOperator) -> None:
    x = rows(D)
    cost = NegativePSNR(operator, operator(x))
    assert torch.allclose(cost(x), torch.full_like(x[:, 0], -120 - 20 * math.log10(2)), rtol=1e-12)
    assert gradient(cost, x).isfinite().all()
    assert torch.allclose(NegativePSNR(operator, operator(x), floor=1e-6)(x), cost(x) + 60)


def test_projected_psnr_lives_where_the_pseudo_inverse_does(operator: LinearOperator) -> None:
    x, y = rows(D), rows(M, stream=5)
    difference = operator.project(x) - operator.pinv(y)
    expected = 10 * torch.log10(difference.square().mean(1) + 1e-12) - 20 * math.log10(2)
    assert torch.allclose(NegativePSNR(operator, y, projected=True)(x), expected, rtol=1e-10)


class Mask(LinearOperator):
    """Every sample keeps other entries."""

    per_sample = ("keep",)

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.keep

    def measured(self, y: Tensor) -> Tensor:
        return self.keep.sum(1).to(y)

    def spectrum(self, x: Tensor) -> Any:
        raise NotImplementedError

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


def test_psnr_averages_over_what_is_measured() -> None:
    """A hidden entry is not a perfect one."""
    keep = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    x, y = rows(D), rows(D, stream=5) * keep
    errors = ((x * keep - y) ** 2).sum(1) / torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    expected = 10 * torch.log10(errors) - 20 * math.log10(2)
    cost = NegativePSNR(Mask(keep), y)
    assert torch.allclose(cost(x), expected, rtol=1e-10)
    index = torch.tensor([2, 1])
    assert torch.allclose(cost.take(index)(x[index]), expected[index], rtol=1e-10)


def test_reversed_and_level_set() -> None:
    x, y = rows(2, 3), rows(2, 3, stream=5)
    assert torch.allclose(Reversed(y)(x), (x - y).square().sum((1, 2)))

    def mean(x: Tensor) -> Tensor:
        return x.mean((1, 2))

    assert torch.allclose(LevelSet(mean, 0.3)(x), (mean(x) - 0.3).square())
    targets = torch.tensor([0.1, -2.0, 5.0])
    cost = LevelSet(mean, targets)
    assert torch.allclose(cost(x), (mean(x) - targets).square())
    index = torch.tensor([1])
    assert torch.allclose(cost.take(index)(x[index]), cost(x)[index])
    expected = 2 * (mean(x) - 0.3).view(3, 1, 1).expand(3, 2, 3) / 6
    assert torch.allclose(gradient(LevelSet(mean, 0.3), x), expected)


def test_classifier_cost_is_the_negative_log_probability() -> None:
    x, label = rows(D), torch.tensor([0, 4, 2])
    weight = normal([8], (D, 5), dtype=torch.float64)[0]
    cost = ClassifierCost(lambda x: x @ weight, label)
    expected = -torch.log_softmax(x @ weight, 1)[range(3), label]
    assert torch.allclose(cost(x), expected, rtol=1e-12)
    index = torch.tensor([2, 0])
    assert torch.allclose(cost.take(index)(x[index]), expected[index], rtol=1e-12)
    probability = torch.softmax(x @ weight, 1)
    probability[range(3), label] -= 1
    assert torch.allclose(gradient(cost, x), probability @ weight.T, rtol=1e-10)


@pytest.mark.parametrize("kind", [SquaredError, NegativePSNR])
def test_measurement_is_handed_on(kind: Callable[..., MeasurementCost], operator: Operator) -> None:
    y = rows(M)
    cost = kind(operator, y, 0.1)
    for combined in (cost, 2.0 * cost, Reversed(rows(D)) + 0.5 * cost):
        given = combined.measurement
        assert given is not None
        assert given.operator is operator and given.y is y and given.noise == 0.1
    taken = (2.0 * cost).take(torch.tensor([1])).measurement
    assert taken is not None and torch.equal(taken.y, y[1:2])


# ------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("kind", [SquaredError, NegativePSNR])
def test_values_have_the_dtype_of_the_signal(kind: Callable[..., Cost], operator: Operator) -> None:
    cost = kind(operator, rows(M))
    assert cost(rows(D).float()).dtype == torch.float32
    assert Reversed(rows(D))(rows(D).float()).dtype == torch.float32
    moved = cost.to(torch.float32)
    assert moved.y.dtype == torch.float32  # type: ignore[attr-defined]
    assert torch.allclose(moved(rows(D).float()).double(), cost(rows(D)), rtol=1e-4)


# ------------------------------------------------------------------ bad input


class Plain(Operator):
    """Not linear, no pseudo-inverse."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.square()


NAN = torch.zeros(3, D)
NAN[1, 2] = math.nan
NAN[2, 0] = math.inf


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: SquaredError(None, rows(M)),
            TypeError,
            "operator: expected an Operator, got None",
        ),
        (lambda: SquaredError(Plain, rows(M)), TypeError, "operator: expected an Operator"),
        (lambda: SquaredError(Plain(), [1.0]), TypeError, "y: expected a floating.*got list"),
        (
            lambda: SquaredError(Plain(), torch.ones(3, D, dtype=torch.int64)),
            TypeError,
            "y: expected a floating point tensor, got torch.int64",
        ),
        (
            lambda: SquaredError(Plain(), torch.ones(D)),
            ValueError,
            "y: expected one row per sample",
        ),
        (lambda: SquaredError(Plain(), NAN), ValueError, r"y: .*in samples \[1, 2\]"),
        (lambda: SquaredError(Plain(), rows(D), -0.1), ValueError, "noise: .*-0.1"),
        (lambda: SquaredError(Plain(), rows(D), math.nan), ValueError, "noise: .*nan"),
        (lambda: NegativePSNR(Plain(), rows(D), peak=0), ValueError, "peak, floor"),
        (lambda: NegativePSNR(Plain(), rows(D), peak=math.nan), ValueError, "peak, floor"),
        (lambda: NegativePSNR(Plain(), rows(D), floor=-1), ValueError, "peak, floor"),
        (
            lambda: NegativePSNR(Plain(), rows(D), projected=True),
            ValueError,
            "projected: needs a linear operator, got Plain",
        ),
        (lambda: Reversed(NAN), ValueError, r"y: .*in samples \[1, 2\]"),
        (lambda: Reversed(torch.ones(3, dtype=torch.bool)), TypeError, "y: .*torch.bool"),
        (lambda: LevelSet(3, 1.0), TypeError, "function: expected a callable, got int"),
        (lambda: LevelSet(torch.sum, math.nan), ValueError, "target: expected a finite number"),
        (lambda: LevelSet(torch.sum, torch.ones(2, 2)), ValueError, "target"),
        (lambda: ClassifierCost(3, torch.tensor([1])), TypeError, "classifier: .*got int"),
        (lambda: ClassifierCost(torch.sum, [1]), TypeError, "label: .*got list"),
        (lambda: ClassifierCost(torch.sum, torch.tensor([1.0])), TypeError, "label: .*float32"),
        (lambda: ClassifierCost(torch.sum, torch.tensor([-1])), ValueError, "label: .*>= 0"),
        (lambda: ClassifierCost(torch.sum, torch.tensor([[1]])), ValueError, "label"),
    ],
)
def test_constructors_refuse(
    build: Callable[[], Cost], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def linear(x: Tensor) -> Tensor:
    return x @ torch.ones(D, 5).to(x)


@pytest.mark.parametrize(
    ("cost", "x", "error", "message"),
    [
        (SquaredError(Plain(), rows(5)), rows(D), ValueError, r"y: expected shape \(3, 4\), that"),
        (SquaredError(Plain(), rows(D)[:2]), rows(D), ValueError, r"y: expected shape \(3, 4\)"),
        (Reversed(rows(5)), rows(D), ValueError, r"y: expected shape \(3, 4\), got \(3, 5\)"),
        (LevelSet(torch.sum, 1.0), rows(D), CostError, r"one value per sample, shape \(3,\)"),
        (
            ClassifierCost(linear, torch.tensor([1, 2])),
            rows(D),
            ValueError,
            r"classifier: expected logits \(2, classes\)",
        ),
        (
            ClassifierCost(lambda x: x.sum(1), torch.tensor([0, 0, 0])),
            rows(D),
            ValueError,
            r"classifier: .*got \(3,\)",
        ),
        (
            ClassifierCost(linear, torch.tensor([0, 5, 1])),
            rows(D),
            ValueError,
            "label: expected classes below 5, got 5",
        ),
    ],
)
def test_calls_refuse(cost: Cost, x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cost(x)
