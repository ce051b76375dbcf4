"""Fresh noise where training joined noise with data: the law of the samples, in closed form.

x_1 ~ N(0, v) and x_0 = m x_1 + s z with m² v + s² = 1: all that a flow says is linear in its state.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctrlgen.methods import TFG
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import Mix, back, fresh_noise, renoise
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.levels import level_at
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import DDIM, Ancestral, StepRule, walk

V, M = 0.5, 1.1
S = math.sqrt(1 - M**2 * V)
SEEDS = torch.arange(3000)


class Tied(Gaussian):
    """Noise that training has tied to its datum."""

    def coupled(self, noise: Tensor, data: Tensor) -> Tensor:
        return M * data + S * noise


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x_1 − x_0 | x_t]."""
    t = t.unsqueeze(1)
    variance = t**2 * V + (1 - t) ** 2 + 2 * t * (1 - t) * M * V
    data, noise = t * V + (1 - t) * M * V, t * M * V + (1 - t)
    return (data - noise) / variance * x


@pytest.fixture
def prior() -> Prior:
    return Prior(Flow(velocity, CondOT()), Tied((1,)))


@pytest.mark.parametrize(
    ("rule", "steps"), [(DDIM(0.3), 100), (DDIM(1.0), 400), (Ancestral(2.0), 400)], ids=repr
)
def test_stochastic_steps_keep_the_law_of_the_data(
    rule: StepRule, steps: int, prior: Prior
) -> None:
    x = prior.start(SEEDS, dtype=torch.float64)
    assert prior.source.couples and not Gaussian((1,)).couples
    end = walk(prior, x, Uniform(steps)(prior.flow.path), rule, SEEDS)
    # As much as 3,000 draws tell of a variance; a step with much noise leaves some of it out.
    assert float(end.var()) == pytest.approx(V, rel=0.07)
    assert abs(float(torch.corrcoef(torch.cat((x, end), 1).T)[0, 1])) < (
        1 if steps == 100 else 0.35
    )


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.95])
def test_a_mix_has_the_mean_and_the_covariance_of_joined_noise(rho: float, prior: Prior) -> None:
    data = torch.full((len(SEEDS), 1), 0.7, dtype=torch.float64)
    old = prior.source.coupled(normal(SEEDS, (1,), 99, dtype=torch.float64), data)
    mix = Mix(1.0, 2 * rho, 2 * math.sqrt(1 - rho**2))

    def draw(number: int) -> Tensor:
        return normal(SEEDS, (1,), 100 + number, dtype=torch.float64)

    new = (mix.noise * old + mix.fresh * fresh_noise(prior, mix, data, draw)) / 2
    assert float(new.mean()) == pytest.approx(M * 0.7, abs=0.03)
    assert float(new.var()) == pytest.approx(S**2, rel=0.08)
    plain = Prior(Flow(velocity, CondOT()), Gaussian((1,)))
    assert torch.equal(fresh_noise(plain, mix, data, draw), draw(0))


def test_the_way_back_has_the_law_of_the_way_there(prior: Prior) -> None:
    data = math.sqrt(V) * normal(SEEDS, (1,), 7, dtype=torch.float64)
    noise = prior.source.coupled(normal(SEEDS, (1,), 8, dtype=torch.float64), data)
    s, t = (level_at(prior.flow.path, time) for time in (0.8, 0.3))
    z = fresh_noise(
        prior, back(s, t), data, lambda k: normal(SEEDS, (1,), 9 + k, dtype=torch.float64)
    )
    there = renoise(s.alpha * data + s.sigma * noise, s, t, z)
    expected = t.alpha**2 * V + t.sigma**2 + 2 * t.alpha * t.sigma * M * V
    assert float(there.var()) == pytest.approx(expected, rel=0.07)
    with pytest.raises(ValueError, match="t: expected a level noisier"):
        back(t, s)


def test_recurrent_guidance_without_a_cost_keeps_it_too(prior: Prior) -> None:
    method = TFG(
        grid=Uniform(40), clock=None, rule=DDIM(1.0), rho=0.0, mu=0.0, recurrences=2,
        dtype=torch.float64,
    )  # fmt: skip
    result = method(prior, lambda x: 0.0 * x.square().sum(1), seeds=SEEDS)
    assert float(result.samples.var()) == pytest.approx(V, rel=0.1)


def test_a_sampler_draws_by_seed_whatever_the_batch(prior: Prior) -> None:
    sampler = Sampler(5)
    whole = sampler(prior, [4, 9, 2])
    assert torch.equal(sampler(prior, [9]), whole[1:2])
    levels = Uniform(5)(prior.flow.path)
    start = prior.start([4, 9, 2])
    expected = walk(prior, start, levels, Ancestral(2.0), torch.tensor([4, 9, 2]))
    assert torch.equal(whole, expected) and not whole.requires_grad
    with pytest.raises(ValueError, match="steps"):
        Sampler(0)
    with pytest.raises(TypeError, match="rule"):
        Sampler(5, rule="ddim")  # type: ignore[arg-type]


def test_ancestral_steps_are_those_of_ddim_and_ddpm() -> None:
    t, s = (level_at(CondOT(), time) for time in (0.3, 0.45))
    assert Ancestral(0.0).mix(t, s) == pytest.approx(DDIM(0.0).mix(t, s))
    assert Ancestral(1.0).mix(t, s) == pytest.approx(DDIM(1.0).mix(t, s))
    assert Ancestral(3.0).mix(level_at(CondOT(), 0.0), s).noise == 0
    with pytest.raises(ValueError, match="rate: expected a number >= 0, got -1"):
        Ancestral(-1)
