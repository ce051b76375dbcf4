r"""Early stopping by the windowed moving variance of what is reconstructed (ES-WMV).

    VAR_k = (1/W) Σ_{w<W} ‖x^{(k−w)} − x̄‖²,    x̄ the mean of the window x^{(k−W+1)}, ..., x^{(k)}

(Wang et al., arXiv 2112.06074). An optimiser that fits a noisy measurement settles on the signal
first, where the iterates move little, and on the noise later, where they move again. The best
iterate of a row is the one at its lowest variance; a row whose variance has not fallen below that
for `patience` iterations stops. No ground truth is needed, and no noise level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctrlgen.rows.batching import flat

__all__ = ["WindowedVariance"]


@dataclass(frozen=True)
class WindowedVariance:
    """The rule; its windows are those of the optimizer that runs it.

    Args:
        window: W >= 2, iterates whose variance is taken.
        patience: P >= 1, iterations without a new lowest variance before a row stops.

    Raises:
        ValueError: for numbers out of range.
    """

    window: int = 10
    patience: int = 100

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("patience", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")


class Windows:
    """The last W iterates of every running row.

    Args:
        rule: with W and P.
        like: what is watched, shape (b, *), before the first iterate.
    """

    def __init__(self, rule: WindowedVariance, like: Tensor) -> None:
        self.rule, like = rule, flat(like)
        self._kept = like.new_zeros(len(like), rule.window, like.shape[1])
        self._seen = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self._lowest = like.new_full((len(like),), torch.inf)
        self._since = torch.zeros_like(self._seen)

    def see(self, moved: Tensor, watched: Tensor) -> None:
        """Take in the iterates, shape (b, *), of the rows that have moved, shape (b,).

        Sets `full`: rows that have a whole window; `lower`: whose variance is their lowest so far;
        `spent`: that have waited for one long enough.
        """
        width = self.rule.window
        at = torch.arange(width, device=moved.device) == (self._seen % width).unsqueeze(1)
        new = (at & moved.unsqueeze(1)).unsqueeze(2)
        self._kept = torch.where(new, flat(watched).unsqueeze(1), self._kept)
        self._seen = self._seen + moved
        self.full = self._seen >= width
        variance = self._kept.var(dim=1, correction=0).sum(1)
        self.lower = moved & self.full & (variance < self._lowest)
        self._lowest = torch.where(self.lower, variance, self._lowest)
        waiting = self._since + (moved & self.full)
        self._since = torch.where(self.lower, 0, waiting)
        self.spent = self._since >= self.rule.patience

    def keep(self, index: Tensor) -> None:
        """Go on with the rows at some positions, int64 of shape (b',)."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                setattr(self, name, value[index])
