r"""Solving dx/dt = u_t(x) differentiably, from noise to data and back.

One step of an explicit Runge-Kutta method with stages k_i is

    k_i = u(x + h Σ_{j<i} a_ij k_j, t + c_i h),      x' = x + h Σ_i b_i k_i,

per sample: t and h are (B,) throughout, so that samples may run on clocks of their own. How the
gradient passes through a solve is a value handed to the solver, not another solver:

    direct       the graph of every stage is kept (memory ∝ evaluations);
    checkpoint   only the states between steps are kept, stages are evaluated again on the way
                 back (Chen et al., arXiv 1604.06174): the same gradient, one more forward;
    adjoint      the continuous adjoint da/dt = −(∂u/∂x)^T a is solved backwards in time with the
                 same method (Chen et al., arXiv 1806.07366): constant memory, a gradient that is
                 that of the ODE rather than of its discretisation.

The first two differentiate the discrete map exactly, which line searches need. Gradients reach the
initial state; `direct` and `checkpoint` also reach whatever the velocity closes over.

The adaptive solver controls the error of every sample by itself: a batch of one and a batch of a
thousand take the same steps, which a norm over the batch would not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ctrlgen.batching import expand_like, flat

__all__ = [
    "RK4",
    "Dopri5",
    "Euler",
    "FixedStep",
    "Gradient",
    "Heun",
    "Midpoint",
    "Solver",
    "Velocity",
]

Gradient = Literal["direct", "checkpoint", "adjoint"]


class Velocity:
    """What a solver integrates: `velocity(x, t)`, x (B, *), t (B,).

    Wraps any function of these; `take` restricts the rows, for solvers in which samples finish at
    different times.
    """

    def __init__(self, fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.fn = fn

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.fn(x, t)

    def take(self, index: Tensor) -> Velocity:
        taken = getattr(self.fn, "take", None)
        return self if taken is None else Velocity(taken(index))


class Tableau(NamedTuple):
    """Butcher tableau of an explicit method: rows of a, nodes c, weights b."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    @property
    def stages(self) -> int:
        return len(self.b)


