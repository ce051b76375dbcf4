"""Explicit Runge-Kutta methods on a grid that all samples share.

    x_{n+1} = x_n + h Σ_i b_i k_i,      k_i = u(x_n + h Σ_{j<i} a_ij k_j, t_n + c_i h)

(Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.1.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.constants import numbers
from ctrlgen.solvers.base import Gradient, Solver, Tableau, Velocity, combine, stages_of

__all__ = ["RK4", "Euler", "FixedStep", "Heun", "Midpoint"]


class FixedStep(Solver):
    """Explicit Runge-Kutta on a grid that is the same for all samples.

    Args:
        steps: number of equal steps; evaluations are `steps × stages`.
        gradient: "direct", "checkpoint" or "adjoint".
        grid: positions of the steps in [0, 1] from start to end, rising from 0 to 1, in place of
            equal ones; it is stretched to the interval that is solved.
    """

    tableau: Tableau

    def __init__(
        self,
        steps: int | None = None,
        gradient: Gradient = "direct",
        grid: Sequence[float] | None = None,
    ) -> None:
        super().__init__(gradient)
        if (steps is None) == (grid is None):
            raise ValueError("steps, grid: expected exactly one of the two")
        if steps is not None and (type(steps) is not int or steps < 1):
            raise ValueError(f"steps: expected a positive integer, got {steps!r}")
        if grid is not None:
            if not isinstance(grid, Sequence):
                raise TypeError(f"grid: expected a sequence of positions, got {grid!r}")
            grid = [float(g) for g in grid]
            rising = all(a < b for a, b in pairwise(grid))
            if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or not rising:
                raise ValueError(f"grid: expected rising positions from 0 to 1, got {grid}")
        self.steps = len(grid) - 1 if grid else steps
        self.grid = grid

    @property
    def evaluations(self) -> int:
        """Network evaluations of one solve."""
        return self.positions().numel() * self.tableau.stages - self.tableau.stages

    def positions(self) -> Tensor:
        """Positions of the steps in [0, 1], float64, shape (steps + 1,)."""
        if self.grid:
            return torch.tensor(self.grid, dtype=torch.float64, device="cpu")
        return torch.tensor(_equal(self.steps or 0), dtype=torch.float64, device="cpu")

    def __repr__(self) -> str:
        if not self.grid:
            return super().__repr__()
        shown = ", ".join(f"{position:.4g}" for position in self.grid)
        return f"{type(self).__name__}(grid=[{shown}], gradient={self.gradient!r})"

    def reversed(self) -> Self:
        if not self.grid:
            return self
        clone = copy.copy(self)
        clone.grid = [1 - position for position in reversed(self.grid)]
        return clone

    def after(self, time: float) -> Self:
        """The steps from [0, 1] that lie beyond a time; less than half a step joins the next one.

        See `Solver.after`.
        """
        clone = copy.copy(super().after(time))
        places = self.positions().tolist()
        first = next(k for k in range(1, len(places)) if places[k] > time)
        left = (places[first] - time) / (places[first] - places[first - 1])
        if left < 0.5 and first < len(places) - 1:
            first += 1
        inside = [(place - time) / (1 - time) for place in places[first:-1]]
        clone.grid, clone.steps = [0.0, *inside, 1.0], len(inside) + 1
        return clone

    def config(self) -> dict[str, Any]:
        layout = {"grid": self.grid} if self.grid else {"steps": self.steps}
        return {**layout, "gradient": self.gradient}

    def trajectory(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t0: float = 0.0,
        t1: float = 1.0,
    ) -> Tensor:
        """All states between the steps, shape (steps + 1, B, *); gradients are direct."""
        states = [x]
        for t, h in self._clock(x, t0, t1):
            states.append(self.step(velocity, states[-1], t, h))
        return torch.stack(states)

    def step(
        self, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, h: Tensor
    ) -> Tensor:
        """One step of length h from time t, both (B,)."""
        stages = stages_of(velocity, x, t, h, self.tableau)
        return combine(x, expand_like(h, x), self.tableau.b, stages)

    def _clock(self, x: Tensor, t0: float, t1: float) -> list[tuple[Tensor, Tensor]]:
        # float64 first: the lengths of equal steps stay equal after the rounding.
        parts = self.grid or _equal(self.steps or 0)
        times = [t0 + (t1 - t0) * part for part in parts]
        steps = tuple((a, b - a) for a, b in pairwise(times))
        return [(t.expand(x.shape[0]), h.expand(x.shape[0])) for t, h in numbers(steps, x)]

    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        saving = self.gradient == "checkpoint" and torch.is_grad_enabled()
        for t, h in self._clock(x, t0, t1):
            if saving:
                x = checkpoint(
                    self.step, velocity, x, t, h, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = self.step(velocity, x, t, h)
        return x


@cache
def _equal(steps: int) -> list[float]:
    """Positions of equal steps."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu").tolist()


class Euler(FixedStep):
    """First order, one evaluation a step; never evaluates the end time."""

    evaluates_end = False

    tableau = Tableau(((),), (1.0,), (0.0,))


class Midpoint(FixedStep):
    """Second order, two evaluations a step; never evaluates the end time."""

    evaluates_end = False

    tableau = Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 0.5))


class Heun(FixedStep):
    """Second order (trapezium), two evaluations a step; evaluates the end time."""

    tableau = Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0))


class RK4(FixedStep):
    """The classical fourth order method, four evaluations a step."""

    tableau = Tableau(
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        (0.0, 0.5, 0.5, 1.0),
    )
