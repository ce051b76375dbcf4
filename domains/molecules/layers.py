r"""Equivariant parts of the molecular networks: a geometric transformer on masked dense pairs.

Each atom i of a molecule carries scalars h_i and M vectors V_i, each pair narrow features e_ij.
With r_ij = x_i - x_j, u_ij = r_ij / (1 + |r_ij|) and N(V) the vectors over their root mean square,
a block does, under scale, shift and gate from the conditioning (Peebles & Xie 2023, adaLN),

    attention   a_ij ∝ exp(q_i·k_j + W e_ij),    h_i += Linear(Σ_j a_ij v_j, Σ_j a_ij e_ij)
    vectors     V_i += g(h_i) ∘ mean_j (α(e_ij) u_ij + β(e_ij) N(V_j)) + Linear(N(V_i))
    scalars     h_i += MLP(h_i, ⟨W₁N(V_i), W₂N(V_i)⟩)
    pairs       e_ij += MLP(e_ij, h_i, h_j, ⟨N(V_i), N(V_j)⟩).

Vectors are only added, scaled and multiplied among themselves, so rotations, reflections and
permutations of the atoms pass through; positions enter by differences, so translations do not
matter. (The same ingredients as in PaiNN, Schütt et al. 2021, and in equivariant transformers,
Thölke & De Fabritiis 2022; keeping pairs narrow and atoms wide makes it cheap.) Every sum over
atoms is masked: padding changes nothing. Distances are computed in the dtype of the positions also
under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.rows.checks import check_numbers, check_sizes

__all__ = [
    "ROWS",
    "Block",
    "RowLinear",
    "TimeEmbedding",
    "Trunk",
    "centred",
    "in_eights",
    "pair_geometry",
]

ROWS = 8
"""Molecules are computed in multiples of this, outside training."""


def in_eights(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors (B, *) with copies of the first row behind, so that B is a multiple of `ROWS`.

    A matrix product of a few rows more or less is blocked otherwise and rounds otherwise, and an
    optimiser magnifies that; of eights of molecules it rounds every row alike (measured: to the
    bit, for a given number of places, on one thread). Copies have no gradient.
    """
    if torch.compiler.is_compiling():  # compiled kernels round in their own way
        return tensors
    missing = -len(tensors[0]) % ROWS
    if not missing:
        return tensors
    return tuple(
        torch.cat((x, x[:1].detach().expand(missing, *x.shape[1:]))) if len(x) else x
        for x in tensors
    )


class RowLinear(nn.Linear):
    """A linear map of vectors (B, inner) that outside training sums every row by itself.

    For small maps: one matrix product of few long rows rounds as their number wants.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        out = (x.unsqueeze(1) * self.weight).sum(2)
        return out if self.bias is None else out + self.bias


def centred(x: Tensor, mask: Tensor) -> Tensor:
    """Positions (B, N, 3) minus the mean of the atoms that exist; padding becomes zero.

    Args:
        x: positions; anything finite or not at the padding.
        mask: atoms that exist, bool, shape (B, N).
    """
    kept = mask.unsqueeze(2)
    x = torch.where(kept, x, 0)
    return torch.where(kept, x - x.sum(1, keepdim=True) / kept.sum(1, keepdim=True), 0)


def pair_geometry(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, N, N), smooth at zero, and vectors u_ij (B, N, N, 3) of positions (B, N, 3)."""
    difference = x.unsqueeze(2) - x.unsqueeze(1)
    distance = (difference.square().sum(3) + 1e-6).sqrt()
    return distance, difference / (1 + distance).unsqueeze(3)


def vector_norm(v: Tensor) -> Tensor:
    """Vectors (B, N, 3, M) over the root mean square of their lengths within one atom."""
    return v * (v.square().sum(2, keepdim=True).mean(3, keepdim=True) + 1e-4).rsqrt()


