"""Black-box costs: any scorer of signals, for the methods that need values alone.

A scorer has no gradient. `BestOf` and `EvolutionStrategy` steer by it; a method that needs a
gradient refuses it before any compute, also as a part of a sum. What it cannot score costs
infinity, so that it is ranked last and never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost

__all__ = ["BlackBoxCost", "best_of"]


class BlackBoxCost(Cost):
    """A cost from any function of signals; no gradient passes.

    Args:
        score: signals (B, *signal), detached, to B numbers, low where the wish is met: a tensor, an
            array or a list, one for each row by itself. NaN and None count as infinity.
        name: how messages call it.

    Raises:
        TypeError: if the scorer cannot be called.
    """

    def __init__(
        self, score: Callable[[Tensor], Tensor | Sequence[float | None]], name: str | None = None
    ) -> None:
        if not callable(score):
            raise TypeError(f"score: expected a callable, got {type(score).__name__}")
        self.score = score
        self.name: str = name or str(getattr(score, "__name__", type(score).__name__))

    @property
    def differentiable(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        found = self.score(x.detach())
        if isinstance(found, list | tuple):
            found = torch.tensor([torch.nan if value is None else float(value) for value in found])
        value = torch.as_tensor(found, dtype=x.dtype, device=x.device).detach()
        return value.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def __repr__(self) -> str:
        return self.name


def best_of(costs: Tensor, count: int) -> Tensor:
    """The best of every `count` consecutive candidates.

    Args:
        costs: one per candidate, shape (G · count,), the candidates of a group side by side; NaN is
            worse than everything.
        count: candidates of a group, >= 1.

    Returns:
        Positions of the best of each group, shape (G,), int64; the first among equals.

    Raises:
        ValueError: if the groups are not whole.
    """
    if count < 1 or costs.ndim != 1 or len(costs) % count:
        raise ValueError(f"costs: expected groups of {count}, got shape {tuple(costs.shape)}")
    table = costs.nan_to_num(nan=torch.inf, posinf=torch.inf).reshape(-1, count)
    first = torch.arange(len(table), device=costs.device) * count
    # the first of equal costs on every device, which argmin does not promise
    place = torch.arange(count, device=costs.device)
    lowest = table == table.min(1, keepdim=True).values
    return first + torch.where(lowest, place, count).min(1).values
