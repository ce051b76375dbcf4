r"""Schedules of guidance: how strong each step of a grid is, of n from t to s.

With ᾱ = α²/(α² + σ²) and q_t = ᾱ_t/ᾱ_s (Ye et al., TFG, arXiv 2409.15761; the last two of FreeDoM,
arXiv 2303.09833, and MPGD, arXiv 2311.16424),

    "increase" q_t n/Σq,  "decrease" (1 − q_t) n/Σ(1 − q),  "constant" 1,
    "signal" √ᾱ_t,  "inverse" 1/√ᾱ_t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from ctrlgen.sampling.grids import Level

__all__ = ["Schedule", "Strengths", "schedule_weights"]

Schedule = Literal["increase", "decrease", "constant", "signal", "inverse"]


class Strengths(NamedTuple):
    """ρ_t and μ_t of every step."""

    rho: list[float]
    mu: list[float]


def schedule_weights(schedule: Schedule, levels: Sequence[Level]) -> list[float]:
    """The weight of each step of a grid by one of the module's schedules."""
    bars = [v.alpha**2 / (v.alpha**2 + v.sigma**2) for v in levels]
    kept = [t / s for t, s in pairwise(bars)]
    match schedule:
        case "increase":
            return [q * len(kept) / sum(kept) for q in kept]
        case "decrease":
            lost = sum(1 - q for q in kept)
            return [(1 - q) * len(kept) / lost for q in kept]
        case "constant":
            return [1.0] * len(kept)
        case "signal":
            return [math.sqrt(bar) for bar in bars[:-1]]
        case _:
            return [1 / math.sqrt(bar) for bar in bars[:-1]]
