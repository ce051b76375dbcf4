r"""Fronts of several costs: which points nothing beats, how much they beat, and where to look.

A point c ∈ R^K dominates another when no cost of it is larger and one is smaller; what nothing
dominates is the front. Its quality is one number, the volume that it dominates up to a reference,

    HV(c_1..c_N; r) = vol( ∪_n  { y : c_n ≤ y ≤ r } ),

computed exactly by slices: sorted by the last cost, the volume between two neighbours is that of
the earlier points in the other K − 1 costs times the gap (Zitzler and Thiele 1999; While et al.
2006). Two costs take N log N, three N² log N. It rises with every point that is added to a front.

Where to look: directions spread evenly over the simplex, k/H with integers Σk = H (Das and Dennis
1998). The weights w_k = 1/d_k of a direction d make the `ChebyshevCost` descend along it.
Low is good everywhere, as for all costs; a property that is to be large comes with a minus.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import torch
from torch import Tensor

from ctrlgen.rows.checks import check_sizes

__all__ = ["directions", "hypervolume", "nondominated", "ranks", "weights_of"]

_ROWS = 256  # points that are compared with all others at once


def _points(values: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 2 or not values.shape[1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"values: expected shape (N, K), K costs of N points, got {shape}")
    return values.detach()


def nondominated(values: Tensor) -> Tensor:
    """Points that no other dominates, bool, shape (N,); equal ones are all there.

    Args:
        values: K costs of N points, shape (N, K). A point with NaN is on no front, and beats none.

    Raises:
        ValueError: another shape.
    """
    values = _points(values)
    beaten = values.isnan().any(1)
    for part in torch.arange(len(values), device=values.device).split(_ROWS):
        own = values[part].unsqueeze(1)  # (b, 1, K) against (1, N, K)
        better = (values <= own).all(2) & (values < own).any(2)
        beaten[part] |= better.any(1)
    return ~beaten


def ranks(values: Tensor) -> Tensor:
    """1 on the front, 2 on that of the others, and so on; 0 for a point with NaN. Long, (N,).

    Args:
        values: shape (N, K).

    Raises:
        ValueError: another shape.
    """
    values = _points(values)
    rank = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    left = (~values.isnan().any(1)).nonzero().flatten()
    turn = 1
    while len(left):
        front = nondominated(values[left])
        rank[left[front]] = turn
        left, turn = left[~front], turn + 1
    return rank


def hypervolume(values: Tensor, reference: Tensor) -> float:
    """The volume that points dominate up to a reference, in the product of their units.

    Args:
        values: K costs of N points, shape (N, K); what is not below the reference in every cost,
            and what is not finite, adds nothing.
        reference: shape (K,), finite.

    Raises:
        ValueError: shapes that do not fit, or a reference that is not finite.
    """
    values = _points(values).double().cpu()
    limit = torch.as_tensor(reference, dtype=torch.float64).cpu()
    if limit.shape != values.shape[1:] or not bool(limit.isfinite().all()):
        raise ValueError(
            f"reference: expected {values.shape[1]} finite numbers, one per cost, got {reference}"
        )
    inside = values[(values < limit).all(1) & values.isfinite().all(1)]
    return _volume(inside, limit)


def _volume(points: Tensor, reference: Tensor) -> float:
    """As `hypervolume`, of points below the reference."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points[:, 0].min())
    points = points[nondominated(points)]
    points = points[points[:, -1].argsort(stable=True)]
    heights = torch.cat((points[1:, -1], reference[-1:])) - points[:, -1]
    if points.shape[1] == 2:
        widths = reference[0] - points[:, 0].cummin(0).values
        return float((widths * heights).sum())
    slices = [
        _volume(points[: n + 1, :-1], reference[:-1]) * height
        for n, height in enumerate(heights.tolist())
        if height > 0
    ]
    return sum(slices)


def directions(costs: int, number: int) -> Tensor:
    """Directions spread evenly over the simplex, float64, shape (number, costs), sums of one.

    Two costs have evenly spaced ones; more the lattice of Das and Dennis, of which, where it has
    more than asked, those are taken that lie farthest from all taken before, corners first. A
    single direction is the middle one. They come in the order of their first cost.

    Args:
        costs: K >= 2.
        number: of directions, >= 1.

    Raises:
        ValueError: numbers out of their range.
    """
    check_sizes(number=number)
    if costs < 2:
        raise ValueError(f"costs: expected at least 2, got {costs}")
    if number == 1:
        return torch.full((1, costs), 1 / costs, dtype=torch.float64)
    level = 1
    while len(lattice := _lattice(costs, level)) < number:
        level += 1
    taken = [int(place) for place in lattice.argmax(0).flip(0)][:number]
    nearest = torch.cdist(lattice, lattice[taken]).min(1).values
    while len(taken) < number:
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(lattice, lattice[taken[-1:]]).flatten())
    return lattice[sorted(taken)] / level


def _lattice(costs: int, level: int) -> Tensor:
    """All K integers >= 0 of a sum, in order, shape (M, K), float64."""
    bars = combinations(range(level + costs - 1), costs - 1)
    ends = [(-1, *places, level + costs - 1) for places in bars]
    rows = [[b - a - 1 for a, b in pairwise(e)] for e in ends]
    return torch.tensor(rows, dtype=torch.float64)


def weights_of(direction: Tensor, least: float = 0.02) -> Tensor:
    """Weights under which equal weighted costs lie along directions, shape (B, K), sums of one.

    Args:
        direction: shape (B, K), >= 0, sums of one.
        least: what a direction has of every cost, in (0, 1): none is without weight, none alone.

    Raises:
        ValueError: a direction with a negative part, or a least share out of its range.
    """
    if not 0 < least < 1:
        raise ValueError(f"least: expected a number in (0, 1), got {least}")
    if bool((direction < 0).any()) or not bool(direction.isfinite().all()):
        raise ValueError(f"direction: expected numbers >= 0, got {direction}")
    weights = direction.clamp_min(least).reciprocal()
    return weights / weights.sum(1, keepdim=True)
