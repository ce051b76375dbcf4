r"""Loudness: the level that the networks work at, and the way there and back.

Clips are scaled to a root mean square of −20 dB of full scale before they are coded, in training
and ever after, by a gain g from what is known of them,

    x' = g x,    g = 10^{L/20} / rms(x over what is known),    L = −20 dB,

and what is made is divided by g. Silence has no level: below −100 dB the gain is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.rows.batching import row_sum

__all__ = ["LEVEL", "SILENCE", "gain", "rms"]

LEVEL = -20.0
"""Root mean square of clips, in dB of full scale."""

SILENCE = 1e-5
"""Root mean square below which a clip counts as silent."""


def rms(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square of signals (B, C, L), shape (B,), over the samples that a mask keeps.

    Args:
        x: signals.
        mask: bool, broadcastable to x; all when None. Where it keeps nothing the value is zero.
    """
    weight = torch.ones_like(x) if mask is None else mask.to(x).expand_as(x)
    return (row_sum(weight * x.square()) / row_sum(weight).clamp_min(1)).sqrt()


def gain(x: Tensor, mask: Tensor | None = None, level: float = LEVEL) -> Tensor:
    """Factor that brings signals (B, C, L) to a level, shape (B,), one for silence.

    Args:
        x: signals.
        mask: samples that count, bool, broadcastable to x.
        level: in dB of full scale.
    """
    size = rms(x, mask)
    return torch.where(size < SILENCE, 1.0, 10 ** (level / 20) / size.clamp_min(SILENCE))
