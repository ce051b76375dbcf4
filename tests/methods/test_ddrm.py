"""DDRM, guidance by a classifier, and what guidance refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, Reversed, SquaredError
from ctrlgen.methods import (
    DDRM,
    DPS,
    TFG,
    ClassifierGuidance,
    FreeDoM,
)
from ctrlgen.operators.base import LinearOperator, Operator, Spectrum, dense
from ctrlgen.priors.codecs import Codec, Scaled
from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import DDPMUniform, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, walk
from ctrlgen.testing.oracles import Mixture

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


class Noisy(Cost):
    """−log p(y|x), and −log p(y|x_t) up to a constant, exactly."""

    def __init__(self, prior: Mixture, posterior: Mixture, path: Path) -> None:
        self.prior, self.posterior, self.path = prior, posterior, path

    def forward(self, x: Tensor) -> Tensor:
        return self.prior.log_prob(x) - self.posterior.log_prob(x)

    def noisy(self, x: Tensor, t: float) -> Tensor:
        at = self.path(torch.tensor(t, dtype=torch.float64))
        level = (at.alpha, at.sigma)
        return self.prior.log_prob(x, *level) - self.posterior.log_prob(x, *level)


@pytest.mark.parametrize("path", [CondOT(), ddpm()], ids=["condot", "ddpm"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_the_exact_classifier_it_samples_the_posterior(
    eta: float, path: Path, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Step by step what the posterior's own flow does, under the same noise; for a mixture."""
    oracle = mixture(2, D)
    posterior = oracle.posterior(dense(operator, (D,)), rows(M)[0], 0.6)
    grid = DDPMUniform(8, 960)
    method = ClassifierGuidance(at="state", clock=path, rule=DDIM(eta), grid=grid, **DOUBLE)
    found = method(prior_of(oracle), Noisy(oracle, posterior, path), seeds=SEEDS)
    levels, read = grid(path), Prior(posterior.flow(path), Gaussian((D,)))
    x0 = read.start(SEEDS, **DOUBLE) * math.hypot(levels[0].alpha, levels[0].sigma)
    expected = walk(read, x0, levels, DDIM(eta), torch.tensor(SEEDS))
    assert torch.allclose(found.samples, expected, rtol=0, atol=1e-8)
    assert (found.network.forward, found.network.vjp) == (8, 0)
    half = replace(method, scale=0.9)(prior_of(oracle), Noisy(oracle, posterior, path), seeds=SEEDS)
    assert (half.samples - expected).abs().max() > 1e-3


