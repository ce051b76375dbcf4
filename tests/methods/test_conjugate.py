"""Conjugate integrators, ΠGDM and OT-ODE: identities, exact posteriors, structure, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import SquaredError
from ctrlgen.methods import OTODE, AncestralPiGDM, CPiGDM, CPiGFM, PiGDM
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.analytic.structure import inverse_problem
from ctrlgen.operators.base import LinearOperator, Measurement, Operator, Spectrum, dense
from ctrlgen.priors.paths import VP, CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import Times, Uniform
from ctrlgen.sampling.steps import DDIM, walk
from ctrlgen.testing.oracles import Mixture, gaussian

Build = Callable[..., Any]
D, M, STEPS = 4, 2, 10
SEEDS = [11, 5, 7, 2, 23, 9]  # one more than the dimensions: they determine an affine map
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


class Keep(LinearOperator):
    """y = m ⊙ x."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * x

    adjoint = pinv = project = __call__

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(self.mask.to(x).unsqueeze(0), *([lambda v: v] * 4))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


def measured(
    oracle: Mixture, operator: Operator, noise: float = 0.0, kind: type = SquaredError
) -> Any:
    y = operator(oracle.sample(SEEDS))
    return kind(operator, y + noise * rows(*y.shape[1:], stream=5), noise)


