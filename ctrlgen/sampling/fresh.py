r"""Fresh noise in the steps of a sampler, also where training matched noise to data.

A step mixes predicted with fresh noise, x_s = a x̂ + b ε̂ + c z with b² + c² = σ². For a Gaussian
source z is N(0, I). A flow that learned from noise joined with its data by optimal transport
(`Source.coupled`) has other noise: given the datum its mean is μ(x_1) and its covariance C, and z
would be added to what is not centred. For two draws z, z' joined with x̂, and ρ = b/σ,

    x_s = a x̂ + σ (ρ ε̂ + (1 − ρ) (z + z')/2 + κ (z − z')/√2),     κ² = (1 − ρ)(1 + 3ρ)/2,

has noise of mean μ and covariance C again. In the limit of small steps that adds, at a rate λ, the
drift λσ(μ(x̂) − ε̂) and the diffusion 2λσ²C to the flow, which leave its marginals as they are:
∇ log p_t = −C⁻¹(E[ε − μ | x_t])/σ where the joined noise is Gaussian, μ linear and C constant. With
C = I and μ = 0 it is z of the same law as always.

Fresh noise belongs to the sample and the step: a counter-based draw keyed by seed, step and draw,
the same in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Source
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.levels import Level

__all__ = ["STEPS", "Draw", "Mix", "back", "fresh_noise", "joined", "renoise", "step_noise"]

STEPS = 2**48
"""First stream of the draws inside steps; 2^20 draws of each step lie apart."""

_DRAWS = 2**20
_PARTNER = _DRAWS // 2

Draw = Callable[[int], Tensor]
"""A number to standard normal noise (B, *) of a step, another for each number."""


class Mix(NamedTuple):
    """x_s = data · x̂ + noise · ε̂ + fresh · z."""

    data: float
    noise: float
    fresh: float


def step_noise(source: Source, seeds: Seeds, step: int, like: Tensor, draw: int = 0) -> Tensor:
    """Standard normal noise of a step, shape (B, *shape), on the source's subspace.

    Args:
        source: projects it (masks, centre of mass).
        seeds: one per sample.
        step: number of the step, >= 0.
        like: gives dtype and device.
        draw: which of the step's draws, in [0, 2^20).
    """
    if not 0 <= draw < _DRAWS:
        raise ValueError(f"draw: expected a number in [0, {_DRAWS}), got {draw}")
    stream = STEPS + step * _DRAWS + draw
    return source.sample(seeds, stream, dtype=like.dtype, device=like.device)


def joined(prior: Prior, noise: Tensor, data: Tensor) -> Tensor:
    """Noise as the prior's training would have joined it with data; states (B, *)."""
    return prior.source.coupled(noise, prior.flow.end(data.detach()))


def fresh_noise(prior: Prior, mix: Mix, data: Tensor, draw: Draw) -> Tensor:
    """z of a mix, shape (B, *): standard normal, or what stands for it where noise is joined.

    Args:
        prior: whose source says how noise and data are joined.
        mix: of the step; its fresh part is above zero.
        data: x̂, states (B, *).
        draw: of noise; number 0, and another where noise is joined.
    """
    noise = draw(0)
    if not prior.source.couples:
        return noise
    first = joined(prior, noise, data)
    if mix.noise == 0:
        return first
    other = joined(prior, draw(_PARTNER), data)
    sigma = math.hypot(mix.noise, mix.fresh)
    rho = mix.noise / sigma
    kappa = math.sqrt((1 - rho) * (1 + 3 * rho) / 2)
    mean, spread = (first + other) / 2, (first - other) / math.sqrt(2)
    return sigma / mix.fresh * ((1 - rho) * mean + kappa * spread)


def back(s: Level, t: Level) -> Mix:
    """The way back from a level s to the noisier level t, in law as if it had come down from there.

    x_t = (α_t/α_s) x_s + √(σ_t² − (α_t/α_s)² σ_s²) z.

    Raises:
        ValueError: if t is the cleaner of the two.
    """
    scale = t.alpha / s.alpha
    variance = t.sigma**2 - (scale * s.sigma) ** 2
    if variance < -1e-12:
        raise ValueError(f"t: expected a level noisier than σ/α = {s.ratio}, got {t.ratio}")
    return Mix(t.alpha, scale * s.sigma, math.sqrt(max(variance, 0.0)))


def renoise(x: Tensor, s: Level, t: Level, z: Tensor) -> Tensor:
    """A state at level s brought back to the noisier level t.

    Args:
        x: x_s, shape (B, *).
        s: its level.
        t: where to go, at a lower signal-to-noise ratio.
        z: fresh noise, shape (B, *).

    Raises:
        ValueError: if t is the cleaner of the two.
    """
    return t.alpha / s.alpha * x + back(s, t).fresh * z
