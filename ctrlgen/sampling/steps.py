r"""Step rules: one step of a sampler, from one noise level to the next, typed once for all methods.

A rule of one evaluation mixes the denoised state, the predicted noise and fresh noise,

    x_s = a x̂ + b ε̂ + c z,        x_t = α_t x̂ + σ_t ε̂,

with numbers (a, b, c) that depend on the two levels only (`StepRule.mix`):

    DDIM(η)    a = α_s,   c = η σ_s √(1 − (σ_s/α_s)²/(σ_t/α_t)²),   b = √(σ_s² − c²)
               (Song et al., arXiv 2010.02502, eqs 12 and 16; η = 1: ancestral DDPM, Ho et al.)
    Ancestral  a = α_s,   b = ρσ_s,   c = √(1 − ρ²) σ_s,   ρ = ((σ_s/α_s)/(σ_t/α_t))^λ
    ShareStep  a = α_s,   c = η σ_s,   b = √(1 − η²) σ_s     (FreeDoM's code for faces)
    EulerStep  a = α_t + hα̇_t,   b = σ_t + hσ̇_t,   h = s − t, on the clock of the path

DDIM reads the same on every affine path, since x/α = x_1 + (σ/α) x_0 does; on straight paths
DDIM(0) and Euler are the same step. Two rules take more:

    HeunStep   Euler, then the mean of the velocities at both ends (two evaluations; one at σ_s = 0)
    EDMStep    raise the noise (churn), then Heun in σ/α of x/α (Karras et al., arXiv 2206.00364,
               Algorithm 2; one evaluation at σ_s = 0)

Where fresh noise comes from, and how a step goes back to a noisier level: `ctrlgen.sampling.fresh`.

How methods use it: `for k, (t, s) in enumerate(pairwise(grid(path)))`, predict at t, change x̂ or
add guidance, `rule(x̂, ε̂, t, s, z)`. `rule.advance` is a whole unguided step and `walk` a whole
unguided sample; both are differentiable.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.fresh import Draw, Mix, fresh_noise, renoise, step_noise
from ctrlgen.sampling.grids import Level, level_at

__all__ = [
    "DDIM",
    "Ancestral",
    "EDMStep",
    "EulerStep",
    "HeunStep",
    "ShareStep",
    "StepRule",
    "walk",
]


@dataclass(frozen=True)
class StepRule(ABC):
    """One step between two levels.

    Attributes:
        evaluations: of the network in a step of `advance` that does not end at σ = 0.
    """

    evaluations: ClassVar[int] = 1

    @abstractmethod
    def mix(self, t: Level, s: Level) -> Mix:
        """The coefficients of the step from t to the cleaner level s."""

    def __call__(
        self, data: Tensor, noise: Tensor, t: Level, s: Level, z: Tensor | None = None
    ) -> Tensor:
        """x_s from the (guided) denoised state and the predicted noise, differentiable in both.

        Args:
            data: x̂, shape (B, *).
            noise: ε̂, shape (B, *).
            t: where the prediction was made.
            s: where to go, at a higher signal-to-noise ratio.
            z: fresh standard normal noise (B, *); needed where the mix has some (`fresh` > 0).

        Raises:
            ValueError: if fresh noise is needed and none is given.
        """
        a, b, c = self.mix(t, s)
        x = a * data + b * noise
        if c == 0:
            return x
        if z is None:
            raise ValueError(f"z: {self} needs fresh noise, got None")
        return x + c * z

    def advance(
        self,
        prior: Prior,
        x: Tensor,
        t: Level,
        s: Level,
        draw: Draw | None,
        clip: float | None = None,
    ) -> Tensor:
        """A whole step without guidance, evaluations included; shape of x.

        Args:
            prior: read on the path of the levels.
            x: states at t, shape (B, *).
            t: level of the states.
            s: level to go to.
            draw: of noise; needed where the rule draws some.
            clip: bound of |x̂| in every evaluation, with the ε̂ that belongs to it; None for none.
        """
        seen = prior.predict(x, t.time).clipped(clip)
        mix = self.mix(t, s)
        z = fresh_noise(prior, mix, seen.data, draw) if draw is not None and mix.fresh else None
        return self(seen.data, seen.noise, t, s, z)

    def draws(self, t: Level, s: Level) -> bool:
        """Whether the step needs fresh noise."""
        return self.mix(t, s).fresh != 0


@dataclass(frozen=True)
class DDIM(StepRule):
    """The generalised DDIM step; η = 0 is deterministic, η = 1 ancestral DDPM.

    Args:
        eta: η, scale of the fresh noise, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")

    def mix(self, t: Level, s: Level) -> Mix:
        kept = (s.ratio / t.ratio) ** 2  # 0 from pure noise, and to the datum
        fresh = self.eta * s.sigma * math.sqrt(max(1 - kept, 0.0))
        return Mix(s.alpha, math.sqrt(max(s.sigma**2 - fresh**2, 0.0)), fresh)