class TimeEmbedding(nn.Module):
    """Embed the flow time t in [0, 1], shape (B,), into (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int, bands: int = 32) -> None:
        super().__init__()
        # Half a turn to 32 turns over the unit interval: smooth enough for second-order solvers.
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 6, bands, base=2.0))
        self.layers = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies.to(t.dtype)
        return F.silu(self.layers(torch.cat((angle.cos(), angle.sin()), dim=1)))


class RadialBasis(nn.Module):
    """Gaussians of log(1 + d): narrow at bond lengths, wide far away.

    Args:
        size: number of Gaussians.
        reach: largest distance that is resolved, in the unit of the positions.
    """

    centres: Tensor

    def __init__(self, size: int, reach: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, math.log1p(reach), size))
        self.sharpness = 0.5 * (size - 1) ** 2 / math.log1p(reach) ** 2

    def forward(self, distance: Tensor) -> Tensor:
        gap = distance.log1p().unsqueeze(-1) - self.centres.to(distance.dtype)
        return torch.exp(-self.sharpness * gap.square())


class Block(nn.Module):
    """One block of the module's docstring.

    Args:
        width: of the scalars, a multiple of heads.
        pair: width of the pair features.
        vectors: number of vectors M of an atom.
        heads: attention heads.
        ratio: hidden width of the MLPs over their width.
    """

    def __init__(self, width: int, pair: int, vectors: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.hidden = heads, 2 * pair
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.bias = nn.Linear(pair, heads, bias=False)
        self.out = nn.Linear(width + heads * pair, width)
        self.edge = nn.Linear(pair, 2 * vectors)
        self.gate = nn.Linear(width, vectors)
        self.mix = nn.Linear(vectors, 3 * vectors, bias=False)
        self.up = nn.Linear(width + vectors, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        self.ends = nn.Linear(width, 2 * self.hidden)
        self.pair_up = nn.Linear(pair + vectors, self.hidden)
        self.pair_down = nn.Linear(self.hidden, pair)
        for layer in (self.modulation, self.pair_down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, h: Tensor, v: Tensor, e: Tensor, u: Tensor, condition: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update scalars h (B, N, C), vectors v (B, N, 3, M) and pairs e (B, N, N, P).

        Args:
            h, v, e: the features.
            u: directions, shape (B, N, N, 3).
            condition: shape (B, C).
            weight: 1/n for atoms that exist, 0 for padding, shape (B, N).
        """
        batch, atoms, width = h.shape
        m = self.modulation(condition).unsqueeze(1).chunk(6, dim=2)
        normed = F.layer_norm(h, (width,)) * (1 + m[0]) + m[1]
        pairs = F.layer_norm(e, e.shape[3:])
        query, key, value = self.qkv(normed).view(batch, atoms, 3, self.heads, -1).unbind(2)
        scores = torch.einsum("bihd,bjhd->bijh", query, key) * query.shape[3] ** -0.5
        scores = (scores + self.bias(pairs)).masked_fill((weight == 0)[:, None, :, None], -math.inf)
        share = (
            scores.float().softmax(2).to(h.dtype) if h.dtype != torch.float64 else scores.softmax(2)
        )
        mixed = torch.einsum("bijh,bjhd->bihd", share, value).flatten(2)
        seen = torch.einsum("bijh,bijp->bihp", share, pairs).flatten(2)
        h = h + (1 + m[2]) * self.out(torch.cat((mixed, seen), dim=2))

        vn = vector_norm(v)
        near, far = (self.edge(pairs) * weight[:, None, :, None]).to(u.dtype).chunk(2, dim=3)
        message = (near.unsqueeze(3) * u.unsqueeze(4) + far.unsqueeze(3) * vn.unsqueeze(1)).sum(2)
        first, second, kept = self.mix(vn).chunk(3, dim=3)
        v = v + torch.sigmoid(self.gate(normed)).unsqueeze(2) * message + kept

        inner = (first * second).sum(2)
        normed = F.layer_norm(h, (width,)) * (1 + m[3]) + m[4]
        hidden = F.silu(self.up(torch.cat((normed, inner.to(normed.dtype)), dim=2)))
        h = h + (1 + m[5]) * self.down(hidden)

        left, right = self.ends(normed).chunk(2, dim=2)
        dots = (vn.unsqueeze(2) * vn.unsqueeze(1)).sum(3)
        up = self.pair_up(torch.cat((pairs, dots.to(pairs.dtype)), dim=3))
        e = e + self.pair_down(F.silu(up + left.unsqueeze(2) + right.unsqueeze(1)))
        return h, v, e


class Trunk(nn.Module):
    """The geometric transformer: atoms with features and positions to scalars, vectors, pairs.

    Args:
        features: input scalars of an atom.
        width, pair, vectors, heads, ratio: see `Block`.
        depth: number of blocks.
        bands: Gaussians of the distance.
        reach: largest resolved distance, in the unit of the positions.
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        depth: int = 6,
        pair: int = 32,
        vectors: int = 16,
        heads: int = 8,
        ratio: int = 4,
        bands: int = 48,
        reach: float = 8.0,
    ) -> None:
        super().__init__()
        check_sizes(features=features, width=width, depth=depth, pair=pair, vectors=vectors)
        check_sizes(heads=heads, ratio=ratio, bands=bands)
        check_numbers(reach=reach)
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.width, self.pair, self.vectors = width, pair, vectors
        self.stem = nn.Linear(features, width)
        self.stem_ends = nn.Linear(features, 2 * pair)
        self.basis = RadialBasis(bands, reach)
        self.stem_pair = nn.Linear(bands, pair)
        self.blocks = nn.ModuleList(Block(width, pair, vectors, heads, ratio) for _ in range(depth))

    def forward(
        self, features: Tensor, x: Tensor, condition: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars (B, N, C), vectors (B, N, 3, M), pairs (B, N, N, P), covariant with x.

        Args:
            features: scalars of the atoms, shape (B, N, features).
            x: positions, shape (B, N, 3).
            condition: shape (B, C).
            mask: atoms that exist, bool, shape (B, N).
        """
        weight = mask.to(x.dtype) / mask.sum(1, keepdim=True)
        distance, u = pair_geometry(x)
        h = self.stem(features)
        left, right = self.stem_ends(features).chunk(2, dim=2)
        e = self.stem_pair(self.basis(distance)) + left.unsqueeze(2) + right.unsqueeze(1)
        v = x.new_zeros(*x.shape, self.vectors)
        for block in self.blocks:
            h, v, e = block(h, v, e, u, condition, weight)
        return h, v, e
