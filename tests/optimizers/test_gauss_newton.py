"""Gauss-Newton: exact where the problem is linear, honest where it is not, its costs as stated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi, GaussianNLL
from ctrlgen.operators.base import dense
from ctrlgen.optimizers import GaussNewton, ResidualObjective, Status
from ctrlgen.optimizers.gauss_newton import Line
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Midpoint

Build = Callable[..., Any]
D, M, SEEDS = 5, 3, [4, 9, 2, 7]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


def rows(*shape: int, stream: int = 3) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def linear(mixture: Build, prior_of: Build, matrix_operator: Build) -> tuple[Any, SquaredError]:
    operator = matrix_operator(rows(M, D)[0])
    return prior_of(mixture(1, D)), SquaredError(operator, rows(M, stream=5), 0.3)


def affine(prior: Any, solver: Midpoint) -> tuple[Tensor, Tensor]:
    """Φ(x_0) = x_0 Aᵀ + b of a Gaussian prior, as the solver has it."""
    eye = torch.eye(D, dtype=torch.float64)
    b = prior.generate(torch.zeros_like(eye), solver)[0]
    return (prior.generate(eye, solver) - b).mT, b


def test_one_step_is_the_shortest_to_the_measurement(linear) -> None:
    prior, cost = linear
    method = DFlow(optimizer=GaussNewton(inner=M, max_iterations=1), dtype=torch.float64)
    result = method(prior, cost, seeds=SEEDS)
    jacobian, b = affine(prior, Midpoint(3))
    matrix = dense(cost.operator, (D,)) @ jacobian
    z = prior.start(SEEDS, dtype=torch.float64)
    gap = cost.y - (z @ matrix.mT + b @ dense(cost.operator, (D,)).mT)
    torch.testing.assert_close(result.controls, z + gap @ torch.linalg.pinv(matrix).mT, **EXACT)
    assert (result.costs < 1e-18).all()


def test_one_step_is_the_mode_of_a_gaussian_posterior(linear) -> None:
    """‖Hx − y‖²/2σ² + ‖x_0‖²/2 in one step, and what was spent on it."""
    prior, squared = linear
    weight = 0.5 / squared.noise**2
    method = DFlow(
        optimizer=GaussNewton(inner=D, max_iterations=1),
        regularizer=GaussianNLL(1.0),
        dtype=torch.float64,
    )
    result = method(prior, weight * squared, seeds=SEEDS)
    jacobian, b = affine(prior, Midpoint(3))
    h = dense(squared.operator, (D,))
    matrix = h @ jacobian
    normal_matrix = 2 * weight * matrix.mT @ matrix + torch.eye(D, dtype=torch.float64)
    right = 2 * weight * (squared.y - b @ h.mT) @ matrix
    torch.testing.assert_close(
        result.controls, torch.linalg.solve(normal_matrix, right.mT).mT, **EXACT
    )
    assert (result.iterations == 1).all() and (result.objective_calls == 2).all()
    assert (result.evaluations == 3 * 6).all()  # two trials and one line
    assert (result.backward_passes == (2 + 2 * D) * 6).all()


def test_the_model_knows_what_a_step_brings() -> None:
    """J by products is the Jacobian; the line's points are those of its iterates."""
    matrix, y = rows(M, D), rows(M)
    moves = torch.stack((torch.zeros(4, D).double(), rows(D, stream=8), 3 * rows(D, stream=8)))
    images = torch.einsum("bmd,kbd->kbm", matrix, moves)
    line = Line(moves, images)
    lengths = torch.linalg.vector_norm(moves, dim=2)
    for radius in (0.3 * lengths[1], lengths[1], 0.5 * (lengths[1] + lengths[2]), 9 * lengths[2]):
        step = line.at(radius, y)
        torch.testing.assert_close(step.length, radius.minimum(lengths[2]))
        model = (y + torch.einsum("bmd,bd->bm", matrix, step.move)).square().sum(1)
        torch.testing.assert_close(step.value, model)
    assert not line.at(9 * lengths[2], y).cut.any() and line.at(0.3 * lengths[1], y).cut.all()


def test_the_trust_region_leads_where_plain_steps_do_not() -> None:
    """arctan: Newton diverges from |x| > 1.39; Rosenbrock's valley needs a few steps only."""
    start = torch.tensor([[3.0], [-20.0], [0.5]], dtype=torch.float64)
    found = GaussNewton(inner=1, gradient_tolerance=1e-10).minimize(
        ResidualObjective(torch.atan), start
    )
    assert (found.x.abs() < 1e-9).all() and found.converged.all()

    def valley(x: Tensor) -> Tensor:
        return torch.stack((10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]), 1)

    start = torch.tensor([[-1.2, 1.0], [2.0, 2.0]], dtype=torch.float64)
    found = GaussNewton(inner=2, radius=1.0).minimize(ResidualObjective(valley), start)
    torch.testing.assert_close(found.x, torch.ones_like(start), rtol=0, atol=1e-7)
    assert (found.calls < 30).all()


def test_a_scaled_gradient_changes_no_step(linear) -> None:
    """−PSNR rises with ‖r‖²: the same points, other values."""
    prior, squared = linear
    optimizer = GaussNewton(inner=2, max_iterations=2, gradient_tolerance=0)
    method = DFlow(optimizer=optimizer, dtype=torch.float64)
    decibels = NegativePSNR(squared.operator, squared.y, squared.noise, floor=1e-300)
    runs = [method(prior, cost, seeds=SEEDS).controls for cost in (squared, decibels)]
    torch.testing.assert_close(*runs, **EXACT)


def test_rows_that_cannot_go_on_say_so() -> None:
    def wall(x: Tensor) -> Tensor:
        return torch.where(x < 1, torch.nan, x) + 5

    start = torch.tensor([[1.0]], dtype=torch.float64)
    found = GaussNewton(inner=1).minimize(ResidualObjective(wall), start)
    assert found.status.tolist() == [Status.DIVERGED] and torch.equal(found.x, start)

    def flipped(x: Tensor) -> Tensor:  # says that it falls to the right, and rises
        return 2 - x + 2 * (x - x.detach()) * 1.0 + 4 * (x.detach() - 1).abs()

    found = GaussNewton(inner=1).minimize(ResidualObjective(flipped), start)
    assert found.status.tolist() == [Status.LINE_SEARCH] and torch.equal(found.x, start)
    assert math.isclose(float(found.value), 1.0)


def test_what_is_no_sum_of_squares_is_refused_before_any_compute(linear) -> None:
    prior, squared = linear
    method = DFlow(optimizer=GaussNewton())
    with pytest.raises(ValueError, match=r"GaussNewton needs a sum of squares.*use LBFGS"):
        method(prior, lambda x: x.sum(1), seeds=SEEDS)
    with pytest.raises(ValueError, match="cost: GaussNewton needs"):
        method(prior, -1.0 * squared, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"regularizer: GaussNewton needs.*GaussianNLL"):
        DFlow(optimizer=GaussNewton(), regularizer=Chi(0.1))(prior, squared, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0
    with pytest.raises(ValueError, match="inner: expected at least 1, got 0"):
        GaussNewton(inner=0)
    with pytest.raises(ValueError, match="radius: expected a positive number"):
        GaussNewton(radius=0)
