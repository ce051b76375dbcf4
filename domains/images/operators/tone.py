r"""Operators that act on every value by itself: a clipped exposure and a coarse scale of levels.

    HDR        y = clip(g x, -1, 1)                    (g = 2; Mardani et al., arXiv 2305.04391)
    Quantise   y = 2 round((2^b - 1) u) / (2^b - 1) - 1,    u = clip((x + 1) / 2, 0, 1)

The gradient of HDR is its own, zero where it clips. That of Quantise is straight through: rounding
and clipping count as the identity (Bengio et al., arXiv 1308.3432); values are exact.
"""

from __future__ import annotations

import math

from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images, check_positive_integer
from ctrlgen.operators.base import Operator

__all__ = ["HDR", "Quantise", "straight_through"]


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value of `exact` with the gradient of `smooth`.

    In floating point the value is exact where both are on the scale of the rounding, for then
    their difference is representable.
    """
    return smooth + (exact - smooth).detach()


class HDR(Operator):
    """An exposure too long by the factor g, clipped to [-1, 1]; H† = y / g (a heuristic).

    Args:
        gain: g > 0.
    """

    def __init__(self, gain: float = 2.0) -> None:
        if not (gain > 0 and math.isfinite(gain)):
            raise ValueError(f"gain: expected a positive number, got {gain}")
        self.gain = float(gain)

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        return (self.gain * x).clamp(-1, 1)

    def pinv(self, y: Tensor) -> Tensor:
        return y / self.gain


class Quantise(Operator):
    """2^b levels, evenly spaced from -1 to 1; straight-through gradient; H† = y (a heuristic).

    Args:
        bits: b, from 1 to 16.
    """

    def __init__(self, bits: int) -> None:
        check_positive_integer(bits, "bits")
        if bits > 16:
            raise ValueError(f"bits: expected at most 16, got {bits}")
        self.bits = bits

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        top = 2**self.bits - 1
        level = (x + 1) * (top / 2)
        return straight_through(level.round().clamp(0, top), level) * (2 / top) - 1

    def pinv(self, y: Tensor) -> Tensor:
        return y
