"""What a prior is bound to: conditions of its network, one row per sample, checked by its card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.priors.cards import Card
from ctrlgen.rows.errors import UnknownName, short

if TYPE_CHECKING:
    from ctrlgen.priors.prior import Prior

__all__ = ["BoundVelocity", "condition"]


def condition(name: str, value: Any, card: Card | None) -> Tensor:
    """A condition as a tensor, shape (B, ...).

    Args:
        name: of the condition.
        value: numbers, one row per sample.
        card: of the prior, which says what its network takes.

    Raises:
        TypeError: for what is no numbers.
        UnknownName: for a condition that the card does not list.
        ValueError: for a scalar, or a label out of range.
    """
    try:
        rows = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected numbers, one row per sample, got {short(value)}"
        ) from error
    if rows.ndim == 0:
        raise ValueError(f"{name}: expected one row per sample, shape (B, ...), got a scalar")
    if card is None:
        return rows
    if name not in card.conditions:
        raise UnknownName("condition", name, card.conditions)
    limits = card.conditions[name]
    top = max(limits.get("classes", 0) - 1, limits.get("null", 0))
    low, top = limits.get("least", 0), limits.get("most", top)
    within = bool(((rows >= low) & (rows <= top)).all())
    limited = "classes" in limits or "most" in limits
    if limited and (rows.is_floating_point() or not within):
        raise ValueError(f"{name}: expected integers from {low} to {top}, got {rows.tolist()}")
    return rows


class BoundVelocity:
    """The velocity of a prior as solvers integrate it: `take` restricts its conditions."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.prior.velocity(x, t)

    def check_time(self, time: float) -> None:
        """Raise where there is no velocity at a time; see `Flow.check_time`."""
        self.prior.flow.check_time(time)

    def take(self, index: Tensor) -> BoundVelocity:
        return BoundVelocity(self.prior.take(index))
