r"""Frechet distance between two sets of features, one row per sample.

For Gaussians with means m_1, m_2 and covariances S_1, S_2 (Dowson & Landau 1982, eq. 4)

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2).

With centred features A_i (n_i, d) scaled so that S_i = A_i' A_i, the last trace is the nuclear norm
of A_1 A_2', so sets smaller than the dimension need no regularisation; for larger sets it is
the sum of the square roots of the eigenvalues of the symmetric S_1^(1/2) S_2 S_1^(1/2).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frechet_distance"]


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Squared Frechet distance of Gaussians fitted to two sets of features, a float64 scalar.

    Args:
        first: features, shape (n_1, d), n_1 at least 2.
        second: features, shape (n_2, d), n_2 at least 2.

    Raises:
        ValueError: a set has fewer than two rows, or the dimensions differ.
    """
    for name, rows in (("first", first), ("second", second)):
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != first.shape[1]:
            raise ValueError(
                f"{name}: expected at least two rows of {first.shape[-1]} features, "
                f"got {tuple(rows.shape)}"
            )
    first, second = first.double(), second.double()
    means = first.mean(dim=0), second.mean(dim=0)
    a, b = (
        (rows - mean) / (len(rows) - 1) ** 0.5
        for rows, mean in zip((first, second), means, strict=True)
    )
    if max(len(a), len(b)) <= a.shape[1]:
        cross = torch.linalg.svdvals(a @ b.T).sum()
    else:
        values, vectors = torch.linalg.eigh(a.T @ a)
        root = vectors * values.clamp_min(0).sqrt() @ vectors.T
        half = b @ root
        cross = torch.linalg.eigvalsh(half.T @ half).clamp_min(0).sqrt().sum()
    return (means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