def test_its_samples_have_the_posteriors_moments(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """A deterministic run is affine in the source point; so are mean and covariance, exactly."""
    oracle = mixture(1, D)
    posterior = oracle.posterior(dense(operator, (D,)), rows(M)[0], 0.6)
    seeds = [*range(D + 1)]
    x0 = torch.cat((normal(seeds, (D,), dtype=torch.float64), torch.ones(D + 1, 1).double()), 1)
    errors = []
    for n in (50, 100):
        method = ClassifierGuidance(
            at="state", clock=CondOT(), rule=DDIM(0.0), grid=Uniform(n, start=1e-3), **DOUBLE
        )
        cost = Noisy(oracle, posterior, CondOT())
        samples = method(prior_of(oracle), cost, seeds=seeds).samples
        linear = torch.linalg.solve(x0, samples)
        slope, mean = linear[:D], linear[D]
        errors.append(
            (
                float((mean - posterior.mean).abs().max()),
                float((slope.T @ slope - posterior.covariance).abs().max()),
            )
        )
    assert errors[1][0] < 0.02 and errors[1][1] < 0.03
    assert errors[1][1] < 0.65 * errors[0][1]


# ------------------------------------------------------------------ DDRM


class Diagonal(LinearOperator):
    """y = w ⊙ x."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def spectrum(self, x: Tensor) -> Spectrum:
        same: Callable[[Tensor], Tensor] = lambda v: v  # noqa: E731
        seen = (self.weight > 0).to(x)
        return Spectrum(self.weight.to(x)[None], same, same, lambda y: seen * y, same)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


def ddrm(prior: Prior, weight: Tensor, y: Tensor, sigma_y: float, method: DDRM) -> Tensor:
    """The three cases of the paper, coordinate by coordinate."""
    flow, bars = prior.flow.on(ddpm()), ddpm().alphas_cumprod.tolist()
    indices = [*GRID.indices, -1]
    eta, eta_b = method.eta, method.eta_b
    r = math.sqrt((1 - bars[indices[0]]) / bars[indices[0]])
    z, state = prior.start(SEEDS, **DOUBLE), torch.empty(3, D, dtype=torch.float64)
    for d in range(D):
        s = float(weight[d])
        if s * r > sigma_y:
            state[:, d] = y[:, d] / s + math.sqrt(r**2 - sigma_y**2 / s**2) * z[:, d]
        else:
            state[:, d] = r * z[:, d]
    x = math.sqrt(bars[indices[0]]) * state
    for k, (i, j) in enumerate(pairwise(indices)):
        bar = 1.0 if j < 0 else bars[j]
        r = math.sqrt((1 - bar) / bar)
        seen, z = flow.predict(x, 1 - i / 999), step_noise(prior.source, SEEDS, k, x)
        data, noise = seen.data, seen.noise
        if method.clip is not None:
            data = data.clamp(-method.clip, method.clip)
            noise = (x - math.sqrt(bars[i]) * data) / math.sqrt(1 - bars[i])
        for d in range(D):
            s = float(weight[d])
            if s == 0:
                old = math.sqrt(1 - eta**2) * r * noise[:, d]
                state[:, d] = data[:, d] + old + eta * r * z[:, d]
            elif s * r < sigma_y:
                pull = (y[:, d] / s - data[:, d]) * s / sigma_y
                state[:, d] = data[:, d] + math.sqrt(1 - eta**2) * r * pull + eta * r * z[:, d]
            else:
                left = math.sqrt(r**2 - eta_b**2 * sigma_y**2 / s**2)
                state[:, d] = (1 - eta_b) * data[:, d] + eta_b * y[:, d] / s + left * z[:, d]
        x = math.sqrt(bar) * state
    return x


@pytest.mark.parametrize("sigma_y", [0.0, 0.4])
@pytest.mark.parametrize("eta_b", [1.0, 0.6])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_ddrm_treats_every_coordinate_as_the_paper_does(
    sigma_y: float, eta_b: float, clip: float | None, mixture: Build, prior_of: Build
) -> None:
    weight = torch.tensor([1.4, 0.0, 0.3], dtype=torch.float64)
    prior, y = prior_of(mixture(2, D)), rows(D)
    method = DDRM(eta_b=eta_b, clip=clip, grid=GRID, **DOUBLE)
    cost = SquaredError(Diagonal(weight), y, sigma_y)
    found = method(prior, cost, seeds=SEEDS).samples
    expected = ddrm(prior, weight, y, sigma_y, method)
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)
    other = replace(method, eta=0.5)(prior, cost, seeds=SEEDS).samples
    assert (other - found).abs().max() > 1e-3


def test_ddrm_returns_what_is_measured_without_noise(mixture: Build, prior_of: Build) -> None:
    prior, y = prior_of(mixture(2, D)), rows(D)
    everything = SquaredError(Diagonal(torch.ones(D).double()), y)
    assert torch.allclose(
        DDRM(grid=GRID, **DOUBLE)(prior, everything, seeds=SEEDS).samples, y, rtol=0, atol=1e-12
    )


def test_ddrm_in_the_units_of_the_signal(mixture: Build, prior_of: Build) -> None:
    """A scaling codec changes units, not the result."""
    weight = torch.tensor([1.4, 0.0, 0.3], dtype=torch.float64)
    prior, y = prior_of(mixture(2, D)), rows(D)
    method = DDRM(grid=GRID, **DOUBLE)
    plain = method(prior, SquaredError(Diagonal(weight), y, 0.2), seeds=SEEDS).samples
    for codec in (Scaled(2.0, 0.5), Scaled([2.0] * D, 0.5)):
        scaled = copy.copy(prior)
        scaled.codec = codec
        # y' = H(2x + ½) + 2σ n
        cost = SquaredError(Diagonal(weight), 2 * y + 0.5 * weight, 0.4)
        found = method(scaled, cost, seeds=SEEDS).samples
        assert torch.allclose(found, 2 * plain + 0.5, rtol=0, atol=1e-9)


# ------------------------------------------------------------------ what they refuse


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: TFG(rho=-1.0), "rho"),
        (lambda: TFG(mu=math.inf), "mu"),
        (lambda: TFG(draws=0), "draws"),
        (lambda: TFG(iterations=1.5), "iterations"),
        (lambda: TFG(recurrences=0), "recurrences"),
        (lambda: TFG(rho_schedule="up"), "rho_schedule"),
        (lambda: TFG(energy="square"), "energy"),
        (lambda: TFG(gamma_schedule="up"), "gamma_schedule"),
        (lambda: TFG(recur_within=(0.5, 0.2)), "recur_within"),
        (lambda: TFG(largest=0.0), "largest"),
        (lambda: TFG(clip=-1.0), "clip"),
        (lambda: TFG(enters="score"), "enters"),
        (lambda: TFG(enters="noise", relative=True), "relative"),
        (lambda: TFG(start="measurement"), "start"),
        (lambda: DDRM(eta=1.5), "eta"),
        (lambda: DDRM(start="guided"), "start"),
        (lambda: ClassifierGuidance(scale=-1.0), "scale"),
        (lambda: ClassifierGuidance(at="x"), "at"),
    ],
)
def test_settings_that_make_no_sense(build: Build, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


class Bent(Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Odd(Codec):
    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z


def test_problems_they_refuse_before_any_evaluation(problem: tuple[Prior, Cost]) -> None:
    prior, cost = problem
    odd = copy.copy(prior)
    odd.codec = Odd()
    bent = SquaredError(Bent(), rows(D))
    wrong: list[tuple[Any, Prior, Any, str]] = [
        (DDRM(**DOUBLE), prior, bent, "linear operator"),
        (DDRM(**DOUBLE), prior, Reversed(rows(D)), "measurement"),
        (DDRM(**DOUBLE), odd, cost, "codec"),
        (TFG(start="guided", **DOUBLE), prior, bent, "pseudo-inverse"),
        (TFG(clock=None, grid=Uniform(5), **DOUBLE), prior, cost, "α > 0"),
        (ClassifierGuidance(at="state", **DOUBLE), prior, cost, "noisy"),
        (DPS(**DOUBLE), prior, SquaredError(Bent(), rows(D)[:2]), "samples"),
    ]
    for method, given, measured, text in wrong:
        with pytest.raises(ValueError, match=text):
            method(given, measured, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


def test_presets_hold_the_published_settings() -> None:
    assert DPS.preset("inpaint").rho == 0.5 and DPS.preset("sr4").grid == DDPMUniform(1000)
    baseline = DPS.preset("ndtm-baseline-sr4")
    assert (baseline.rho, baseline.energy, baseline.rule) == (1.0, "ratio", DDIM(0.5))
    blurs = "ndtm-baseline-nonlinear-deblur", "ndtm-baseline-imagenet-nonlinear-deblur"
    assert [DPS.preset(name).rho for name in blurs] == [0.3, 1.0]
    # their code does not clip, the original of DPS does
    unclipped = [name for name in DPS.presets if DPS.preset(name).clip is None]
    assert unclipped == [name for name in DPS.presets if name.startswith("ndtm-baseline")]
    assert all(DDRM.preset(name).clip is None for name in DDRM.presets)
    last = {name: FreeDoM.preset(name).guide_within[1] for name in FreeDoM.presets}
    indices = FreeDoM().grid.indices  # type: ignore[attr-defined]
    guided = {name: min(i for k, i in enumerate(indices) if k < 100 * last[name]) for name in last}
    assert guided == {
        "face-segmentation": 210,  # stop at 200
        "face-sketch": 110,  # stop at 100
        "face-landmarks": 210,
        "face-identity": 110,
        "clip": 0,
    }
    scales = {name[5:]: FreeDoM.preset(name).rho for name in FreeDoM.presets if name != "clip"}
    assert scales == {"segmentation": 0.2, "sketch": 20, "landmarks": 500, "identity": 100}
    travelled = FreeDoM.preset("clip").recur_within
    again = [i for k, i in enumerate(indices) if travelled[0] <= k / 100 < travelled[1]]
    assert (again[0], again[-1]) == (800, 500)
    deblur = TFG.preset("deblur")
    assert (deblur.mu, deblur.iterations, deblur.gamma) == (8.0, 4, 0.01)
    assert (DDRM().eta, DDRM().eta_b, DDRM().grid) == (0.85, 1.0, DDPMUniform(20))