def test_without_weight_it_is_ddim(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost = measured(oracle, operator)
    for method in (CPiGDM(weight=0, decay=0, **DOUBLE), PiGDM(weight=0, **DOUBLE)):
        result = method(prior_of(oracle), cost, seeds=SEEDS)
        prior = Prior(oracle.flow(VP()), Gaussian((D,)))
        levels = method.grid(VP())
        z = prior.start(SEEDS, dtype=torch.float64)
        x = levels[0].alpha * operator.pinv(cost.y) + levels[0].sigma * z
        assert torch.allclose(result.samples, walk(prior, x, levels, DDIM()), rtol=0, atol=1e-9)


def test_without_weight_a_flow_takes_euler_steps(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    prior, cost = prior_of(oracle), measured(oracle, operator)
    for method in (CPiGFM(weight=0, **DOUBLE), OTODE(weight=0, **DOUBLE)):
        result = method(prior, cost, seeds=SEEDS)
        levels = method.grid(CondOT())
        x = levels[0].alpha * operator.pinv(cost.y)
        x = x + levels[0].sigma * prior.start(SEEDS, dtype=torch.float64)
        for t, s in pairwise(levels):
            x = x + (s.time - t.time) * prior.velocity(x, t.time)
        assert torch.allclose(result.samples, x, rtol=0, atol=1e-12)


def test_without_weight_lambda_is_that_of_ddim(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Both forms integrate the same unconditional ODE, with λ and without."""
    oracle = mixture(2, D)
    cost, grid = measured(oracle, operator), truncated(7, 0.4)
    conjugate, plain = (
        kind(grid=grid, weight=0, decay=-0.4, **DOUBLE)(prior_of(oracle), cost, seeds=SEEDS)
        for kind in (CPiGDM, PiGDM)
    )
    assert torch.allclose(conjugate.samples, plain.samples, rtol=0, atol=1e-12)
    other = CPiGDM(grid=grid, weight=0, decay=0, **DOUBLE)(prior_of(oracle), cost, seeds=SEEDS)
    assert (conjugate.samples - other.samples).abs().max() > 1e-3


def guided_reference(
    prior: Prior, problem: Any, x: Tensor, times: tuple[float, float], w: float, steps: int = 30
) -> Tensor:
    """The black-box ODE  u + (σW/α) w r²α² ∇log p(y|x)  by RK4."""

    def rate(x: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            seen = prior.predict(x, t)
            at = prior.flow.path(torch.tensor(t, dtype=torch.float64))
            r2 = float(at.sigma**2 / (at.alpha**2 + at.sigma**2))
            pull = problem.pull(seen.data.detach(), r2)
            (g,) = torch.autograd.grad(seen.data, x, pull)
        return (seen.velocity + w * at.sigma * at.wronskian * at.alpha * g).detach()

    h = (times[1] - times[0]) / steps
    for k in range(steps):
        t = times[0] + k * h
        k1 = rate(x, t)
        k2 = rate(x + h / 2 * k1, t + h / 2)
        k3 = rate(x + h / 2 * k2, t + h / 2)
        k4 = rate(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.parametrize(
    ("kind", "path", "decay", "noise"),
    [(CPiGDM, VP(), 0.0, 0.3), (CPiGDM, VP(), -0.4, 0.0), (CPiGDM, CondOT(), 0.0, 0.3),
     (CPiGFM, CondOT(), 0.0, 0.0), (CPiGFM, CondOT(), 0.2, 0.3), (CPiGFM, Cosine(), 0.0, 0.3)],
    ids=["vp", "vp-lambda", "noise-form-flow", "flow", "flow-lambda", "flow-cosine"],
)  # fmt: skip
def test_many_steps_solve_the_guided_ode(
    kind: Any, path: Path, decay: float, noise: float,
    operator: LinearOperator, mixture: Build,
) -> None:  # fmt: skip
    """First order in the step, to the same end whatever λ (the ODE is that of w r²α² ∇log p)."""
    oracle = mixture(1, D)
    cost, prior = measured(oracle, operator, noise), Prior(oracle.flow(path), Gaussian((D,)))
    changes = {"clock": None} if kind is CPiGDM else {}
    times, ends = (0.6, 0.95), []
    for steps in (10, 20, 40):
        method = kind(grid=Uniform(steps, *times), weight=3.0, decay=decay, **changes, **DOUBLE)
        ends.append(method(prior, cost, seeds=SEEDS).controls)
    z = prior.start(SEEDS, dtype=torch.float64)
    problem = inverse_problem(prior, cost.measurement, z)
    at = method.grid(path)[0]
    expected = guided_reference(prior, problem, at.alpha * problem.proxy + at.sigma * z, times, 3.0)
    errors = [float((end - expected).abs().max()) for end in ends]
    assert 1.8 < errors[0] / errors[1] < 2.3 and 1.9 < errors[1] / errors[2] < 2.2
    second = ends[1] + (ends[1] - ends[0])
    fourth = ends[2] + (ends[2] - ends[1])
    best = fourth + (fourth - second) / 3
    assert float((best - expected).abs().max()) < 0.02 * errors[2]


def test_the_guidance_of_a_standard_gaussian_is_exact(operator: LinearOperator) -> None:
    """u(x|y) = u + (σW/α) ∇log p(y|x) is the velocity of the posterior, on every path."""
    standard = gaussian(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    y, noise, x = rows(M)[:1], 0.5, rows(D, stream=8)
    posterior = standard.posterior(dense(operator, (D,)), y[0], noise)
    for path, time in ((CondOT(), 0.4), (VP(), 0.7), (Cosine(), 0.2)):
        prior = Prior(standard.flow(path), Gaussian((D,)))
        problem = inverse_problem(prior, Measurement(operator, y.expand(len(x), -1), noise), x)
        at = path(torch.tensor(time, dtype=torch.float64))
        r2 = float(at.sigma**2 / (at.alpha**2 + at.sigma**2))
        given = x.clone().requires_grad_()
        seen = prior.predict(given, time)
        pull = problem.pull(seen.data.detach(), r2) / r2
        (g,) = torch.autograd.grad(seen.data, given, pull)
        guided = seen.velocity + at.sigma * at.wronskian / at.alpha * g
        expected = posterior.flow(path).velocity(x, time)
        assert torch.allclose(guided, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(OTODE, {}), (PiGDM, {"weighting": "posterior", "weight": 1.0})],
    ids=["otode", "pigdm-posterior"],
)
def test_a_standard_gaussian_flows_to_its_posterior(
    kind: Any, changes: dict[str, Any], operator: LinearOperator, prior_of: Build
) -> None:
    """Mean and covariance of the affine map from the source, which six samples determine."""
    standard = gaussian(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    y, noise = rows(M)[:1], 0.5
    cost = SquaredError(operator, y.expand(len(SEEDS), -1), noise)
    prior = prior_of(standard)
    ends = []
    for steps in (40, 80):
        grid = Uniform(steps, 1e-3, 0.9999, clean=False)
        method = kind(grid=grid, start="source", **changes, **DOUBLE)
        ends.append(method(prior, cost, seeds=SEEDS).samples)
    z = prior.start(SEEDS, dtype=torch.float64)
    lift = torch.cat((z, torch.ones(len(z), 1, dtype=torch.float64)), 1)
    posterior = standard.posterior(dense(operator, (D,)), y[0], noise)
    gaps = []
    for end in (*ends, 2 * ends[1] - ends[0]):
        matrix = torch.linalg.lstsq(lift, end).solution
        mean, covariance = matrix[-1], matrix[:-1].T @ matrix[:-1]
        gaps.append(
            max(
                float((mean - posterior.mean).abs().max()),
                float((covariance - posterior.covariance).abs().max()),
            )
        )
    assert gaps[1] < 0.6 * gaps[0] and gaps[2] < 5e-3


def test_null_space_of_a_mask_is_not_measured(prior_of: Build, mixture: Build) -> None:
    keep = Keep(torch.tensor([True, False, True, True]))
    cost = measured(mixture(1, D), keep)
    problem = inverse_problem(prior_of(mixture(1, D)), cost.measurement, rows(D))
    assert bool((problem.proxy[:, 1] == 0).all())
    assert bool((problem.pull(rows(D, stream=9), 0.3)[:, 1] == 0).all())


def test_original_steps_are_those_published(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """DDIM(1), plus w α α' (∂x̂/∂x)^T r² H^T (r² HH^T + σ_y²)^{-1} (y − Hx̂), by hand."""
    oracle, noise = mixture(2, D), 0.2
    cost = measured(oracle, operator, noise)
    method = AncestralPiGDM(grid=Times((0.5, 0.8), stop=0.9), clock=VP(), weight=1.7, **DOUBLE)
    result = method(prior_of(oracle), cost, seeds=SEEDS)
    prior = Prior(oracle.flow(VP()), Gaussian((D,)))
    levels, h = method.grid(VP()), dense(operator, (D,))
    x = levels[0].alpha * operator.pinv(cost.y)
    x = x + levels[0].sigma * prior.start(SEEDS, dtype=torch.float64)
    for k, (t, s) in enumerate(pairwise(levels)):
        x = x.detach().requires_grad_()
        seen, r2 = prior.predict(x, t.time), t.sigma**2
        gram = r2 * h @ h.T + noise**2 * torch.eye(M, dtype=torch.float64)
        e = cost.y - seen.data.detach() @ h.T
        (g,) = torch.autograd.grad(
            seen.data, x, r2 * torch.linalg.solve(gram, e.T).T @ h, retain_graph=True
        )
        z = step_noise(prior.source, torch.tensor(SEEDS), k, x)
        moved = DDIM(1.0)(seen.data, seen.noise, t, s, z)
        x = moved + 1.7 * t.alpha * s.alpha * g
    assert torch.allclose(result.controls, x, rtol=0, atol=1e-9)


def test_splicing_puts_the_measurement_in_place(mixture: Build, prior_of: Build) -> None:
    oracle, keep = mixture(2, D), Keep(torch.tensor([True, False, True, False]))
    cost = measured(oracle, keep)
    method = AncestralPiGDM(grid=Uniform(10, 0.1), **DOUBLE)
    plain, spliced = (
        replace(method, splice=on)(prior_of(oracle), cost, seeds=SEEDS) for on in (False, True)
    )
    assert spliced.costs.max() < 1e-20 < plain.costs.max()
    assert (spliced.samples - plain.samples).abs().max() > 1e-2


def test_schedules_weights_and_finals_change_the_outcome(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost = measured(oracle, operator, 0.1)
    short = Uniform(5, 0.3)
    variants: dict[str, list[Any]] = {
        "otode": [OTODE(grid=short, schedule=s, weight=w, **DOUBLE) for s, w in
                  (("constant", 1.0), ("growing", 1.0), ("constant", 0.3))],
        "pigdm": [PiGDM(**c, **DOUBLE) for c in
                  ({}, {"weighting": "posterior"}, {"decay": -0.4}, {"final": "tweedie"})],
        "cpigdm": [CPiGDM(**c, **DOUBLE) for c in
                   ({}, {"noisy": "released"}, {"decay": 0.0}, {"start": "source"},
                    {"clock": Cosine()}, {"final": "tweedie"})],
    }  # fmt: skip
    for methods in variants.values():
        found = [m(prior_of(oracle), cost, seeds=SEEDS).samples for m in methods]
        for i, first in enumerate(found):
            for other in found[:i]:
                assert (first - other).abs().max() > 1e-4


def test_released_jacobian_carries_an_extra_step(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """x̄ ← ... + δ (ΔΦ_j1 + ΔΦ_j2) q, one step by hand."""
    oracle, w, t, s = mixture(1, D), 6.0, 0.4, 0.7
    cost, prior = measured(oracle, operator), prior_of(oracle)
    method = CPiGFM(grid=Times((t,), stop=s), weight=w, jacobian="released", **DOUBLE)
    result = method(prior, cost, seeds=SEEDS)
    x = t * operator.pinv(cost.y) + (1 - t) * prior.start(SEEDS, dtype=torch.float64)
    x.requires_grad_()
    u = prior.velocity(x, t)
    data = (x + (1 - t) * u).detach()
    p = operator.pinv(cost.y)
    (q,) = torch.autograd.grad(u, x, p - operator.project(data))

    def b(v: float) -> float:
        return w * (v**2 / 2 - v**3 / 3)

    def a(v: Tensor, time: float, sign: int) -> Tensor:
        return v + (math.exp(sign * b(time)) - 1) * operator.project(v)

    def phi(v: float) -> tuple[float, float]:
        return math.exp(b(v)) - 1, 1 - (1 - v) * math.exp(b(v))

    times = torch.linspace(t, s, 20001, dtype=torch.float64)
    rate = w * times * (1 - times) ** 2 * torch.exp(w * (times**2 / 2 - times**3 / 3))
    (y0, u0), (y1, u1) = phi(t), phi(s)
    bar = a(x.detach(), t, 1) + (y1 - y0) * p
    bar = bar + (s - t) * u + (u1 - u0 - (s - t)) * operator.project(u)
    bar = bar + (s - t) * torch.trapezoid(rate, times) * q
    assert torch.allclose(result.controls, a(bar, s, -1), rtol=0, atol=1e-7)
