r"""Equivariant optimal transport: noise atoms matched to data atoms before they are joined.

For one molecule, x_1 and noise x_0 of the same n atoms, alternate

    π = argmin_π Σ_i |x_1i - R x_0π(i)|²                       (assignment),
    R = argmin_{R ∈ O(3)} Σ_i |x_1i - R x_0π(i)|² = U Vᵀ,   Σ_i x_1i x_0π(i)ᵀ = H = U S Vᵀ

(Kabsch 1976, reflections allowed: a network that is equivariant under O(3) cannot tell). Paths
become straighter and shorter (Song et al. 2023, EquiFM; Klein et al. 2023). The source stays
Gaussian in law, averaged over orientation and order, but the coupling is no longer independent.

On the CPU the Hungarian algorithm assigns, one molecule after another: for 128 molecules it takes a
sixth of the time of what follows. Elsewhere all molecules go together, in a fixed number of
operations that read nothing back: every atom without a partner bids for the best one, which goes to
the highest bid at a price raised by it (Bertsekas 1988, the Jacobi form of the auction, within n ε
of the optimum when all are served); who is left takes what is left; pairs that gain by it swap. The
assignment costs 0.6 % more than the best. R is the polar factor of H by Newton's iteration
X <- (γ X + X⁻ᵀ/γ)/2 (Higham 1986), in closed form for 3 x 3 matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["align", "assigned", "hungarian", "polar_factor"]

Assign = Callable[[Tensor, Tensor], Tensor]

_NEVER = -1e4  # benefit of a pair of an atom and padding: far below that of any two atoms


def align(
    noise: Tensor, data: Tensor, counts: Tensor, rounds: int = 2, assign: Assign | None = None
) -> Tensor:
    """Noise positions reordered and turned towards the data, molecule by molecule.

    Args:
        noise: centred, zero at the padding, shape (B, N, 3).
        data: centred, zero at the padding, of about unit variance, shape (B, N, 3).
        counts: atoms of each molecule, shape (B,).
        rounds: alternations of permutation and rotation.
        assign: `hungarian` or `assigned`; by default the one that is quick where the noise is.
    """
    assign = assign or (hungarian if noise.device.type == "cpu" else assigned)
    for _ in range(rounds):
        order = assign(data @ noise.transpose(1, 2), counts)
        noise = noise.gather(1, order.unsqueeze(2).expand(-1, -1, 3))
        turn = polar_factor(data.transpose(1, 2) @ noise)
        noise = noise @ turn.transpose(1, 2)
    return noise


def hungarian(benefit: Tensor, counts: Tensor) -> Tensor:
    """The assignment of the largest total benefit, one molecule after another, on the CPU.

    Args:
        benefit: of row i with column j, shape (B, N, N).
        counts: rows and columns that exist, shape (B,).

    Returns:
        The column of each row, shape (B, N), long; the padding keeps its place.
    """
    from scipy.optimize import linear_sum_assignment

    order = torch.arange(benefit.shape[1]).repeat(len(benefit), 1)
    values = benefit.detach().double().numpy()
    for row, n in enumerate(counts.tolist()):
        chosen = linear_sum_assignment(values[row, :n, :n], maximize=True)[1]
        order[row, :n] = torch.from_numpy(chosen)
    return order


def assigned(
    benefit: Tensor, counts: Tensor, bids: int = 24, swaps: int = 4, epsilon: float = 0.1
) -> Tensor:
    """An assignment of nearly the largest total benefit, all molecules together.

    Args:
        benefit, counts: as of `hungarian`.
        bids: rounds of the auction.
        swaps: rounds in which pairs swap that gain by it.
        epsilon: least raise of a price, in units of the benefit.

    Returns:
        As of `hungarian`.
    """
    place = torch.arange(benefit.shape[1], device=benefit.device)
    padding = place >= counts.unsqueeze(1)
    alone = (place.unsqueeze(1) == place) & padding.unsqueeze(1)
    value = benefit.masked_fill(padding.unsqueeze(1) | padding.unsqueeze(2), _NEVER)
    value = value.masked_fill(alone, 0)

    price = torch.zeros_like(value[:, 0])
    pairs = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(bids):
        net = value - price.unsqueeze(1)
        first, choice = net.max(2)
        wanted = place == choice.unsqueeze(2)
        second = net.masked_fill(wanted, -math.inf).amax(2)
        free = ~pairs.any(2)
        offers = (first - second + epsilon).unsqueeze(2) + price.unsqueeze(1)
        offers = offers.masked_fill(~(wanted & free.unsqueeze(2)), -math.inf)
        best, bidder = offers.max(1)
        sold = best > -math.inf
        price = torch.where(sold, best, price)
        winner = place.unsqueeze(1) == bidder.unsqueeze(1)
        pairs = torch.where(sold.unsqueeze(1), winner, pairs)

    rows, columns = ~pairs.any(2), ~pairs.any(1)
    same = rows.cumsum(1).unsqueeze(2) == columns.cumsum(1).unsqueeze(1)
    pairs = pairs | (same & rows.unsqueeze(2) & columns.unsqueeze(1))
    order = pairs.to(torch.uint8).argmax(2)
    for _ in range(swaps):
        # What row i has of the column of row j.
        across = value.gather(2, order.unsqueeze(1).expand_as(value))
        own = across.diagonal(dim1=1, dim2=2)
        gain = across + across.transpose(1, 2) - own.unsqueeze(1) - own.unsqueeze(2)
        best, partner = gain.max(2)
        agreed = (partner.gather(1, partner) == place) & (best > 1e-6)
        order = order.gather(1, torch.where(agreed, partner, place))
    return order


def polar_factor(matrix: Tensor, rounds: int = 10) -> Tensor:
    """U Vᵀ of matrices U S Vᵀ, reflections included, without a singular value decomposition.

    Where a matrix has no single one (two or three atoms), it is the one nearest to the identity.

    Args:
        matrix: shape (B, 3, 3).
        rounds: of Newton's iteration, in float64; eight are exact.
    """
    identity = torch.eye(3, dtype=torch.float64, device=matrix.device)
    x = matrix.double()
    x = x / x.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-30) + 1e-7 * identity
    for _ in range(rounds):
        a, b, c = x.unbind(1)
        cofactors = torch.stack(
            (torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), dim=1
        )
        inverse = cofactors / (a * cofactors[:, 0]).sum(1)[:, None, None]  # transposed
        sizes = [part.square().sum((1, 2), keepdim=True) for part in (inverse, x)]
        scale = (sizes[0] / sizes[1]) ** 0.25
        x = 0.5 * (scale * x + inverse / scale)
    # A determinant of exactly zero, which no data have, turns nothing.
    whole = x.isfinite().all(2).all(1)[:, None, None]
    return torch.where(whole, x, identity).to(matrix.dtype)
