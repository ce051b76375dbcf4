"""The adaptive solver and DDIM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import VP, CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers import Dopri5, Euler, Midpoint, Velocity
from ctrlgen.testing.oracles import gaussian
from tests.solvers.transports import gradients, states, transported

Build = Callable[..., Any]


def test_dopri5_agrees_with_torchdiffeq(mixture: Build, prior_of: Build) -> None:
    velocity, x0 = prior_of(mixture(3, 4)).velocity, states(1, 4)
    ours = Dopri5(1e-10, 1e-10)(velocity, x0)
    theirs = odeint(
        lambda t, x: velocity(x, t), x0, torch.tensor([0.0, 1.0]).double(), rtol=1e-10, atol=1e-10,
        method="dopri5",
    )[-1]  # fmt: skip
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)


def test_dopri5_is_of_fifth_order() -> None:
    """One accepted step on x' = λx is the Taylor polynomial to the fifth power, plus 1/600 z^6."""
    x = torch.ones(1, 1, dtype=torch.float64)
    solver = Dopri5(1.0, 1.0)  # accepts anything
    solver._first_step = lambda x, slope, length: x.new_full((1,), length)  # type: ignore[method-assign]
    z = 0.8
    end = solver(lambda x, t: z * x, x)
    expected = sum(z**k / math.factorial(k) for k in range(6)) + z**6 / 600
    assert float(end) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_dopri5_keeps_its_tolerance(tolerance: float, mixture: Build, prior_of: Build) -> None:
    oracle, x0 = mixture(1, 3), states(4, 3)
    end = Dopri5(tolerance, tolerance)(prior_of(oracle).velocity, x0)
    error = (end - transported(oracle, x0, 1.0)).abs().max()
    assert 1e-4 * tolerance < error < 10 * tolerance


class Stiff:
    """x' = −k (x − cos 4t), a rate of its own for every row; counts the evaluations of each."""

    def __init__(
        self, rate: Tensor, row: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        self.rate = rate
        self.row = torch.arange(len(rate)) if row is None else row
        self.counts = torch.zeros(len(rate)) if counts is None else counts

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.counts[self.row] += 1
        return -self.rate.unsqueeze(1) * (x - torch.cos(4 * t).unsqueeze(1))

    def take(self, index: Tensor) -> Stiff:
        return Stiff(self.rate[index], self.row[index], self.counts)


RATES = torch.tensor([0.5, 150.0, 2.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.3, 0.0)], ids=str)
def test_dopri5_rows_are_independent(ends: tuple[float, float]) -> None:
    """Rows of very different stiffness: each takes the steps that it takes alone."""
    x0, together = states(4, 3), Stiff(RATES)
    end = Dopri5(1e-5, 1e-5)(Velocity(together), x0, *ends)
    for i in range(4):
        alone = Stiff(RATES[i : i + 1])
        single = Dopri5(1e-5, 1e-5)(Velocity(alone), x0[i : i + 1], *ends)
        scale = single.abs().max().clamp_min(1)
        assert torch.allclose(end[i : i + 1] / scale, single / scale, rtol=0, atol=1e-12)
        assert together.counts[i] == alone.counts[0]
    assert together.counts.max() > 4 * together.counts.min()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Dopri5(1e-5, 1e-5)(Velocity(Stiff(RATES[order])), x0[order], *ends)
    assert torch.allclose(shuffled, end[order], rtol=1e-12, atol=1e-12)


def test_dopri5_gradient_in_a_batch_is_the_gradient_alone() -> None:
    x0 = states(4, 3)
    together = gradients(Dopri5(1e-4, 1e-4), Velocity(Stiff(RATES)), x0)
    for i in range(4):
        alone = gradients(Dopri5(1e-4, 1e-4), Velocity(Stiff(RATES[i : i + 1])), x0[i : i + 1])
        assert torch.allclose(together[i], alone[0], rtol=1e-10, atol=1e-13)