def _combine(x: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """x + h Σ w_i k_i."""
    for weight, stage in zip(weights, stages, strict=False):
        if weight:
            x = x + (weight * h) * stage
    return x


def _stages(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    h: Tensor,
    tableau: Tableau,
    first: Tensor | None = None,
) -> list[Tensor]:
    wide = expand_like(h, x)
    stages = [velocity(x, t) if first is None else first]
    for row, node in zip(tableau.a[1:], tableau.c[1:], strict=True):
        stages.append(velocity(_combine(x, wide, row, stages), t + node * h))
    return stages


class Solver(ABC):
    """Integrates a velocity between two times.

    Args:
        gradient: how gradients pass through the solve, see the module.
    """

    def __init__(self, gradient: Gradient = "direct") -> None:
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient: expected one of {get_args(Gradient)}, got {gradient!r}")
        self.gradient = gradient

    def __call__(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t0: float = 0.0,
        t1: float = 1.0,
    ) -> Tensor:
        """The state at t1 of the solution that starts from x at t0, shape of x.

        Args:
            velocity: u(x, t), x (B, *), t (B,); see `Velocity`.
            x: state at t0, shape (B, *), floating point.
            t0: start; t1 < t0 solves backwards.
            t1: end.
        """
        if not x.is_floating_point() or x.ndim < 1:
            raise TypeError(
                f"x: expected a floating point batch (B, *), got {x.dtype} {tuple(x.shape)}"
            )
        if not (math.isfinite(t0) and math.isfinite(t1)):
            raise ValueError(f"t0, t1: expected finite times, got {t0, t1}")
        velocity = velocity if isinstance(velocity, Velocity) else Velocity(velocity)
        if t0 == t1 or x.shape[0] == 0:
            return x
        if self.gradient == "adjoint" and torch.is_grad_enabled() and x.requires_grad:
            return _Adjoint.apply(x, velocity, self, t0, t1)
        return self._integrate(velocity, x, t0, t1)

    def invert(
        self, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t0: float = 0.0
    ) -> Tensor:
        """The source of a datum: solve from t = 1 back to `t0`."""
        return self(velocity, x, 1.0, t0)

    @abstractmethod
    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        """Solve, with the graph of the computation as `gradient` wants it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this solver, JSON-able."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


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
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps: expected a positive integer, got {steps!r}")
        if grid is not None:
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
            return torch.tensor(self.grid, dtype=torch.float64)
        return torch.linspace(0, 1, (self.steps or 0) + 1, dtype=torch.float64)

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
        stages = _stages(velocity, x, t, h, self.tableau)
        return _combine(x, expand_like(h, x), self.tableau.b, stages)

    def _clock(self, x: Tensor, t0: float, t1: float) -> list[tuple[Tensor, Tensor]]:
        times = t0 + (t1 - t0) * self.positions()
        # float64 first: the lengths of equal steps stay equal after the rounding.
        rows = torch.stack((times[:-1], times.diff()), 1).to(x.device, x.dtype)
        return [(t.expand(x.shape[0]), h.expand(x.shape[0])) for t, h in rows]

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


class Euler(FixedStep):
    """First order, one evaluation a step."""

    tableau = Tableau(((),), (1.0,), (0.0,))


class Midpoint(FixedStep):
    """Second order, two evaluations a step; never evaluates the end time."""

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


_DOPRI = Tableau(
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
)
# Fifth minus embedded fourth order.
_DOPRI_ERROR = (
    71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40,
)  # fmt: skip


class Dopri5(Solver):
    """Dormand & Prince 5(4), with step sizes and error control of every sample's own.

    A row whose error norm is above one repeats its step with a shorter one; rows that have arrived
    leave the batch. The error norm is the root mean square over the row of error/(atol + rtol |x|).
    A row that does not arrive, because its state ceases to be finite or `max_steps` do not do,
    ends as NaN; its neighbours never notice.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        gradient: "direct" or "adjoint"; the accepted steps of the direct gradient are those of the
            discrete map, and step sizes count as constants.
        max_steps: steps, accepted or not, after which a row that has not arrived is given up.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        gradient: Gradient = "direct",
        max_steps: int = 10_000,
    ) -> None:
        super().__init__(gradient)
        if gradient == "checkpoint":
            raise ValueError(
                "gradient: expected 'direct' or 'adjoint' for Dopri5, got 'checkpoint'"
            )
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol, atol: expected positive tolerances, got {rtol, atol}")
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps

    def config(self) -> dict[str, Any]:
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return {**tolerances, "gradient": self.gradient, "max_steps": self.max_steps}

    def _norm(self, error: Tensor, *states: Tensor) -> Tensor:
        largest = torch.stack([state.detach().abs() for state in states]).amax(0)
        return flat(error / (self.atol + self.rtol * largest)).square().mean(1).sqrt()

    def _first_step(self, x: Tensor, slope: Tensor, length: float) -> Tensor:
        """A step over which the state moves by a hundredth of its scale (Hairer et al. II.4)."""
        size, speed = self._norm(x.detach(), x), self._norm(slope.detach(), x)
        guess = 0.01 * size / speed.clamp_min(1e-12)
        return torch.where((size < 1e-5) | (speed < 1e-5), 1e-4, guess).clamp(1e-6, abs(length))

    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        rows = torch.arange(x.shape[0], device=x.device)
        sign = 1.0 if t1 > t0 else -1.0
        arrived, order = [], []
        t = x.new_full((x.shape[0],), t0)
        slope = velocity(x, t)
        h = self._first_step(x, slope, t1 - t0)
        working = velocity
        for step in range(1, self.max_steps + 1):
            h = torch.minimum(h, (t1 - t).abs())
            stages = _stages(working, x, t, sign * h, _DOPRI, slope)
            wide = expand_like(sign * h, x)
            proposal = _combine(x, wide, _DOPRI.b, stages)
            error = _combine(torch.zeros_like(x), wide, _DOPRI_ERROR, stages).detach()
            ratio = self._norm(error, x, proposal)
            accept = ratio <= 1
            x = torch.where(expand_like(accept, x), proposal, x)
            slope = torch.where(expand_like(accept, x), stages[-1], slope)  # first same as last
            left = torch.where(accept, (t1 - t).abs() - h, (t1 - t).abs())
            t = t1 - sign * left
            h = h * (0.9 * ratio.clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
            done = left <= 1e-9 * abs(t1 - t0)
            lost = ~done & (~ratio.isfinite() | (step == self.max_steps))
            leaving = done | lost
            if bool(leaving.any()):
                arrived.append(torch.where(expand_like(lost, x), torch.nan, x)[leaving])
                order.append(rows[leaving])
                keep = torch.nonzero(~leaving).squeeze(1)
                if len(keep) == 0:
                    break
                x, t, h, slope, rows = x[keep], t[keep], h[keep], slope[keep], rows[keep]
                working = velocity.take(rows)
        return torch.cat(arrived)[torch.cat(order).argsort()]


class _Adjoint(torch.autograd.Function):
    """x(t1) of x(t0), with the gradient of the continuous adjoint."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, velocity: Velocity, solver: Solver, t0: float, t1: float
    ) -> Tensor:
        end = solver._integrate(velocity, x.detach(), t0, t1)
        ctx.save_for_backward(end)
        ctx.problem = (velocity, solver, t0, t1)
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        velocity, solver, t0, t1 = ctx.problem
        (end,) = ctx.saved_tensors
        both = torch.stack((end, gradient), dim=1)
        both = solver._integrate(Velocity(_AdjointVelocity(velocity)), both, t1, t0)
        return both[:, 1], None, None, None, None


class _AdjointVelocity:
    """d/dt (x, a) = (u, −(∂u/∂x)^T a), stacked along dimension 1."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity

    def __call__(self, both: Tensor, t: Tensor) -> Tensor:
        x, a = both.unbind(1)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = self.velocity(x, t)
            (pulled,) = torch.autograd.grad(u, x, a)
        return torch.stack((u.detach(), -pulled), dim=1)

    def take(self, index: Tensor) -> _AdjointVelocity:
        return _AdjointVelocity(self.velocity.take(index))
