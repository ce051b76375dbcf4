"""Points: one iterate or trial per row, with the value and the gradient of the objective there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Evaluated, Objective
from ctrlgen.rows.batching import expand_like, flat, take

__all__ = ["Point", "evaluate"]


class Point(NamedTuple):
    """A point per row with all that is known there.

    Attributes:
        x: shape (b, d).
        value: shape (b,).
        monitor: shape (b,).
        aux: shape (b, *), or None.
        gradient: of value in x, shape (b, d).
        gradient_norm: its max-norm, shape (b,).
        residual: shape (b, m), or None.
    """

    x: Tensor
    value: Tensor
    monitor: Tensor
    aux: Tensor | None
    gradient: Tensor
    gradient_norm: Tensor
    residual: Tensor | None = None

    @property
    def finite(self) -> Tensor:
        """Rows whose value and gradient are finite, shape (b,)."""
        return self.value.isfinite() & self.gradient_norm.isfinite()

    def take(self, index: Tensor) -> Point:
        """The rows `index`."""
        return self._replace(**{name: take(field, index) for name, field in self._asdict().items()})

    def where(self, mask: Tensor, other: Point) -> Point:
        """This point, replaced by `other` in the rows of `mask`, shape (b,)."""

        def choose(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(expand_like(mask, old), new, old)

        return Point(
            x=choose(self.x, other.x),
            value=choose(self.value, other.value),
            monitor=choose(self.monitor, other.monitor),
            aux=None if self.aux is None or other.aux is None else choose(self.aux, other.aux),
            gradient=choose(self.gradient, other.gradient),
            gradient_norm=choose(self.gradient_norm, other.gradient_norm),
            residual=(
                None
                if self.residual is None or other.residual is None
                else choose(self.residual, other.residual)
            ),
        )

    def reported(self) -> dict[str, Tensor]:
        """The fields that a solution reports, with aux where there is one."""
        hidden = ("gradient", "residual")
        return {k: v for k, v in self._asdict().items() if k not in hidden and v is not None}


def evaluate(objective: Objective, x: Tensor) -> Point:
    """One objective call, with its gradient.

    The gradient of the sum over rows holds the gradient of each row, since rows do not interact.

    Args:
        objective: one function per row of x.
        x: shape (b, *).

    Raises:
        TypeError: the objective returns something else than `Evaluated`.
        ValueError: a shape does not fit, or the value does not depend on x.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value, monitor, aux, residual = _check(objective(x), x)
        (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError("objective.value does not depend on x")
    gradient = flat(gradient)
    return Point(
        x=flat(x.detach()),
        value=value.detach().to(x.dtype),
        monitor=monitor.detach().to(x.dtype),
        aux=None if aux is None else aux.detach(),
        gradient=gradient,
        gradient_norm=torch.linalg.vector_norm(gradient, torch.inf, dim=1),
        residual=None if residual is None else residual.detach().to(x.dtype),
    )


def _check(evaluated: Evaluated, x: Tensor) -> Evaluated:
    """What an objective returned at x, (b, *), if it keeps the contract."""
    if not isinstance(evaluated, Evaluated):
        raise TypeError(f"objective must return Evaluated, got {type(evaluated).__name__}")
    count = len(x)
    for name in ("value", "monitor"):
        shape = tuple(getattr(evaluated, name).shape)
        if shape != (count,):
            raise ValueError(f"objective.{name} must have shape ({count},), got {shape}")
    if evaluated.aux is not None and evaluated.aux.shape[:1] != (count,):
        shape = tuple(evaluated.aux.shape)
        raise ValueError(f"objective.aux must have shape ({count}, *), got {shape}")
    if evaluated.residual is not None:
        shape = tuple(evaluated.residual.shape)
        if len(shape) != 2 or shape[0] != count:
            raise ValueError(f"objective.residual must have shape ({count}, m), got {shape}")
    if not evaluated.value.requires_grad:
        raise ValueError("objective.value does not depend on x through a differentiable operation")
    return evaluated