class Exploding(Stiff):
    """x' = x² from 2 explodes at t = 1/2; from negative values it does not."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.counts[self.row] += 1
        return x**2

    def take(self, index: Tensor) -> Exploding:
        return Exploding(self.rate[index], self.row[index], self.counts)


def test_a_row_that_does_not_arrive_is_nan_and_nobody_notices() -> None:
    x0 = torch.tensor([[-1.0], [2.0], [-3.0]], dtype=torch.float64)
    healthy = torch.tensor([0, 2])
    solver = Dopri5(1e-5, 1e-5, max_steps=150)
    end = solver(Velocity(Exploding(torch.ones(3))), x0)
    assert end[1].isnan().all()
    assert torch.equal(end[healthy], solver(Velocity(Exploding(torch.ones(2))), x0[healthy]))
    assert torch.allclose(end[healthy], x0[healthy] / (1 - x0[healthy]), atol=1e-3)
    x0[1] = math.nan
    velocity = Exploding(torch.ones(3))
    assert torch.equal(solver(Velocity(velocity), x0)[healthy], end[healthy])
    assert velocity.counts[1] == 7  # lost with its first step, and left


def test_dopri5_serves_priors_with_conditions(mixture: Build) -> None:
    """Rows that have arrived take their conditions with them."""
    oracle = mixture(1, 2)

    class Conditional:
        def __call__(self, x: Tensor, t: Tensor, speed: Tensor) -> Tensor:
            return speed.unsqueeze(1) * oracle.velocity(x, CondOT()(t))

    from ctrlgen.priors.sources import Gaussian

    prior = Prior(
        Flow(Conditional(), CondOT()), Gaussian((2,)), conditions={"speed": 4.0 ** torch.arange(3)}
    )
    x1 = prior.generate(states(3, 2), Dopri5(1e-4, 1e-4))
    assert x1.shape == (3, 2) and x1.isfinite().all()
    assert prior.encode(x1, Dopri5(1e-4, 1e-4)).shape == (3, 2)


# ------------------------------------------------------------------ DDIM


def test_ddim_is_euler_in_the_noise_to_signal_clock(mixture: Build) -> None:
    """DDIM (η = 0), x_s = α_s x̂ + σ_s ε̂, is Euler of x/α in the variable σ/α with frozen ε̂."""
    path = VP()
    flow = mixture(2, 3).flow(path)
    times = torch.tensor([0.1, 0.3, 0.55, 0.8, 0.97], dtype=torch.float64)
    at = path(times)
    ratio = at.sigma / at.alpha
    x = ddim = states(4, 3)
    for i in range(len(times) - 1):
        seen = flow.predict(ddim, times[i])
        ddim = at.alpha[i + 1] * seen.data + at.sigma[i + 1] * seen.noise

    def slope(scaled: Tensor, tau: Tensor) -> Tensor:
        t = path.time_at(-2 * tau.log())
        return flow.noise(scaled * path(t).alpha.unsqueeze(1), t)

    positions = (ratio - ratio[0]) / (ratio[-1] - ratio[0])
    euler = Euler(grid=[0.0, *positions[1:-1].tolist(), 1.0])
    end = euler(slope, x / at.alpha[0], float(ratio[0]), float(ratio[-1]))
    assert torch.allclose(end * at.alpha[-1], ddim, rtol=0, atol=1e-10)


def test_one_gaussian_step_by_hand() -> None:
    """Midpoint on N(0, 4) in one dimension, h = 1/2, computed with pencil and paper."""
    prior = gaussian(torch.zeros(1).double(), 4 * torch.eye(1).double()).flow()

    def u(x: float, t: float) -> float:
        return x * (4 * t - (1 - t)) / (4 * t**2 + (1 - t) ** 2)

    x = 1.0
    for t in (0.0, 0.5):
        x = x + 0.5 * u(x + 0.25 * u(x, t), t + 0.25)
    end = Midpoint(2)(prior.velocity, torch.ones(1, 1, dtype=torch.float64))
    assert float(end) == pytest.approx(x, rel=1e-14)
