r"""Weighted particles of every sample: their weights, and how they are resampled.

    w_i ∝ e^{l_i},     ESS = (Σ w)² / Σ w² ∈ [1, K]

Systematic resampling takes K ancestors by one uniform number u of the sample: particle i is taken
for every j with  Σ_{<i} w ≤ (j + u)/K < Σ_{≤i} w,  K w_i times on average and never farther from it
than one (Kitagawa 1996; Douc, Cappé and Moulines 2005). Nothing passes between samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["chosen", "effective", "log_mean", "systematic", "weights_of"]


def weights_of(log: Tensor) -> Tensor:
    """Weights (B, K) of sum 1 in float64, from their logarithms; equal where all are −∞."""
    none = log.isneginf().all(1, keepdim=True)
    return torch.softmax(torch.where(none, 0, log.double()), 1)


def effective(weights: Tensor) -> Tensor:
    """The effective number of particles (B,), of weights (B, K) of sum 1."""
    return 1 / weights.square().sum(1)


def log_mean(log: Tensor) -> Tensor:
    """log (1/K) Σ e^{l_i}, shape (B,), float64."""
    return torch.logsumexp(log.double(), 1) - torch.log(log.new_full((), log.shape[1]).double())


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """Ancestors (B, K), int64, rising.

    Args:
        weights: of sum 1, shape (B, K), float64.
        u: uniform numbers in (0, 1), shape (B,).
    """
    count = weights.shape[1]
    places = (torch.arange(count, device=u.device) + u.double().unsqueeze(1)) / count
    edges = weights.cumsum(1)
    return torch.searchsorted(edges, places, right=True).clamp_max(_last(weights))


def chosen(weights: Tensor, u: Tensor) -> Tensor:
    """One particle of each sample by its weight, int64, shape (B,)."""
    place = torch.searchsorted(weights.cumsum(1), u.double().unsqueeze(1), right=True)
    return place.clamp_max(_last(weights)).squeeze(1)


def _last(weights: Tensor) -> Tensor:
    """The last particle that weighs something, (B, 1): rounding must not choose one beyond it."""
    place = torch.arange(weights.shape[1], device=weights.device)
    return torch.where(weights > 0, place, 0).amax(1, keepdim=True)
