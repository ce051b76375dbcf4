r"""Blur kernels: the sampled Gaussian, and the trace of a camera shaken during the exposure.

The trace is a random walk of the heading θ with mean velocity of constant length,

    θ_{n+1} = θ_n + ι (√(1/2N) · 2π ξ_n + jerk),      p_{n+1} = p_n + (cos θ_n, sin θ_n),

where ξ_n is standard normal, a jerk turns by up to half a circle and happens about 4 ι times a
trace, and the intensity ι in [0, 1] leads from a straight line to an erratic scribble. The trace
is scaled to a drawn fraction of the window, centred on its mean so that it does not shift the
image, drawn with bilinear weights and normalised to sum one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_positive_integer
from ctrlgen.rows.seeds import Seeds, normal, uniform

__all__ = ["gaussian_taps", "motion_kernels"]

_TRACE = 2**32 + 3  # stream of the uniform numbers that a trace consumes
_TURNS = 2**32 + 4  # stream of its normal ones
_STEPS = 256


def gaussian_taps(std: float, window: int) -> tuple[float, ...]:
    """Gaussian at the integers of a window of odd length, normalised to sum one.

    Args:
        std: standard deviation in pixels, > 0.
        window: number of taps, odd.

    Raises:
        ValueError: for another std or window.
    """
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std: expected a positive number of pixels, got {std}")
    check_positive_integer(window, "window")
    if window % 2 == 0:
        raise ValueError(f"window: expected an odd number of pixels, got {window}")
    half = window // 2
    taps = [math.exp(-0.5 * (i / std) ** 2) for i in range(-half, half + 1)]
    return tuple(tap / sum(taps) for tap in taps)


def motion_kernels(
    seeds: Seeds,
    size: int = 61,
    intensity: float = 0.5,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Motion blur kernels, one for every seed, shape (B, size, size), non-negative, sum one.

    Args:
        seeds: one per sample.
        size: side of the window in pixels.
        intensity: from 0, a straight line, to 1, an erratic scribble.

    Raises:
        ValueError: for an intensity outside [0, 1] or a size that is no positive integer.
    """
    check_positive_integer(size, "size")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity: expected a number in [0, 1], got {intensity}")
    draws = uniform(seeds, (2 + 2 * _STEPS,), _TRACE, dtype=torch.float64, device=device)
    xi = normal(seeds, (_STEPS,), _TURNS, dtype=torch.float64, device=device)
    start, length, jerk, turn = draws.split((1, 1, _STEPS, _STEPS), dim=1)

    jerks = torch.where(jerk < 4 * intensity / _STEPS, math.pi * (2 * turn - 1), 0)
    turns = intensity * 2 * math.pi * xi / math.sqrt(2 * _STEPS)
    heading = 2 * math.pi * start + (turns + jerks).cumsum(dim=1)
    trace = torch.stack((torch.sin(heading), torch.cos(heading)), dim=1).cumsum(dim=2)
    trace = trace - trace.mean(dim=2, keepdim=True)
    half = (size - 1) / 2
    farthest = trace.abs().amax(dim=(1, 2), keepdim=True)
    trace = half + trace / farthest * half * (0.4 + 0.6 * length[:, :, None])

    corner = trace.floor().clamp(0, max(size - 2, 0))
    fraction = trace - corner
    kernel = trace.new_zeros(len(trace), size * size)
    for down in (0, 1):
        for across in (0, 1):
            row, column = corner[:, 0].long() + down, corner[:, 1].long() + across
            weight = (fraction[:, 0] if down else 1 - fraction[:, 0]) * (
                fraction[:, 1] if across else 1 - fraction[:, 1]
            )
            pixel = row.clamp_max(size - 1) * size + column.clamp_max(size - 1)
            kernel.scatter_add_(1, pixel, weight)
    return (kernel / _STEPS).reshape(-1, size, size).to(dtype)
