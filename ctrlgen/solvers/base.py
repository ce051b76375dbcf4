"""What all solvers share: Runge-Kutta stages, the call, and the continuous adjoint.

The mathematics is that of the package, `ctrlgen.solvers`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from ctrlgen.rows.batching import expand_like

__all__ = ["Gradient", "Solver", "Tableau", "Velocity", "combine", "stages_of"]

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

    def check_time(self, time: float) -> None:
        """Raise where the function says that it has no value at a time."""
        check = getattr(self.fn, "check_time", None)
        if check is not None:
            check(time)

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


def combine(x: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """x + h Σ w_i k_i."""
    for weight, stage in zip(weights, stages, strict=False):
        if weight:
            x = x + (weight * h) * stage
    return x


def stages_of(
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
        stages.append(velocity(combine(x, wide, row, stages), t + node * h))
    return stages


class Solver(ABC):
    """Integrates a velocity between two times.

    Args:
        gradient: how gradients pass through the solve, see the module.
    """

    evaluates_end: ClassVar[bool] = True
    """Whether the velocity is evaluated at the end of the interval."""

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

        Raises:
            TypeError: if x is no floating point batch.
            ValueError: for times that are not finite, or at which the velocity says it has none.
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
        adjoint = self.gradient == "adjoint" and torch.is_grad_enabled() and x.requires_grad
        velocity.check_time(t0)
        if adjoint or self.evaluates_end:
            velocity.check_time(t1)
        if adjoint:
            return _Adjoint.apply(x, velocity, self, t0, t1)
        return self._integrate(velocity, x, t0, t1)

    def invert(
        self, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t0: float = 0.0
    ) -> Tensor:
        """The source of a datum: solve from t = 1 back to `t0`, through the times of the way on."""
        return self.reversed()(velocity, x, 1.0, t0)

    def reversed(self) -> Self:
        """The solver whose steps from t1 to t0 are those of this one from t0 to t1."""
        return self

    def after(self, time: float) -> Self:
        """The solver of what is left from a time in [0, 1) to t = 1, as it would go on from there.

        One that chooses its own steps is the same for every interval.
        """
        if not 0 <= time < 1:
            raise ValueError(f"time: expected one in [0, 1), got {time}")
        return self

    @abstractmethod
    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        """Solve, with the graph of the computation as `gradient` wants it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this solver, JSON-able."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class _Adjoint(torch.autograd.Function):
    """x(t1) of x(t0), with the gradient of the continuous adjoint."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, velocity: Velocity, solver: Solver, t0: float, t1: float
    ) -> Tensor:
        end = solver._integrate(velocity, x.detach(), t0, t1)
        ctx.save_for_backward(end)
        ctx.problem = (velocity, solver, t0, t1)
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        velocity, solver, t0, t1 = ctx.problem
        (end,) = ctx.saved_tensors
        both = torch.stack((end, gradient), dim=1)
        both = solver.reversed()._integrate(Velocity(_AdjointVelocity(velocity)), both, t1, t0)
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
