r"""Free-form masks: the strokes of a brush, in the manner of Yu et al. (arXiv 1806.03589) and of
Palette's masks with 20-30 % hidden (Saharia et al., arXiv 2111.05826).

A brush walks in segments; its direction turns a little at each, and now and then it is lifted and
set down elsewhere with another width. A pixel within the brush's reach of segment k is painted at
the time k + (fraction of the segment where it is nearest). The pixels painted first are hidden,
exactly as many as the drawn coverage asks for: the last stroke stops where the mask is complete.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrlgen.rows.seeds import Seeds, uniform

__all__ = ["free_form_mask"]

_STROKES = 2**32 + 2  # stream of the random numbers that strokes consume
_SEGMENTS = 48
_LIFT = 0.2  # probability that a segment starts a new stroke


def free_form_mask(
    size: tuple[int, int],
    seeds: Seeds,
    coverage: tuple[float, float],
    device: torch.device | str | None = None,
) -> Tensor:
    """What is kept, shape (B, 1, H, W), bool.

    Args:
        size: height and width in pixels.
        seeds: one per sample.
        coverage: least and greatest hidden fraction; each sample draws its own between them.

    Raises:
        ValueError: where coverage is no interval in [0, 1).
    """
    low, high = coverage
    if not 0 <= low <= high < 1:
        raise ValueError(f"coverage: expected 0 <= least <= greatest < 1, got {coverage}")
    height, width = size
    scale = min(height, width)
    options = {"dtype": torch.float64, "device": device}
    draws = uniform(seeds, (_SEGMENTS + 1, 6), _STROKES, **options)  # type: ignore[arg-type]
    extent = draws.new_tensor([height, width])
    grid = torch.stack(
        torch.meshgrid(
            torch.arange(height, device=draws.device) + 0.5,
            torch.arange(width, device=draws.device) + 0.5,
            indexing="ij",
        )
    )

    place = draws[:, -1, :2] * extent
    heading = 2 * math.pi * draws[:, -1, 2]
    reach = _reach(draws[:, -1, 3], scale)
    painted = draws.new_full((len(draws), height, width), math.inf)
    nearest = painted.clone()
    for k in range(_SEGMENTS):
        lift, turn, step, x, y, fat = draws[:, k].unbind(1)
        fresh = lift < _LIFT
        place = torch.where(fresh[:, None], torch.stack((x, y), 1) * extent, place)
        reach = torch.where(fresh, _reach(fat, scale), reach)
        heading = heading + (2 * turn - 1) * torch.where(fresh, math.pi, 0.35 * math.pi)
        stride = (0.1 + 0.2 * step) * scale
        end = place + stride[:, None] * torch.stack((torch.sin(heading), torch.cos(heading)), 1)
        outside = ((end < 0) | (end > extent)).any(dim=1)
        end = torch.minimum(end.clamp_min(0), extent)

        along = end - place
        offset = grid - place[:, :, None, None]
        length2 = along.square().sum(1).clamp_min(1e-12)[:, None, None]
        fraction = (torch.einsum("bihw,bi->bhw", offset, along) / length2).clamp(0, 1)
        foot = fraction[:, None] * along[:, :, None, None]
        distance = (offset - foot).square().sum(1).sqrt()
        time = torch.where(distance <= reach[:, None, None], k + fraction, math.inf)
        painted = torch.minimum(painted, time)
        nearest = torch.minimum(nearest, distance / scale)
        place = end
        back = extent / 2 - end  # a brush that has met the edge turns to the middle
        heading = torch.where(outside, torch.atan2(back[:, 0], back[:, 1]), heading)

    # Should the strokes not suffice, they grow wider.
    painted = torch.where(painted.isinf(), _SEGMENTS + nearest, painted)
    wanted = (low + (high - low) * draws[:, -1, 4]) * height * width
    order = painted.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return (order >= wanted.round()[:, None]).reshape(-1, 1, height, width)


def _reach(draw: Tensor, scale: int) -> Tensor:
    """Half the brush's width in pixels."""
    return (0.03 + 0.05 * draw) * scale
