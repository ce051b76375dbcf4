"""The start by secants: its end in closed form on Gaussian priors, its counts and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, LevelSet, NegativePSNR
from ctrlgen.methods import DFlow
from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.operators.base import Measurement, Operator, dense
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Midpoint
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
SEEDS = [5, 2, 8]
D, M = 4, 2
TORCH = {"dtype": torch.float64}
SPREAD = torch.tensor([[1.3, 0.4, 0.0, 0.2], [0.0, 0.9, 0.3, 0.0], [0.0, 0.0, 1.1, 0.5],
                       [0.0, 0.0, 0.0, 0.7]], **TORCH)  # fmt: skip


def rows(size: int, stream: int) -> Tensor:
    return normal(SEEDS, (size,), stream, **TORCH)


def prior_with(covariance: Tensor) -> Prior:
    return Prior(gaussian(rows(D, 2)[0], covariance).flow(), Gaussian((D,)))


@pytest.fixture
def problem(matrix_operator: Build) -> Callable[..., Measurement]:
    """A linear problem in four dimensions, two of them seen; no noise unless told."""
    matrix = normal([1], (M, D), 3, **TORCH)[0]
    return lambda noise=0.0: Measurement(matrix_operator(matrix), rows(M, 11), noise)


def residual(prior: Prior, given: Measurement, x0: Tensor) -> Tensor:
    return given.operator(prior.generate(x0, Midpoint(3))) - given.y


@pytest.mark.parametrize(
    ("covariance", "most"), [(0.6 * torch.eye(D, **TORCH), 2), (SPREAD @ SPREAD.T, M + 1)]
)
def test_a_gaussian_prior_takes_as_many_secants_as_eigenvalues(
    covariance: Tensor, most: int, problem: Build
) -> None:
    """The residual is affine: zero after a step for every distinct eigenvalue of r'K, and one."""
    prior, given, z = prior_with(covariance), problem(), rows(D, 0)
    x0 = MultiSecant(most, 0, radius=10)(prior, given, SEEDS, z)
    assert float(residual(prior, given, x0).abs().max()) < 1e-11
    before = MultiSecant(most - 1, 0, radius=10)(prior, given, SEEDS, z)
    assert float(residual(prior, given, before).abs().max()) > 1e-3


def test_the_first_step_is_the_formula(problem: Build) -> None:
    """z + (∂x̂/∂x)ᵀ H⁺(y − HΦ(z)), ∂x̂/∂x = αC(α²C + σ²I)⁻¹ of a Gaussian; H⁺ alone without."""
    covariance, given, z = SPREAD @ SPREAD.T, problem(), rows(D, 0)
    prior, t = prior_with(covariance), 0.4
    step = -residual(prior, given, z) @ torch.linalg.pinv(dense(given.operator, (D,))).T
    tangent = (
        t * covariance @ torch.linalg.inv(t**2 * covariance + (1 - t) ** 2 * torch.eye(D, **TORCH))
    )
    for tangents, move in {0: step, 1: step @ tangent}.items():
        start = MultiSecant(1, tangents, time=t, radius=10)
        x0 = start(prior, given, SEEDS, z)
        lower = residual(prior, given, z + move).norm(dim=1) < residual(prior, given, z).norm(dim=1)
        assert bool(lower.any())
        assert torch.allclose(x0, torch.where(lower[:, None], z + move, z), rtol=0, atol=1e-10)


def test_steps_stay_in_the_trust_region(problem: Build) -> None:
    prior, given, z = prior_with(SPREAD @ SPREAD.T), problem(), rows(D, 0)
    x0 = MultiSecant(1, 0, radius=0.05)(prior, given, SEEDS, z)
    assert torch.allclose((x0 - z).norm(dim=1), 0.05 * z.norm(dim=1), rtol=1e-9)


