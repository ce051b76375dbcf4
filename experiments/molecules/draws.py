"""The best of several draws of every molecule, whatever draws them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.rows.seeds import further

__all__ = ["Draw", "best"]

Draw = Callable[[Tensor], Tensor]
"""Signals of all molecules from seeds (B,)."""


def best(draw: Draw, seeds: Tensor, number: int, order: Callable[[Tensor], Tensor]) -> Tensor:
    """The lowest in order of so many draws of every molecule; the first of equals.

    Args:
        draw: of all molecules.
        seeds: of their first draws, shape (B,).
        number: of draws, >= 1.
        order: of signals, shape (B,).
    """
    kept = draw(further(seeds, 0))
    lowest = order(kept)
    for place in range(1, number):
        signals = draw(further(seeds, place))
        value = order(signals)
        better = value < lowest
        kept = torch.where(better[:, None, None], signals, kept)
        lowest = torch.where(better, value, lowest)
    return kept
