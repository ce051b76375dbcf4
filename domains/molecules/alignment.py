r"""Equivariant optimal transport: noise atoms matched to data atoms before they are joined.

For one molecule, x_1 and noise x_0 of the same n atoms, alternate

    π = argmin_π Σ_i |x_1i - R x_0π(i)|²       (Hungarian algorithm),
    R = argmin_{R ∈ O(3)} Σ_i |x_1i - R x_0π(i)|² = U Vᵀ,   Σ_i x_1i x_0π(i)ᵀ = U S Vᵀ

(Kabsch 1976, reflections allowed: a network that is equivariant under O(3) cannot tell). Paths
become straighter and shorter (Song et al. 2023, EquiFM; Klein et al. 2023). The source stays
Gaussian in law, averaged over orientation and order, but the coupling is no longer independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["align"]


def align(noise: Tensor, data: Tensor, counts: Tensor, rounds: int = 2) -> Tensor:
    """Noise positions reordered and turned towards the data, molecule by molecule.

    Args:
        noise: centred, zero at the padding, shape (B, N, 3).
        data: centred, zero at the padding, shape (B, N, 3).
        counts: atoms of each molecule, shape (B,).
        rounds: alternations of permutation and rotation.
    """
    from scipy.optimize import linear_sum_assignment

    noise = noise.clone()
    for _ in range(rounds):
        overlap = (data @ noise.transpose(1, 2)).numpy()
        order = torch.arange(noise.shape[1]).repeat(len(noise), 1)
        for row, n in enumerate(counts.tolist()):
            chosen = linear_sum_assignment(overlap[row, :n, :n], maximize=True)[1]
            order[row, :n] = torch.from_numpy(chosen)
        noise = noise.gather(1, order.unsqueeze(2).expand(-1, -1, 3))
        left, _, right = torch.linalg.svd(data.transpose(1, 2) @ noise)
        noise = noise @ (left @ right).transpose(1, 2)
    return noise
