"""The contract of the per-sample optimizers: B independent minimisations in one batch.

    for every row i at once:   minimise value_i(x_i),   x of shape (B, *)

A row is a problem of its own: it has its own step sizes, its own stopping tests and its own
status. It shares with its neighbours only the call that evaluates the objective, which is what a
batch is for. An objective therefore returns one value per row, the gradient is the autograd
gradient of their sum (rows do not interact, so each row receives its own gradient), and rows that
have finished leave the batch: `Objective.take` hands over the problem without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ctrlgen.optimizers.early import WindowedVariance
from ctrlgen.rows.batching import PerSample, flat, row_sum
from ctrlgen.rows.status import ended_well

__all__ = [
    "Evaluated",
    "Event",
    "FunctionObjective",
    "Objective",
    "Observer",
    "Optimizer",
    "Projection",
    "ResidualObjective",
    "Solution",
    "check_start",
    "check_target",
]


class Evaluated(NamedTuple):
    """An objective at one point per row.

    Attributes:
        value: what is minimised, shape (b,), differentiable in x.
        monitor: what the target is compared with, shape (b,); for instance the loss without its
            regularizer. May be `value` itself.
        aux: anything of shape (b, *) that came up on the way, for instance the decoded signal. It
            is carried beside the iterate, so that nobody evaluates again to get it.
        residual: r of shape (b, m), where the value is a rising function of ‖r‖² and an optimizer
            asks for it (`Optimizer.needs_residual`); the objective then has `residuals(x)` too.
    """

    value: Tensor
    monitor: Tensor
    aux: Tensor | None = None
    residual: Tensor | None = None


class Objective(Protocol):
    """A batch of independent functions, one per row."""

    def __call__(self, x: Tensor, /) -> Evaluated:
        """Evaluate all rows at x, shape (b, *); `value` must be differentiable in x."""

    def take(self, index: Tensor, /) -> Objective:
        """The same functions restricted to the rows `index`, int64 of shape (b',)."""


class FunctionObjective(PerSample):
    """An objective from a plain function and its per-sample data.

        FunctionObjective(lambda x, y: (x - y).square().sum(dim=1), y=y)

    Args:
        function: called as `function(x, **data)`, returns one value per row, shape (b,).
        data: tensors with a leading batch dimension (or objects with `take`), passed by name.
    """

    per_sample = ("data",)

    def __init__(self, function: Callable[..., Tensor], **data: Any) -> None:
        self.function = function
        self.data = data

    def __call__(self, x: Tensor) -> Evaluated:
        value = self.function(x, **self.data)
        return Evaluated(value, value)


class ResidualObjective(FunctionObjective):
    """‖r(x)‖² of a plain function r and its per-sample data, for optimizers that ask for r.

        ResidualObjective(lambda x, y: x - y, y=y)

    Args:
        function: called as `function(x, **data)`, returns residuals, shape (b, *).
        data: tensors with a leading batch dimension (or objects with `take`), passed by name.
    """

    def residuals(self, x: Tensor) -> Tensor:
        """r at x (b, *), shape (b, m), differentiable."""
        return flat(self.function(x, **self.data))

    def __call__(self, x: Tensor) -> Evaluated:
        residual = self.residuals(x)
        value = row_sum(residual.square())
        return Evaluated(value, value, residual=residual)


class Event(NamedTuple):
    """What an observer receives after every round (one objective call on the active rows).

    Tensors stay on the device; copying them to the host, or not, is the observer's decision.

    Attributes:
        round: number of objective calls so far.
        rows: rows that are still running, int64 of shape (b,), b <= B.
        value: value at the best iterate of every row so far, shape (B,).
        monitor: monitor at that iterate, shape (B,).
        iterations: accepted iterations of every row, int64 of shape (B,).
        calls: objective calls spent on every row, int64 of shape (B,).
        status: `Status` of every row, int64 of shape (B,).
        evaluations: network evaluations spent on every row, int64 of shape (B,); None where an
            optimizer runs alone, which knows of no network.
    """

    round: int
    rows: Tensor
    value: Tensor
    monitor: Tensor
    iterations: Tensor
    calls: Tensor
    status: Tensor
    evaluations: Tensor | None = None


Observer = Callable[[Event], None]

Projection = Callable[[Tensor], Tensor]
"""Maps x (b, *) to the nearest admissible x (b, *), row by row. One that holds per-sample data
(a mask, say) also has `take(index)`, as objectives do."""


@dataclass(frozen=True)
class Solution:
    """The outcome, every tensor in the order and on the device of the initial point.

    The best iterate of a row is the one that reached the target; in a row that did not reach it,
    the accepted iterate of the lowest value, or of the lowest variance where the optimizer stops
    early by that. With a projection only projected iterates count.

    Attributes:
        x: best iterate, shape (B, *). A row that was not finite to begin with keeps its x0.
        value: value at x, shape (B,).
        monitor: monitor at x, shape (B,).
        aux: what the objective carried along at x, shape (B, *), or None.
        gradient_norm: max-norm of the gradient at x, shape (B,).
        status: `Status` of each row, int64 of shape (B,).
        iterations: accepted iterations, int64 of shape (B,).
        calls: objective calls, each of value and gradient, int64 of shape (B,).
        rounds: number of objective calls, each on all rows that were then running.
        history: "value", "monitor" (x0's dtype) and "calls" (int64) of shape (R, B): entry k is
            the k-th accepted iterate of the row (0 is the initial point) and the objective calls
            spent up to it. A row that has left repeats its last entry.
    """

    x: Tensor
    value: Tensor
    monitor: Tensor
    aux: Tensor | None
    gradient_norm: Tensor
    status: Tensor
    iterations: Tensor
    calls: Tensor
    rounds: int
    history: dict[str, Tensor]

    @property
    def converged(self) -> Tensor:
        """Rows that reached their target or a stationary point, bool of shape (B,)."""
        return ended_well(self.status)


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Base of all optimizers: the stopping rules, which are tested row by row.

    Args:
        max_iterations: accepted iterations per row, >= 0 (0 only evaluates the initial point).
        max_evaluations: of the objective, per row, >= 1, or None for no limit. A projection keeps
            one in reserve for the last projected point.
        gradient_tolerance: a row has converged when the max-norm of its gradient is at most this.
        change_tolerance: a row has converged when an iteration changes its value by at most this
            times max(1, |value|), or no coordinate by more than this. A change that is lost in the
            rounding of the value is taken from the gradients at both ends; where such changes add
            up to more than the rounding and still do not show, there is none. 0 switches the test
            off.
        restart_every: forget the past (curvature, momentum) after this many iterations, and apply
            the projection where there is one. None: never.
        early: stop a row, and choose its best iterate, by the variance of the latest iterates of
            `Evaluated.aux` (of x where there is none) in place of the value; None for neither.
    """

    needs_residual: ClassVar[bool] = False
    """Whether it solves r(x) ≈ 0, and the objective has to bring r (`Evaluated.residual`)."""

    max_iterations: int = 100
    max_evaluations: int | None = None
    gradient_tolerance: float = 1e-7
    change_tolerance: float = 1e-9
    restart_every: int | None = None
    early: WindowedVariance | None = None

    def __post_init__(self) -> None:
        _at_least("max_iterations", self.max_iterations, 0)
        _at_least("max_evaluations", self.max_evaluations, 1)
        _at_least("gradient_tolerance", self.gradient_tolerance, 0)
        _at_least("change_tolerance", self.change_tolerance, 0)
        _at_least("restart_every", self.restart_every, 1)
        if self.early is not None and not isinstance(self.early, WindowedVariance):
            raise TypeError(f"early: expected WindowedVariance or None, got {self.early!r}")

    @abstractmethod
    def minimize(
        self,
        objective: Objective,
        x0: Tensor,
        *,
        target: float | Tensor | None = None,
        observer: Observer | None = None,
        projection: Projection | None = None,
    ) -> Solution:
        """Minimise every row of `objective` from `x0`.

        The result carries no graph: an optimizer differentiates the objective, nobody
        differentiates the optimizer.

        Args:
            objective: one function per row of x0.
            x0: initial points, floating point, shape (B, *).
            target: a row stops at the first iterate whose monitor is at most this; one number, or
                one per row, shape (B,).
            observer: called with an `Event` after every round.
            projection: applied to the initial point, then to the iterate after every
                `restart_every` iterations, and to the last one. The projected point is evaluated
                (and counted), and only projected points can be returned or reach the target.

        Raises:
            TypeError: x0 is no floating point tensor, or the objective is no `Objective`.
            ValueError: a shape does not fit, or the value does not depend on x.
        """


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_start(
    rules: Optimizer, objective: Objective, x0: Tensor, projection: Projection | None
) -> None:
    """Raise if the arguments of `Optimizer.minimize` do not fit together."""
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        got = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"x0: expected a floating point tensor, got {got}")
    if x0.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"x0: expected float32 or float64, got {x0.dtype}: decays near 1 round to 1"
        )
    if x0.ndim < 1 or x0.numel() == 0:
        raise ValueError(f"x0: expected shape (B, *) with at least one entry, got {(*x0.shape,)}")
    if not callable(objective) or not hasattr(objective, "take"):
        raise TypeError(
            "objective: expected a callable that has take(index), as FunctionObjective does; got "
            f"{type(objective).__name__}"
        )
    if projection is not None and rules.restart_every is None:
        raise ValueError("projection needs restart_every: the number of iterations between two")


def check_target(target: float | Tensor | None, x0: Tensor) -> Tensor | None:
    """The target of each row, shape (B,)."""
    if target is None:
        return None
    if isinstance(target, int | float) and target == target:
        return x0.new_full((), target).expand(len(x0))
    values = torch.as_tensor(target, dtype=x0.dtype, device=x0.device).detach()
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(x0)) or values.isnan().any():
        raise ValueError(
            f"target: expected one number or shape ({len(x0)},) without NaN, got {target}"
        )
    return values.expand(len(x0))