@dataclass(frozen=True)
class Ancestral(StepRule):
    """A step that draws noise anew at a rate: DDIM(0) at λ = 0, DDPM's at 1, Langevin steps above.

    Args:
        rate: λ >= 0.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"rate: expected a number >= 0, got {self.rate}")

    def mix(self, t: Level, s: Level) -> Mix:
        kept = (s.ratio / t.ratio) ** self.rate
        return Mix(s.alpha, kept * s.sigma, math.sqrt(1 - kept**2) * s.sigma)


@dataclass(frozen=True)
class ShareStep(StepRule):
    """A step whose noise is η² fresh and 1 − η² old, whatever its length.

    Args:
        eta: η in [0, 1].
    """

    eta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")

    def mix(self, t: Level, s: Level) -> Mix:
        return Mix(s.alpha, math.sqrt(1 - self.eta**2) * s.sigma, self.eta * s.sigma)


@dataclass(frozen=True)
class EulerStep(StepRule):
    """Euler's step of the probability-flow ODE on the clock of the path."""

    def mix(self, t: Level, s: Level) -> Mix:
        h = s.time - t.time
        return Mix(t.alpha + h * t.d_alpha, t.sigma + h * t.d_sigma, 0.0)


@dataclass(frozen=True)
class HeunStep(EulerStep):
    """Heun's step of the probability-flow ODE; Euler's where it ends without noise.

    As a mix it is its first half, Euler's step.
    """

    evaluations: ClassVar[int] = 2

    def advance(
        self,
        prior: Prior,
        x: Tensor,
        t: Level,
        s: Level,
        draw: Draw | None,
        clip: float | None = None,
    ) -> Tensor:
        h = s.time - t.time
        first = prior.predict(x, t.time).clipped(clip).velocity
        if s.sigma == 0:
            return x + h * first
        second = prior.predict(x + h * first, s.time).clipped(clip).velocity
        return x + h / 2 * (first + second)


@dataclass(frozen=True)
class EDMStep(StepRule):
    """The step of Karras et al.: churn, then Heun in the clock σ/α.

    Its mix is the one without churn, DDIM(0).

    Args:
        churn: γ, relative increase of σ/α before the step, in [0, √2 − 1]; S_churn/n there.
        churn_from: least σ/α at which there is churn, S_min.
        churn_to: largest, S_max.
        inflation: S_noise, standard deviation of the noise that churn adds.
    """

    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = math.inf
    inflation: float = 1.0
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= math.sqrt(2) - 1 + 1e-12:
            raise ValueError(f"churn: expected a number in [0, √2 − 1], got {self.churn}")
        if not 0 <= self.churn_from <= self.churn_to or not self.inflation > 0:
            raise ValueError(
                "churn_from, churn_to, inflation: expected 0 <= churn_from <= churn_to and "
                f"inflation > 0, got {self.churn_from, self.churn_to, self.inflation}"
            )

    def mix(self, t: Level, s: Level) -> Mix:
        return Mix(s.alpha, s.sigma, 0.0)

    def draws(self, t: Level, s: Level) -> bool:
        return self.churn > 0 and self.churn_from <= t.ratio <= self.churn_to

    def advance(
        self,
        prior: Prior,
        x: Tensor,
        t: Level,
        s: Level,
        draw: Draw | None,
        clip: float | None = None,
    ) -> Tensor:
        if self.draws(t, s) and math.isfinite(t.ratio):
            if draw is None:
                raise ValueError(f"z: {self} needs fresh noise, got None")
            path = prior.flow.path
            log_snr = torch.tensor(
                -2 * math.log(t.ratio * (1 + self.churn)), dtype=torch.float64, device="cpu"
            )
            raised = level_at(path, float(path.time_at(log_snr).clamp(0, 1)))
            x, t = renoise(x, t, raised, self.inflation * draw(0)), raised
        first = prior.predict(x, t.time).clipped(clip)
        after = self(first.data, first.noise, t, s)
        if s.sigma == 0 or not math.isfinite(t.ratio):
            return after
        # d(x/α)/d(σ/α) = ε̂ along the ODE: Heun takes the mean of ε̂ at both ends.
        second = prior.predict(after, s.time).clipped(clip).noise
        return after + s.alpha * (s.ratio - t.ratio) / 2 * (second - first.noise)


def walk(
    prior: Prior,
    x: Tensor,
    levels: Sequence[Level],
    rule: StepRule,
    seeds: Seeds | None = None,
) -> Tensor:
    """An unguided sample: all steps of a rule, differentiable in x.

    Args:
        prior: read on the path of the levels.
        x: states at the first level, shape (B, *).
        levels: of a grid.
        rule: of each step.
        seeds: one per sample; needed where the rule draws fresh noise.
    """
    for step, (t, s) in enumerate(pairwise(levels)):
        draw = None if seeds is None else partial(step_noise, prior.source, seeds, step, x)
        x = rule.advance(prior, x, t, s, draw)
    return x
