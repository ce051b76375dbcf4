r"""Grids: the noise levels that a sampler visits, from noisy to clean, on any path.

    grid(path) -> [level_0, ..., level_n],     t increasing  (`ctrlgen.sampling.levels`)

The network is evaluated at level_0 ... level_{n−1}; level_n is where the sample ends. A grid that
is `clean` ends at the datum itself, α = 1 and σ = 0, also on a path whose last level keeps a little
noise (VP, DiscreteVP, EDM): the "index −1" with ᾱ = 1 of DDPM code.

    Uniform       times linear on the path's clock
    Power         t_k = 1 − (1 − k/n)^p: steps that shorten towards the datum for p > 1
    DDPMUniform   indices t_start + ⌊k (t_end − t_start)/n⌋, k < n, of a DDPM table, downwards (Song
                  et al., DDIM, arXiv 2010.02502); on another path, the times of the same
                  signal-to-noise ratio
    Respaced      indices round(k (T − 1)/(n − 1)), k = n − 2 ... 0: a table respaced to n, without
                  its noisiest entry (diffusion optimal control, arXiv 2412.16748, as released)
    Karras        σ/α from σ_max to σ_min, (σ/α)^{1/ρ} linear (Karras et al., arXiv 2206.00364)
    Times         given times

A truncated start is a grid that begins later: `start` of `Uniform`, `t_end` of `DDPMUniform`,
`sigma_max` of `Karras`; the last two mean the same signal-to-noise ratio on every path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch

from ctrlgen.priors.paths import DiscreteVP, Path
from ctrlgen.rows.checks import check_sizes
from ctrlgen.sampling.levels import CLEAN, Grid, Level, level_at, positions

__all__ = [
    "CLEAN",
    "DDPMUniform",
    "Grid",
    "Karras",
    "Level",
    "Power",
    "Respaced",
    "Times",
    "Uniform",
    "ddpm",
    "level_at",
    "positions",
]


@dataclass(frozen=True)
class Uniform(Grid):
    """Times linear on the path's clock: t_k = start + k (stop − start)/n.

    Args:
        steps: n, evaluations of the network.
        start: first time, in [0, 1); more than 0 is a truncated start.
        stop: end of the last step, in (start, 1].
        clean: end at the datum, where stop = 1.
    """

    steps: int = 50
    start: float = 0.0
    stop: float = 1.0
    clean: bool = True

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"start, stop: expected 0 <= start < stop <= 1, got {self.start, self.stop}"
            )

    def times(self, path: Path) -> list[float]:
        width = self.stop - self.start
        return [self.start + k * width / self.steps for k in range(self.steps)]

    def end(self, path: Path) -> Level:
        return CLEAN if self.clean and self.stop == 1 else level_at(path, self.stop)


@dataclass(frozen=True)
class Power(Uniform):
    """Times whose distance to the end falls as a power of the share that is left,

        t_k = stop − (stop − start) (1 − k/n)^power.

    The first step is about `power` times as long as an equal one and the last n^(1 − power) times.
    Where the velocity turns late, as that of molecules does when their atoms become one element or
    another, steps there are worth more than early ones.

    Args:
        power: p > 0; 1 is `Uniform`.
    """

    power: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.power > 0 and math.isfinite(self.power)):
            raise ValueError(f"power: expected a positive number, got {self.power}")

    def times(self, path: Path) -> list[float]:
        width, steps = self.stop - self.start, self.steps
        return [self.stop - width * (1 - k / steps) ** self.power for k in range(steps)]


@cache
def ddpm() -> DiscreteVP:
    """The schedule of DDPM, β linear from 1e-4 to 0.02 in 1000 steps; always the same object."""
    return DiscreteVP.linear()


def _table_times(table: DiscreteVP, indices: Sequence[int], path: Path) -> list[float]:
    """Times on a path at the signal-to-noise ratios of a table's indices."""
    index = torch.tensor(indices, dtype=torch.float64, device="cpu")
    if path is table:
        return (1 - index / (len(table.alphas_cumprod) - 1)).tolist()
    bars = table.alphas_cumprod[index.long()]
    return path.time_at(bars.log() - torch.log1p(-bars)).clamp(0, 1).tolist()


