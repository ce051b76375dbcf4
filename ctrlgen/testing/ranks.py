r"""Rank statistics: whether samples could have been the truth.

Draw x* from the prior, measure it, and draw x_1, ..., x_L from what claims to be the posterior. If
it is, x* is one more draw: for every function f of a signal (and its measurement) the rank

    r = #{l : f(x_l) < f(x*)}

is uniform on 0, 1, ..., L (Talts et al., arXiv 1804.06788, Theorem 1). Samples that are too narrow
give ranks at both ends, too wide ones in the middle, biased ones at one end. Over N truths

    χ² = Σ_b (n_b − N/B)²/(N/B)         of the counts n_b in B bins of equally many ranks

has B − 1 degrees of freedom if r is uniform; its upper tail is the p-value. With ranks known, so is
the coverage of central intervals: (x_(k), x_(L+1−k)) holds x* where k <= r <= L − k, with the
probability (L + 1 − 2k)/(L + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["coverage", "nominal", "p_values", "ranks"]


def ranks(truth: Tensor, samples: Tensor) -> Tensor:
    """r of every truth and function, int64 of shape (N, K).

    A sample that is not finite lies above all; a truth equal to some samples takes its place below
    them.

    Args:
        truth: functions of the truths, shape (N, K).
        samples: of the samples, shape (N, L, K).

    Raises:
        ValueError: for shapes that do not fit.
    """
    if truth.ndim != 2 or samples.ndim != 3 or samples[:, 0].shape != truth.shape:
        raise ValueError(
            "truth, samples: expected shapes (N, K) and (N, L, K), got "
            f"{tuple(truth.shape)} and {tuple(samples.shape)}"
        )
    return (samples < truth.unsqueeze(1)).sum(1)


def p_values(rank: Tensor, draws: int, bins: int = 10) -> Tensor:
    """How likely ranks are as uneven as these, shape (K,), if the samples are of the posterior.

    Args:
        rank: r, shape (N, K).
        draws: L.
        bins: B, which divides L + 1.

    Raises:
        ValueError: for another B, or fewer than five truths per bin, of which χ² is no law.
    """
    if not 1 < bins <= draws + 1 or (draws + 1) % bins:
        raise ValueError(f"bins: expected a divisor of draws + 1 = {draws + 1}, got {bins}")
    expected = len(rank) / bins
    if expected < 5:
        raise ValueError(
            f"rank: expected at least {5 * bins} truths for {bins} bins, got {len(rank)}"
        )
    counts = torch.nn.functional.one_hot(rank * bins // (draws + 1), bins).sum(0)
    chi2 = ((counts - expected).square() / expected).sum(1).double()
    half = torch.full_like(chi2, (bins - 1) / 2)
    return torch.special.gammaincc(half, chi2 / 2)


def nominal(level: float, draws: int) -> tuple[int, float]:
    """k of the central interval of L samples whose probability is nearest to a level, and that.

    Args:
        level: asked for, in (0, 1).
        draws: L >= 2.
    """
    k = min(max(round((1 - level) * (draws + 1) / 2), 1), draws // 2)
    return k, (draws + 1 - 2 * k) / (draws + 1)


def coverage(rank: Tensor, draws: int, level: float) -> Tensor:
    """Share of truths in the central interval of `nominal`, shape (K,).

    Args:
        rank: r, shape (N, K).
        draws: L.
        level: of the interval, in (0, 1).
    """
    k, _ = nominal(level, draws)
    return ((rank >= k) & (rank <= draws - k)).double().mean(0)
