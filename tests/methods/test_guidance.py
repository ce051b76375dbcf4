"""TFG and its special cases, classifier guidance, DDRM: update rules, exactness, counters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, SquaredError
from ctrlgen.methods import (
    DDRM,
    DPS,
    LGDMC,
    MPGD,
    TFG,
    UGD,
    ClassifierGuidance,
    FreeDoM,
)
from ctrlgen.methods.gradients.schedules import schedule_weights
from ctrlgen.operators.base import LinearOperator
from ctrlgen.priors.paths import CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import DDPMUniform, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, walk

Build = Callable[..., Any]
D, M = 3, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
GRID = DDPMUniform(5, 900)


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.fixture
def problem(operator: LinearOperator, mixture: Build, prior_of: Build) -> tuple[Prior, Cost]:
    return prior_of(mixture(2, D)), SquaredError(operator, rows(M), 0.1)


class Reference:
    """The samplers of the papers' codes, in ᾱ and loops of their own, over the same noise."""

    def __init__(self, prior: Prior, cost: Cost, grid: DDPMUniform = GRID, eta: float = 1.0):
        self.flow, self.source, self.cost, self.eta = prior.flow.on(ddpm()), prior.source, cost, eta
        self.indices, self.seeds = [*grid.indices, -1], torch.tensor(SEEDS)
        self.bars = [*ddpm().alphas_cumprod.tolist(), 1.0]  # the last is index −1
        self.x = prior.start(SEEDS, **DOUBLE)

    def z(self, step: int, draw: int = 0) -> Tensor:
        return step_noise(self.source, self.seeds, step, self.x, draw)

    def predict(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        seen = self.flow.predict(x, 1 - i / 999)
        return seen.data, seen.noise

    def ddim(self, data: Tensor, noise: Tensor, i: int, j: int, z: Tensor) -> Tensor:
        bar_t, bar_s = self.bars[i], self.bars[j]
        c1 = self.eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
        return math.sqrt(bar_s) * data + math.sqrt(1 - bar_s - c1**2) * noise + c1 * z

    def norm(self, data: Tensor) -> Tensor:
        return self.cost.residual(data).square().sum(1).sqrt()  # type: ignore[attr-defined]

    def slope(self, energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(energy(x).sum(), x)[0]

    def back(self, x: Tensor, i: int, j: int, z: Tensor) -> Tensor:
        kept = self.bars[i] / self.bars[j]
        return math.sqrt(kept) * x + math.sqrt(1 - kept) * z

    def steps(self) -> list[tuple[int, tuple[int, int]]]:
        return [*enumerate(pairwise(self.indices))]

    # ------------------------------------------------------------ the methods

    def dps(self, zeta: float) -> Tensor:
        x = self.x
        for k, (i, j) in self.steps():
            data, noise = self.predict(x, i)
            slope = self.slope(lambda v, i=i: self.norm(self.predict(v, i)[0]), x)
            x = self.ddim(data, noise, i, j, self.z(k)) - zeta * slope
        return x

    def mpgd(self, c: float) -> Tensor:
        x = self.x
        for k, (i, j) in self.steps():
            data, noise = self.predict(x, i)
            data = data - c / math.sqrt(self.bars[i]) * self.slope(self.norm, data)
            x = self.ddim(data, noise, i, j, self.z(k))
        return x

    def lgd(self, strength: float, draws: int) -> Tensor:
        x = self.x
        for k, (i, j) in self.steps():
            data, noise = self.predict(x, i)
            r = math.sqrt(1 - self.bars[i])

            def log_mean(v: Tensor, i: int = i, k: int = k, r: float = r) -> Tensor:
                data = self.predict(v, i)[0]
                near = [self.cost(data + r * self.z(k, 2 + m)) for m in range(draws)]
                return torch.stack([(-e).exp() for e in near]).mean(0).log()

            new = self.ddim(data, noise, i, j, self.z(k))
            x = new + strength * self.slope(log_mean, x)
        return x

    def freedom(self, c: float, recurrences: int, window: tuple[float, float]) -> Tensor:
        x, n = self.x, len(self.steps())
        for k, (i, j) in self.steps():
            rounds = recurrences if window[0] <= k / n < window[1] else 1
            for r in range(rounds):
                data, noise = self.predict(x, i)
                slope = self.slope(lambda v, i=i: self.cost(self.predict(v, i)[0]), x)
                new = self.ddim(data, noise, i, j, self.z(k, 3 * r))
                new = new - c * math.sqrt(self.bars[i]) * slope
                if r + 1 < rounds:
                    x = self.back(new, i, j, self.z(k, 3 * r + 1))
            x = new
        return x

    def tfg(self, rho: float, mu: float, iterations: int, recurrences: int, up: bool) -> Tensor:
        """Published order: x_s = DDIM(x̂) + Δ_var/√α_step + √ᾱ_s Δ_mean."""
        kept = [self.bars[i] / self.bars[j] for _, (i, j) in self.steps()]
        q = [a if up else 1.0 for a in kept]
        share = [v * len(q) / sum(q) for v in q]
        x = self.x
        for k, (i, j) in self.steps():
            for r in range(recurrences):
                data, noise = self.predict(x, i)
                slope = self.slope(lambda v, i=i: self.cost(self.predict(v, i)[0]), x)
                better = data
                for _ in range(iterations):
                    better = better - mu * share[k] * self.slope(self.cost, better)
                new = self.ddim(data, noise, i, j, self.z(k, 3 * r))
                new = new - rho * share[k] * slope / math.sqrt(kept[k])
                new = new + math.sqrt(self.bars[j]) * (better - data)
                if r + 1 < recurrences:
                    x = self.back(new, i, j, self.z(k, 3 * r + 1))
            x = new
        return x


NAMED: dict[str, tuple[Any, Callable[[Reference], Tensor]]] = {
    "dps": (DPS(rho=0.4), lambda r: r.dps(0.4)),
    "dps-literal": (DPS(rho=0.2, energy="ratio"), lambda r: r.dps(0.4)),
    "mpgd": (MPGD(mu=0.05), lambda r: r.mpgd(0.05)),
    "lgd": (LGDMC(rho=0.1, draws=3), lambda r: r.lgd(0.1, 3)),
    "freedom": (
        FreeDoM(rho=0.1, recurrences=3, recur_within=(0.2, 0.7)),
        lambda r: r.freedom(0.1, 3, (0.2, 0.7)),
    ),
    "ugd": (  # as TFG has it; UGD itself is in `test_parity`
        UGD(rho=0.05, mu=0.03, iterations=2, enters="step"),
        lambda r: r.tfg(0.05, 0.03, 2, 2, False),
    ),
    "tfg": (
        TFG(rho=0.05, mu=0.03, iterations=2, recurrences=2),
        lambda r: r.tfg(0.05, 0.03, 2, 2, True),
    ),
}


def _square_of(cost: SquaredError, sign: int) -> Cost:
    """±‖Hx − y‖² as a function that tells of no residual."""
    return FunctionCost(
        lambda x, y: sign * (cost.operator(x) - y).square().sum(1), per_sample={"y": cost.y}
    )


CHANGES: dict[str, Any] = {
    "rho_schedule": "decrease",
    "mu_schedule": "decrease",
    "gamma": 0.5,
    "iterations": 2,
    "recurrences": 2,
    "guide_within": (0.0, 0.4),
    "energy": "norm",
    "enters": "noise",
    "carry": False,
    "relative": True,
    "largest": 1e-4,
    "manifold": lambda x: 0.9 * x,
    "clip": 0.3,
    "rule": DDIM(0.0),
    "start": "guided",
    "clock": CondOT(),
}


@pytest.mark.parametrize("name", NAMED)
def test_special_cases_are_the_papers_updates(name: str, problem: tuple[Prior, Cost]) -> None:
    prior, cost = problem
    method, reference = NAMED[name]
    found = replace(method, grid=GRID, **DOUBLE)(prior, cost, seeds=SEEDS)
    expected = reference(Reference(prior, cost))
    assert torch.allclose(found.samples, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["dps", "mpgd", "lgd", "freedom", "ugd"])
def test_special_cases_are_settings_of_one_method(name: str, problem: tuple[Prior, Cost]) -> None:
    """To the bit: every field handed to TFG."""
    prior, cost = problem
    method = replace(NAMED[name][0], grid=GRID, **DOUBLE)
    plain = TFG(**{f.name: getattr(method, f.name) for f in fields(method)})
    left, right = (m(prior, cost, seeds=SEEDS) for m in (method, plain))
    assert torch.equal(left.samples, right.samples) and torch.equal(left.costs, right.costs)


def test_dps_step_is_half_the_literal_one(problem: tuple[Prior, Cost]) -> None:
    prior, cost = problem
    original = DPS(rho=0.3, grid=GRID, **DOUBLE)(prior, cost, seeds=SEEDS)
    literal = DPS(rho=0.15, energy="ratio", grid=GRID, **DOUBLE)(prior, cost, seeds=SEEDS)
    assert torch.equal(original.samples, literal.samples)


def test_norms_are_of_the_residual_whatever_the_cost_says(problem: tuple[Prior, Cost]) -> None:
    """−PSNR of the same measurement gives the same DPS; a cost without one, its root."""
    prior, cost = problem
    assert isinstance(cost, SquaredError)
    psnr = NegativePSNR(cost.operator, cost.y, 0.1)
    method = DPS(rho=0.3, grid=GRID, **DOUBLE)
    plain, other, rooted = (
        method(prior, c, seeds=SEEDS).samples for c in (cost, psnr, _square_of(cost, 1))
    )
    assert torch.allclose(plain, other, rtol=0, atol=1e-12)
    assert torch.allclose(plain, rooted, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="never negative"):
        method(prior, _square_of(cost, -1), seeds=SEEDS)


def test_schedules_are_their_formulas() -> None:
    levels = GRID(ddpm())
    bars = [float(ddpm().alphas_cumprod[i]) for i in GRID.indices] + [1.0]
    kept = [t / s for t, s in pairwise(bars)]
    n = len(kept)
    expected = {
        "increase": [n * q / sum(kept) for q in kept],
        "decrease": [n * (1 - q) / sum(1 - q for q in kept) for q in kept],
        "constant": [1.0] * n,
        "signal": [math.sqrt(b) for b in bars[:-1]],
        "inverse": [1 / math.sqrt(b) for b in bars[:-1]],
    }
    for name, values in expected.items():
        assert schedule_weights(name, levels) == pytest.approx(values, rel=1e-8)  # type: ignore


def test_every_option_changes_the_outcome(problem: tuple[Prior, Cost]) -> None:
    prior, cost = problem
    method = TFG(rho=0.05, mu=0.05, grid=GRID, **DOUBLE)
    plain = method(prior, cost, seeds=SEEDS).samples
    for name, value in CHANGES.items():
        other = replace(method, **{name: value})(prior, cost, seeds=SEEDS).samples
        assert (other - plain).abs().max() > 1e-4, name
    smooth = replace(method, gamma=0.5)
    plain = smooth(prior, cost, seeds=SEEDS).samples
    for changes in ({"draws": 3}, {"gamma_schedule": "constant"}):
        other = replace(smooth, **changes)(prior, cost, seeds=SEEDS).samples
        assert (other - plain).abs().max() > 1e-4, changes
    travel = replace(method, recurrences=3)
    plain = travel(prior, cost, seeds=SEEDS).samples
    other = replace(travel, recur_within=(0.0, 0.3))(prior, cost, seeds=SEEDS)
    assert (other.samples - plain).abs().max() > 1e-4
    assert other.network.forward == 5 + 2 * 2


@pytest.mark.parametrize("path", [CondOT(), Cosine()], ids=["condot", "cosine"])
def test_guidance_without_strength_is_plain_sampling(
    path: Path, problem: tuple[Prior, Cost]
) -> None:
    prior, cost = problem
    method = TFG(rho=0.0, mu=0.0, clock=path, grid=GRID, **DOUBLE)
    read = Prior(prior.flow.on(path), prior.source)
    levels = GRID(path)
    x0 = prior.start(SEEDS, **DOUBLE) * math.hypot(levels[0].alpha, levels[0].sigma)
    expected = walk(read, x0, levels, DDIM(1.0), torch.tensor(SEEDS))
    assert torch.equal(method(prior, cost, seeds=SEEDS).samples, expected)


@pytest.mark.parametrize(
    ("method", "forward", "vjp"),
    [
        (DPS(), 5, 5),
        (LGDMC(draws=3), 5, 5),
        (MPGD(), 5, 0),
        (FreeDoM(recurrences=2, recur_within=(0.0, 1.0)), 10, 10),
        (UGD(recurrences=3), 15, 15),
        (TFG(iterations=4), 5, 5),
        (TFG(rho=0.0, mu=0.1), 5, 0),
        (ClassifierGuidance(), 5, 5),
        (DDRM(), 5, 0),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, int) else str(v),
)
def test_evaluations_are_those_of_the_formula(
    method: Any, forward: int, vjp: int, problem: tuple[Prior, Cost]
) -> None:
    prior, cost = problem
    result = replace(method, grid=GRID, **DOUBLE)(prior, cost, seeds=SEEDS)
    spent = result.network
    assert (spent.forward, spent.vjp, spent.jvp) == (forward, vjp, 0)
    assert (spent.forward_rows, spent.vjp_rows) == (3 * forward, 3 * vjp)
    assert result.counts() == {Status.FINISHED.label: 3}


def test_a_bounded_shift_of_classifier_guidance_does_not_come_back_in_the_noise(
    problem: tuple[Prior, Cost],
) -> None:
    """Where x̂ is held at its bound, ε̂ is what is left of the state: x = αx̂ + σε̂."""
    prior, cost = problem
    grid, bound = Uniform(2, 0.3), 0.4
    method = ClassifierGuidance(
        grid=grid, clock=None, rule=DDIM(), scale=50.0, clip=bound, **DOUBLE
    )
    found = []
    observed = method(prior, cost, seeds=SEEDS, observer=lambda event: found.append(event))
    t, s, end = grid(prior.flow.path)
    x = math.hypot(t.alpha, t.sigma) * prior.start(SEEDS, **DOUBLE)
    for level, after in ((t, s), (s, end)):
        point = x.clone().requires_grad_()
        seen = prior.predict(point, level.time)
        value = cost(seen.data.clamp(-bound, bound)).sum()
        (slope,) = torch.autograd.grad(value, point)
        data = (seen.data.detach() - 50 * level.sigma**2 / level.alpha * slope).clamp(-bound, bound)
        x = after.alpha * data + after.sigma * (x - level.alpha * data) / level.sigma
    assert torch.allclose(observed.samples, x, rtol=0, atol=1e-10)
    assert bool((observed.samples.abs() <= bound + 1e-12).all()) and len(found) == 2


@pytest.mark.parametrize("method", [DPS(rho=0.3), MPGD(mu=0.2), ClassifierGuidance(), DDRM()])
def test_guidance_lowers_the_cost(method: Any, problem: tuple[Prior, Cost]) -> None:
    prior, cost = problem
    grid = DDPMUniform(20)
    guided = replace(method, grid=grid, **DOUBLE)(prior, cost, seeds=SEEDS)
    free = TFG(rho=0.0, mu=0.0, grid=grid, **DOUBLE)(prior, cost, seeds=SEEDS)
    assert float(guided.costs.sum()) < 0.3 * float(free.costs.sum())
