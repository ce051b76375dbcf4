r"""Levels: places on a path as numbers, and the grids that visit them, from noisy to clean.

    grid(path) -> [level_0, ..., level_n],     level = (t, α, σ, α̇, σ̇),     t increasing

A level is a handful of Python floats (float64): coefficients are exact whatever the dtype of the
states, and nothing waits for a device. `ctrlgen.sampling.grids` has the grids themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from ctrlgen.priors.paths import Path
from ctrlgen.rows.checks import check_sizes

__all__ = ["CLEAN", "Grid", "Level", "level_at", "positions"]


class Level(NamedTuple):
    """A place on a path: its time and its coefficients, as numbers.

    Attributes:
        time: t on the path's clock, in [0, 1].
        alpha: α.
        sigma: σ.
        d_alpha: dα/dt.
        d_sigma: dσ/dt.
    """

    time: float
    alpha: float
    sigma: float
    d_alpha: float = 0.0
    d_sigma: float = 0.0

    @property
    def ratio(self) -> float:
        """σ/α, the noise level of the variance-exploding state x/α; infinite where α = 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def wronskian(self) -> float:
        """W = α̇σ − ασ̇."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma


CLEAN = Level(1.0, 1.0, 0.0)
"""The datum itself."""


def level_at(path: Path, time: float) -> Level:
    """The level of a path at a time in [0, 1]."""
    return levels_at(path, [time])[0]


def levels_at(path: Path, times: Sequence[float]) -> list[Level]:
    """The levels of a path at times in [0, 1]."""
    at = torch.tensor(times, dtype=torch.float64, device="cpu")
    return [Level(*numbers) for numbers in torch.stack((at, *path(at)), dim=1).tolist()]


@dataclass(frozen=True)
class Grid(ABC):
    """Noise levels to visit; called with the path on which the prior is read."""

    @abstractmethod
    def times(self, path: Path) -> list[float]:
        """Times of the levels at which the network is evaluated, increasing, in [0, 1]."""

    @abstractmethod
    def end(self, path: Path) -> Level:
        """The last level, where the sample ends."""

    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the grid, without the number of its steps."""
        return {a.name: getattr(self, a.name) for a in fields(self) if a.name != "steps"}

    def __call__(self, path: Path) -> list[Level]:
        """All levels, at least two, from noisy to clean.

        Raises:
            ValueError: if the times leave [0, 1] or do not increase, as where a grid reaches
                beyond the noisiest level of the path.
        """
        times = self.times(path)
        wrong = [t for t in times if not 0 <= t <= 1]
        if wrong or not all(a < b for a, b in pairwise(times)):
            raise ValueError(
                f"grid: expected times that increase within [0, 1] on {path}, got {_short(times)}"
            )
        return [*levels_at(path, times), self.end(path)]


def _short(times: Sequence[float]) -> str:
    shown = ", ".join(f"{t:.4g}" for t in times[:4])
    return f"[{shown}{', ...' if len(times) > 4 else ''}] ({len(times)} times)"


def positions(grid: Grid, steps: int, path: Path) -> list[float]:
    """Positions in [0, 1] that a solver visits with a number of steps on a grid of a path.

    Args:
        grid: of noise to data, from t = 0 to 1, with `steps` among its arguments.
        steps: n, in place of those of the grid.
        path: whose clock the times are on.

    Raises:
        ValueError: for a grid without `steps`, or one that begins after 0 or ends before 1.
    """
    if "steps" not in (argument.name for argument in fields(grid)):
        raise ValueError(f"grid: expected one with a number of steps, got {grid}")
    check_sizes(steps=steps)
    levels = replace(grid, steps=steps)(path)  # type: ignore[call-arg]
    times = [level.time for level in levels]
    if times[0] != 0 or times[-1] != 1:
        raise ValueError(
            f"grid: expected times from 0 to 1, got {times[0]:.4g} to {times[-1]:.4g} by {grid}"
        )
    return times