def test_a_sample_ends_at_the_noise_and_costs_no_more(problem: Build) -> None:
    """Five solves forward of four evaluations, two of the tangent; a sample that is done: one."""
    prior, given, z = prior_with(SPREAD @ SPREAD.T), problem(0.1), rows(D, 0)
    y = given.y.clone()
    y[1] = given.operator(prior.generate(z, Midpoint(2)))[1]
    counted, meter = prior.metered(torch.tensor(SEEDS))
    start = MultiSecant(12, 2, solver=Midpoint(2))
    x0 = start(counted, given._replace(y=y), SEEDS, z)
    left = (given.operator(prior.generate(x0, Midpoint(2))) - y).square().mean(1)
    assert bool((left <= 0.1**2).all())
    assert torch.equal(x0[1], z[1])
    assert meter.evaluations[1] == 4
    assert meter.backward_passes[1] == 0
    assert bool((meter.evaluations[[0, 2]] > 4).all())
    start = MultiSecant(4, 2, radius=10, memory=1, patience=5, solver=Midpoint(2))
    counted, meter = prior_with(0.6 * torch.eye(D, **TORCH)).metered(torch.tensor(SEEDS))
    start(counted, given._replace(noise=0.0, y=given.y + 1e3), SEEDS, z)
    assert meter.backward_passes.tolist() == [2, 2, 2]


class Bent(Operator):
    """A measurement that is not linear and has no pseudo-inverse."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x[:, :3]) + 0.1 * x[:, 1:].square()


def test_d_flow_begins_at_its_target_or_near_it() -> None:
    """Of any operator that is differentiable, or near it: L-BFGS has little left to do."""
    prior, operator = prior_with(SPREAD @ SPREAD.T), Bent()
    y = operator(prior.generate(rows(D, 21), Midpoint(3)))
    cost, optimizer = NegativePSNR(operator, y), LBFGS(max_iterations=60)
    plain = DFlow(optimizer=optimizer, target=-60, dtype=torch.float64)
    secants = DFlow(optimizer=optimizer, target=-60, dtype=torch.float64, initializer=MultiSecant())
    by_secants, by_descent = (d(prior, cost, seeds=SEEDS) for d in (secants, plain))
    assert bool((by_secants.status == Status.TARGET).all())
    assert by_secants.objective_calls[[0, 2]].tolist() == [1, 1]
    passes = [r.evaluations + r.backward_passes for r in (by_secants, by_descent)]
    assert bool((passes[0] < 0.7 * passes[1]).all())


def test_one_number_asked_of_a_sample_takes_a_secant(mixture: Build, prior_of: Build) -> None:
    """A property has no operator: its residual says all that is needed."""
    prior = prior_of(mixture(2, D))
    cost = LevelSet(lambda x: torch.sin(x).sum(1), torch.tensor([0.3, -0.4, 0.1], **TORCH))
    method = DFlow(target=1e-10, initializer=MultiSecant(), dtype=torch.float64)
    result = method(prior, cost, seeds=SEEDS)
    assert result.objective_calls.tolist() == [1, 1, 1]
    assert bool((result.costs <= 1e-10).all())


class Rates(torch.nn.Module):
    """A flow with a rate of its own for every sample."""

    def forward(self, x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -rate.unsqueeze(1) * x


def test_a_sample_that_is_not_finite_stays_and_harms_no_other(problem: Build) -> None:
    given, z = problem(), rows(D, 0)

    def start(rate: float) -> Tensor:
        rates = torch.tensor([0.1, rate, 1.0], **TORCH)
        prior = Prior(Flow(Rates(), CondOT()), Gaussian((D,)), conditions={"rate": rates})
        return MultiSecant(3).first_points(prior, given, SEEDS, z)

    broken, sound = start(torch.inf), start(0.5)
    assert torch.equal(broken[1], z[1])
    assert torch.equal(broken[[0, 2]], sound[[0, 2]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds: expected an integer >= 1, got 0"),
        ({"tangents": -1}, "tangents: expected an integer >= 0"),
        ({"memory": 1.5}, "memory: expected an integer"),
        ({"time": 1.0}, "time: expected a time in"),
        ({"radius": 0.0}, "radius: expected a positive"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiSecant(**settings)


def test_costs_that_are_no_squares_are_refused(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(2, D))
    method = DFlow(initializer=MultiSecant(), dtype=torch.float64)
    with pytest.raises(ValueError, match="initializer MultiSecant needs a sum of squares"):
        method(prior, FunctionCost(lambda x: x.sum(1)), seeds=SEEDS)
    with pytest.raises(ValueError, match="needs a cost with a measurement"):
        MultiSecant().check(prior, None)