@dataclass(frozen=True)
class DDPMUniform(Grid):
    """n evenly spaced indices of a DDPM table, downwards, then the datum.

    With t_end = 400 and n = 50 the first index is 392, not 400. Where n does not divide
    t_end − t_start, "even" spacing is n indices as even as whole numbers can be; "released", the
    rule of DDIM's code, goes by strides of ⌊(t_end − t_start)/n⌋ and so takes more than n: 31 for
    30 of 1000, 1000 for 600.

    Args:
        steps: n, evaluations.
        t_end: indices lie below it, in 1..T; less than T is a truncated start.
        t_start: least index, the last that is visited, in 0..t_end−1.
        table: of ᾱ_i; that of DDPM by default.
    """

    steps: int = 50
    t_end: int = 1000
    t_start: int = 0
    table: DiscreteVP = field(default_factory=ddpm, compare=False)
    spacing: Literal["even", "released"] = "even"

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        if self.spacing not in ("even", "released"):
            raise ValueError(f"spacing: expected 'even' or 'released', got {self.spacing!r}")
        top = len(self.table.alphas_cumprod)
        if not 0 <= self.t_start < self.t_end <= top:
            raise ValueError(
                f"t_start, t_end: expected 0 <= t_start < t_end <= {top}, "
                f"got {self.t_start, self.t_end}"
            )
        if self.steps > self.t_end - self.t_start:
            raise ValueError(
                f"steps: expected at most t_end - t_start = {self.t_end - self.t_start}, "
                f"got {self.steps}"
            )

    @property
    def indices(self) -> list[int]:
        """Indices in the order of the visit; the one after the last is −1."""
        width = self.t_end - self.t_start
        if self.spacing == "released":
            return [*range(self.t_start, self.t_end, width // self.steps)][::-1]
        return [self.t_start + k * width // self.steps for k in range(self.steps)][::-1]

    def times(self, path: Path) -> list[float]:
        return _table_times(self.table, self.indices, path)

    def end(self, path: Path) -> Level:
        return CLEAN


@dataclass(frozen=True)
class Respaced(Grid):
    """A DDPM table respaced to n entries, all but the noisiest, then the datum: n − 1 steps.

    The released code of diffusion optimal control starts from N(0, I) at t = 1 but asks the network
    at t − 1/n: with n = 20 at 946, 894, 841, ..., 53, 0 of a thousand, and the last step, to index
    −1, returns x̂ without noise.

    Args:
        states: n, of the trajectory, source point included; in 2..T.
        table: of ᾱ_i; that of DDPM by default.
    """

    states: int = 20
    table: DiscreteVP = field(default_factory=ddpm, compare=False)

    def __post_init__(self) -> None:
        check_sizes(states=self.states)
        if not 2 <= self.states <= len(self.table.alphas_cumprod):
            top = len(self.table.alphas_cumprod)
            raise ValueError(f"states: expected 2 to {top}, got {self.states}")

    @property
    def indices(self) -> list[int]:
        """Indices in the order of the visit; the one after the last is −1."""
        stride = (len(self.table.alphas_cumprod) - 1) / (self.states - 1)
        return [round(k * stride) for k in reversed(range(self.states - 1))]

    def times(self, path: Path) -> list[float]:
        return _table_times(self.table, self.indices, path)

    def end(self, path: Path) -> Level:
        return CLEAN


@dataclass(frozen=True)
class Karras(Grid):
    """σ/α from `sigma_max` to `sigma_min`, its ρ-th root linear, then the datum.

    Args:
        steps: n, evaluations of first order.
        sigma_min: σ/α of the last evaluation, > 0.
        sigma_max: σ/α of the first; what the path does not reach is cut to its noisiest level.
        rho: exponent, > 0.
        last: whether the last evaluation is at `sigma_min`; False leaves it out as the last of
            n + 1 points.
    """

    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    last: bool = True

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        if not 0 < self.sigma_min < self.sigma_max or not self.rho > 0:
            raise ValueError(
                "sigma_min, sigma_max, rho: expected 0 < sigma_min < sigma_max and rho > 0, "
                f"got {self.sigma_min, self.sigma_max, self.rho}"
            )

    def times(self, path: Path) -> list[float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        share = torch.linspace(
            0, 1, self.steps + (not self.last), dtype=torch.float64, device="cpu"
        )[: self.steps]
        ratio = (high + share * (low - high)) ** self.rho
        return path.time_at(-2 * ratio.log()).clamp(0, 1).tolist()

    def end(self, path: Path) -> Level:
        return CLEAN


@dataclass(frozen=True)
class Times(Grid):
    """Given times of evaluation.

    Args:
        at: increasing, in [0, 1].
        stop: end of the last step: the datum (None), or a time in (at[-1], 1].
    """

    at: tuple[float, ...]
    stop: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.at, str) or not isinstance(self.at, Iterable):
            raise TypeError(f"at: expected a sequence of times, got {self.at!r}")
        object.__setattr__(self, "at", tuple(float(t) for t in self.at))
        if not self.at:
            raise ValueError("at: expected at least one time, got none")
        if self.stop is not None and not self.at[-1] < self.stop <= 1:
            raise ValueError(f"stop: expected a time in ({self.at[-1]}, 1], got {self.stop}")

    def times(self, path: Path) -> list[float]:
        return list(self.at)

    def end(self, path: Path) -> Level:
        return CLEAN if self.stop is None else level_at(path, self.stop)
