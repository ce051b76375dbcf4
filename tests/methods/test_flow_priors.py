"""Flow-Priors against its closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import SquaredError
from ctrlgen.methods import FlowPriors
from ctrlgen.operators.base import LinearOperator, dense
from ctrlgen.optimizers import GradientDescent
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import Times, Uniform
from ctrlgen.testing.oracles import Mixture
from tests.methods.gaussian_runs import DOUBLE, SEEDS, D, M, _Double, a_run, affine, denoised, rows

Build = Callable[..., Any]
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.fixture
def law(mixture: Build) -> Mixture:
    """A Gaussian."""
    return mixture(1, D, seed=2)


@pytest.mark.parametrize("step", [0, 1])
def test_flow_priors_gradient_by_hand(
    step: int, law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """u = Jx + c: 2λ (I + hJ)^T H^T(H(x + hu) − y_{t+h}) and minus the score (x at first)."""
    y, x = rows(M, stream=4), rows(D)
    cost = SquaredError(operator, y)
    method = FlowPriors(grid=Uniform(4, start=1e-3), weight=2.5, **DOUBLE)
    run, matrix = a_run(method, prior_of(law), cost), dense(operator, (D,))
    start = rows(D, stream=0)
    run.state = method.begin(run, start)
    t, s = run.at(step)
    h, eye = s.time - t.time, torch.eye(D, dtype=torch.float64)
    gain, _ = affine(law, t.alpha, t.sigma)
    jacobian = (gain - eye) / (1 - t.time)
    data = denoised(law, x, t.alpha, t.sigma)
    ahead = x + h * (data - x) / (1 - t.time)
    target = s.time * y + (1 - s.time) * start @ matrix.T
    fit = 5.0 * (ahead @ matrix.T - target) @ matrix @ (eye + h * jacobian)
    prior = x if step == 0 else (x - t.alpha * data) / t.sigma**2
    assert torch.allclose(method.gradient(run, x, step), fit + prior, **NEAR)
    # The divergence of an affine flow is the same everywhere: it has no gradient.
    assert torch.allclose(replace(method, probes=0).gradient(run, x, step), fit + prior, **NEAR)


def test_flow_priors_divergence_against_differences(mixture: Build, prior_of: Build) -> None:
    """h times the gradient of v^T J v for the sample's own signs, on a flow that is not affine."""
    cost = SquaredError(_Double(), rows(2, stream=4))
    method = FlowPriors(grid=Times((0.3,)), weight=1.0, probes=2, **DOUBLE)
    run, x = a_run(method, prior_of(mixture(3, 2)), cost), rows(2)
    run.state = method.begin(run, x)
    found = method.gradient(run, x, 0) - replace(method, probes=0).gradient(run, x, 0)

    def change(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        seen = run.predict(x, run.levels[0])
        return 0.7 * method._divergence(run, seen, x, 0, 0).detach()

    for i in range(2):
        unit = torch.zeros(2, dtype=torch.float64)
        unit[i] = 1e-5
        difference = (change(x + unit) - change(x - unit)) / 2e-5
        assert torch.allclose(found[:, i], difference, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 1e-2


def test_flow_priors_moves_with_the_flow(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """Gradient steps from fresh averages at every time, then Euler."""
    cost = SquaredError(operator, rows(M, stream=4))
    method = FlowPriors(
        grid=Uniform(3, start=1e-3),
        iterations=2,
        weight=0.5,
        optimizer=GradientDescent(learning_rate=0.05, momentum=0.5),
        **DOUBLE,
    )
    run = a_run(method, prior_of(law), cost)
    x = rows(D, stream=0)
    run.state = method.begin(run, x)
    for step in range(3):
        t, s = run.at(step)
        first = method.gradient(run, x, step, 0)
        x = x - 0.05 * first
        x = x - 0.05 * (0.5 * first + method.gradient(run, x, step, 1))
        x = x + (s.time - t.time) * run.prior.velocity(x, t.time)
    assert torch.allclose(method(prior_of(law), cost, seeds=SEEDS).samples, x, **NEAR)
