"""Grids and step rules: their formulas, their laws on oracles, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import (
    CLEAN,
    DDPMUniform,
    Grid,
    Karras,
    Level,
    Power,
    Times,
    Uniform,
    ddpm,
    level_at,
    positions,
)
from ctrlgen.sampling.steps import (
    DDIM,
    Ancestral,
    EDMStep,
    EulerStep,
    HeunStep,
    StepRule,
    renoise,
    step_noise,
    walk,
)
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
D = 3
SEEDS = [5, 3, 8]


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


# ------------------------------------------------------------------ grids


def test_ddpm_grid_visits_the_indices_of_the_table() -> None:
    grid = DDPMUniform(50, 400)
    assert grid.indices == [*range(392, -1, -8)]
    levels = grid(ddpm())
    assert len(levels) == 51 and levels[-1] == CLEAN
    bars = ddpm().alphas_cumprod
    for index, level in zip(grid.indices, levels, strict=False):
        assert level.alpha**2 == pytest.approx(float(bars[index]), rel=1e-9)
        assert level.sigma**2 == pytest.approx(float(1 - bars[index]), rel=1e-9)


def test_ddpm_grid_never_takes_more_steps_than_asked() -> None:
    """But where the rule of the released code is asked for by its name."""
    for steps in (1, 7, 30, 60, 600, 999, 1000):
        indices = DDPMUniform(steps).indices
        assert len(set(indices)) == steps and indices[-1] == 0 and indices[0] < 1000
        gaps = [a - b for a, b in pairwise(indices)]
        assert not gaps or max(gaps) - min(gaps) <= 1
        if 1000 % steps == 0:
            assert indices == DDPMUniform(steps, spacing="released").indices
    assert [len(DDPMUniform(n, spacing="released").indices) for n in (30, 60, 600)] == [
        31,
        63,
        1000,
    ]
    assert DDPMUniform(4, 10, 2).indices == [8, 6, 4, 2]
    with pytest.raises(ValueError, match="spacing: expected 'even' or 'released', got 'odd'"):
        DDPMUniform(4, spacing="odd")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [CondOT(), Cosine(), EDM()], ids=str)
def test_ddpm_grid_has_the_same_noise_on_every_path(path: Path) -> None:
    grid = DDPMUniform(7, 700, 20)
    here, there = grid(path), grid(ddpm())
    for a, b in zip(here[:-1], there[:-1], strict=True):
        assert a.ratio == pytest.approx(b.ratio, rel=1e-7)


def test_power_grid_shortens_its_steps_towards_the_end() -> None:
    times = Power(10, power=1.5).times(CondOT())
    assert times == pytest.approx([1 - (1 - k / 10) ** 1.5 for k in range(10)], abs=1e-15)
    assert Power(10, power=1).times(CondOT()) == pytest.approx(Uniform(10).times(CondOT()))
    part = Power(4, start=0.2, stop=0.6, power=2.0)
    assert part.times(CondOT()) == pytest.approx([0.2, 0.375, 0.5, 0.575], abs=1e-12)
    assert part.end(CondOT()).time == 0.6
    assert positions(Power(power=2.0), 2, CondOT()) == [0, 0.75, 1]
    assert Power(9, power=2.0).config() == {
        "start": 0.0, "stop": 1.0, "clean": True, "power": 2.0
    }  # fmt: skip


def test_karras_grid_is_linear_in_the_root() -> None:
    levels = Karras(5, 0.01, 10.0, rho=3.0)(CondOT())
    roots = [v.ratio ** (1 / 3) for v in levels[:-1]]
    assert roots[0] == pytest.approx(10.0 ** (1 / 3)) and roots[-1] == pytest.approx(
        0.01 ** (1 / 3)
    )
    steps = [a - b for a, b in pairwise(roots)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-9)
    assert levels[-1] == CLEAN


def test_uniform_and_given_times() -> None:
    levels = Uniform(4, start=0.2)(CondOT())
    assert [v.time for v in levels] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert levels[1].alpha == pytest.approx(0.4) and levels[-1] == CLEAN
    noisy = Uniform(4, clean=False)(VP())[-1]
    assert noisy == level_at(VP(), 1.0) and noisy.sigma > 0
    assert [v.time for v in Times((0.0, 0.5), stop=0.9)(CondOT())] == [0.0, 0.5, 0.9]


def test_levels_carry_the_slopes_of_the_path() -> None:
    t, h = 0.37, 1e-6
    for path in (CondOT(), Cosine(), VP(), EDM()):
        level, after, before = (level_at(path, v) for v in (t, t + h, t - h))
        assert level.d_alpha == pytest.approx((after.alpha - before.alpha) / (2 * h), rel=1e-6)
        assert level.d_sigma == pytest.approx((after.sigma - before.sigma) / (2 * h), rel=1e-6)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Uniform(0), "steps"),
        (lambda: Uniform(5, start=1.0), "start"),
        (lambda: DDPMUniform(50, 1001), "t_end"),
        (lambda: DDPMUniform(50, 20), "steps"),
        (lambda: Karras(5, 2.0, 1.0), "sigma_min"),
        (lambda: Times(()), "at"),
        (lambda: Times((0.5,), stop=0.4), "stop"),
        (lambda: Times((0.5, 0.2))(CondOT()), "grid"),
        (lambda: Karras(10, 0.1, 1e4)(EDM(0.01, 20.0)), "grid"),
    ],
)
def test_grids_refuse_what_makes_no_sense(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_the_papers_formula_on_vp(eta: float) -> None:
    bars = ddpm().alphas_cumprod
    t, s = (level_at(ddpm(), 1 - i / 999) for i in (600, 540))
    bar_t, bar_s = float(bars[600]), float(bars[540])
    c1 = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
    expected = (math.sqrt(bar_s), math.sqrt(1 - bar_s - c1**2), c1)
    assert tuple(DDIM(eta).mix(t, s)) == pytest.approx(expected, rel=1e-9)


def test_ancestral_step_is_the_ddpm_posterior() -> None:
    """η = 1: mean and variance of q(x_s | x_t, x̂)."""
    bars = ddpm().alphas_cumprod
    t, s = (level_at(ddpm(), 1 - i / 999) for i in (301, 300))
    bar_t, bar_s = float(bars[301]), float(bars[300])
    beta = 1 - bar_t / bar_s
    x, data = rows(D), rows(D, stream=22)
    noise = (x - t.alpha * data) / t.sigma
    mean = (
        math.sqrt(bar_s) * beta / (1 - bar_t) * data
        + math.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t) * x
    )
    assert torch.allclose(DDIM(1.0)(data, noise, t, s, torch.zeros_like(x)), mean, atol=1e-9)
    variance = (1 - bar_s) / (1 - bar_t) * beta
    assert DDIM(1.0).mix(t, s).fresh ** 2 == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=str)
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_is_the_same_step_on_every_path(path: Path, eta: float) -> None:
    """In x/α, at equal noise-to-signal ratios."""
    t, s = DDPMUniform(10)(path)[3:5]
    t_vp, s_vp = DDPMUniform(10)(ddpm())[3:5]
    data, noise, z = rows(D), rows(D, stream=22), rows(D, stream=23)
    here = DDIM(eta)(data, noise, t, s, z) / s.alpha
    there = DDIM(eta)(data, noise, t_vp, s_vp, z) / s_vp.alpha
    assert torch.allclose(here, there, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=str)
def test_ddim_without_noise_is_euler_in_the_noise_ratio(path: Path) -> None:
    """x/α moves by ε̂ times the change of σ/α, ε̂ frozen."""
    t, s = level_at(path, 0.4), level_at(path, 0.55)
    data, noise = rows(D), rows(D, stream=22)
    x = t.alpha * data + t.sigma * noise
    euler = x / t.alpha + (s.ratio - t.ratio) * noise
    assert torch.allclose(DDIM(0.0)(data, noise, t, s), s.alpha * euler, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=str)
def test_euler_adds_the_velocity(path: Path, mixture: Build, prior_of: Build) -> None:
    prior, x = prior_of(mixture(2, D), path), rows(D)
    t, s = level_at(path, 0.4), level_at(path, 0.55)
    expected = x + 0.15 * prior.velocity(x, 0.4)
    assert torch.allclose(EulerStep().advance(prior, x, t, s, None), expected, atol=1e-9)


@pytest.mark.parametrize("rule", [DDIM(0.0), EulerStep(), HeunStep(), EDMStep()], ids=str)
def test_a_bound_holds_in_every_evaluation_of_a_step(
    rule: StepRule, mixture: Build, prior_of: Build
) -> None:
    """As on a prior whose denoiser is bounded itself; a wide bound changes nothing."""
    prior, x = prior_of(mixture(2, D), Cosine()), 3 * rows(D)
    flow = Flow(lambda y, time: prior.predict(y, time).data.clamp(-0.2, 0.2), Cosine(), "data")
    bounded = Prior(flow, Gaussian((D,)))
    t, s = level_at(Cosine(), 0.4), level_at(Cosine(), 0.55)
    free, wide, narrow = (rule.advance(prior, x, t, s, None, clip) for clip in (None, 1e6, 0.2))
    assert torch.allclose(free, wide, atol=1e-9) and (free - narrow).abs().max() > 0.01
    expected = rule.advance(bounded, x, t, s, None)
    assert torch.allclose(narrow, expected, atol=1e-9)


def test_on_straight_paths_euler_is_ddim() -> None:
    t, s = level_at(CondOT(), 0.4), level_at(CondOT(), 0.55)
    assert EulerStep().mix(t, s) == pytest.approx(DDIM(0.0).mix(t, s), abs=1e-12)


CONVERGING = {
    "ddim": (DDIM(0.0), lambda n: DDPMUniform(n), VP(), 1),
    "euler": (EulerStep(), lambda n: Uniform(n), Cosine(), 1),
    "heun": (HeunStep(), lambda n: Uniform(n, clean=False), Cosine(), 2),
    "edm": (EDMStep(), lambda n: Karras(n, 0.01, 20.0), EDM(0.01, 20.0), 2),
}


@pytest.mark.parametrize("name", ["euler", "heun", "edm"])
def test_rules_converge_at_their_order(name: str, prior_of: Build) -> None:
    """To the exact flow of a Gaussian, x(1) = m + S^{1/2} x_0 in the eigenbasis."""
    rule, grid, path, order = CONVERGING[name]
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    scale = torch.tensor([0.8, 1.4], dtype=torch.float64)
    prior = prior_of(gaussian(mean, torch.diag(scale**2)), path)
    x0 = rows(2)
    levels = grid(48)(path)
    first, last = levels[0], level_at(path, levels[-2].time) if name == "edm" else levels[-1]
    spread = (first.alpha**2 * scale**2 + first.sigma**2).sqrt()
    start = first.alpha * mean + spread * x0

    def error(n: int) -> float:
        levels = grid(n)(path)
        steps = levels[:-1] if name == "edm" else levels
        out = walk(prior, start, steps, rule)
        wide = (last.alpha**2 * scale**2 + last.sigma**2).sqrt()
        return float((out - last.alpha * mean - wide * x0).abs().max())

    ratio = error(24) / error(48)
    assert 2**order * 0.85 < ratio < 2**order * 1.3, ratio


def chain_variance(levels: list[Level], rule: StepRule, variance: float) -> float:
    """The exact variance at the end of a discrete chain on the prior N(0, variance)."""
    spread = levels[0].alpha ** 2 + levels[0].sigma ** 2
    for t, s in pairwise(levels):
        a, b, c = rule.mix(t, s)
        gain = t.alpha * variance / (t.alpha**2 * variance + t.sigma**2)  # x̂ = gain x
        slope = a * gain + b * (1 - t.alpha * gain) / t.sigma
        spread = slope**2 * spread + c**2
    return spread


def test_chains_have_the_variance_that_their_coefficients_say(prior_of: Build) -> None:
    """And their limit is the variance of the data."""
    oracle = gaussian(torch.zeros(1, dtype=torch.float64), torch.full((1, 1), 0.5).double())
    prior, seeds = Prior(prior_of(oracle).flow.on(ddpm()), Gaussian((1,))), torch.arange(4000)
    for rule in (DDIM(0.0), DDIM(0.5), DDIM(1.0)):
        levels = DDPMUniform(20)(ddpm())
        x = walk(prior, prior.start(seeds, dtype=torch.float64), levels, rule, seeds)
        expected = chain_variance(levels, rule, 0.5)
        assert float(x.var()) == pytest.approx(expected, rel=0.06)
        limit = chain_variance(DDPMUniform(1000)(ddpm()), rule, 0.5)
        assert limit == pytest.approx(0.5, rel=0.015)


def test_long_stochastic_steps_cool_the_law(prior_of: Build) -> None:
    """Fifty at rate 16 leave a normal variable 0.56 of its variance; in the limit they keep it."""
    oracle = gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    prior, rule = prior_of(oracle), Ancestral(16.0)
    levels = Power(50, power=1.5)(CondOT())
    x = walk(prior, prior.start(range(4000), dtype=torch.float64), levels, rule, range(4000))
    assert chain_variance(levels, rule, 1.0) == pytest.approx(0.56, abs=0.005)
    assert float(x.var()) == pytest.approx(0.56, rel=0.08)
    assert chain_variance(Power(20000, power=1.5)(CondOT()), rule, 1.0) == pytest.approx(
        1, abs=0.01
    )


def test_churn_keeps_the_marginal(prior_of: Build) -> None:
    """Raised noise is taken off again: the law of the states stays that of the path."""
    oracle = gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64) * 0.25)
    path = EDM(0.01, 20.0)
    prior, seeds = prior_of(oracle, path), torch.arange(4000)
    levels = Karras(24, 0.01, 20.0)(path)
    x0 = prior.start(seeds, dtype=torch.float64)
    plain = walk(prior, x0, levels, EDMStep())
    churned = walk(prior, x0, levels, EDMStep(0.2, churn_from=0.05, churn_to=10.0), seeds)
    assert float((plain - churned).abs().max()) > 0.1
    for x in (plain, churned):
        assert float(x.var()) == pytest.approx(0.25, rel=0.08)


@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=str)
def test_renoising_gives_the_marginal_of_the_noisier_level(path: Path) -> None:
    s, t = level_at(path, 0.7), level_at(path, 0.3)
    data, e, z = rows(D), rows(D, stream=22), rows(D, stream=23)
    back = renoise(s.alpha * data + s.sigma * e, s, t, z)
    mean = t.alpha * data
    assert torch.allclose(
        back - mean - t.alpha / s.alpha * s.sigma * e,
        back - renoise(s.alpha * data + s.sigma * e, s, t, torch.zeros_like(z)),
        atol=1e-12,
    )
    left = renoise(torch.zeros_like(z), s, t, z) / z
    total = left[0, 0] ** 2 + (t.alpha / s.alpha * s.sigma) ** 2
    assert float(total) == pytest.approx(t.sigma**2, rel=1e-9)
    with pytest.raises(ValueError, match="noisier"):
        renoise(data, t, s, z)


def test_noise_of_steps_and_draws_differ_and_belong_to_the_seed() -> None:
    source, like = Gaussian((2, 3)), torch.zeros(1, dtype=torch.float64)
    one = step_noise(source, SEEDS, 4, like)
    assert one.shape == (3, 2, 3)
    assert torch.equal(step_noise(source, [SEEDS[1]], 4, like)[0], one[1])
    for other in (step_noise(source, SEEDS, 5, like), step_noise(source, SEEDS, 4, like, 1)):
        assert (other - one).abs().max() > 0.5
    with pytest.raises(ValueError, match="draw"):
        step_noise(source, SEEDS, 0, like, 2**20)


def test_walks_are_differentiable(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(2, D))
    levels = Uniform(2)(prior.flow.path)
    x = rows(D)[:1].requires_grad_()
    function = lambda v: walk(prior, v, levels, HeunStep())  # noqa: E731
    assert torch.autograd.gradcheck(function, x, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: DDIM(1.2), "eta"),
        (lambda: EDMStep(0.5), "churn"),
        (lambda: EDMStep(0.1, 2.0, 1.0), "churn_from"),
        (lambda: DDIM(0.5)(torch.zeros(1), torch.zeros(1), Level(0.1, 0.1, 0.9), CLEAN), None),
        (
            lambda: DDIM(0.5)(
                torch.zeros(1), torch.zeros(1), Level(0.1, 0.1, 0.9), Level(0.2, 0.2, 0.8)
            ),
            "fresh noise",
        ),
    ],
)
def test_rules_refuse_what_makes_no_sense(build: Callable[[], Any], text: str | None) -> None:
    if text is None:  # the step to the datum draws nothing
        build()
        return
    with pytest.raises(ValueError, match=text):
        build()


def test_rules_and_grids_are_values() -> None:
    assert DDIM(0.3) == DDIM(0.3) != DDIM(0.4)
    assert DDPMUniform(20) == DDPMUniform(20) and isinstance(DDPMUniform(20), Grid)
    assert isinstance(HeunStep(), StepRule)
