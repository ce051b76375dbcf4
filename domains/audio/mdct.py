r"""The modified discrete cosine transform: an orthogonal transform of overlapping frames.

Frame t of a signal x, N samples a hop, 2N samples a window w, has the N coefficients

    X_t[k] = √(2/N) Σ_{n<2N} w[n] x[tN + n − N] cos(π/N (n + ½ + N/2)(k + ½)).

With w[n]² + w[n + N]² = 1 and w symmetric, aliases of neighbouring frames cancel and the synthesis

    x = Σ_t (frame t placed back: √(2/N) w[n] Σ_k X_t[k] cos(...))

is exact: the analysis of a signal that is zero outside of its frames is an isometry, its adjoint
its inverse (Princen, Johnson & Bradley, ICASSP 1987). The window is w[n] = sin(π (n + ½)/2N).

A signal of L samples is padded to a whole number T of hops and read with half a window before its
start, so it has T + 1 frames: every sample lies in two of them. One of T hops that wraps around at
its ends has T frames, and its transform is a square orthogonal matrix.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["frame_count", "mdct", "mdct_circular", "mdct_circular_inverse", "mdct_inverse"]


@lru_cache(maxsize=16)
def _basis(hop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Windowed cosines, shape (2 hop, hop)."""
    # Outside of inference mode, or a basis first needed there could serve no gradient later.
    with torch.inference_mode(False):
        n = torch.arange(2 * hop, dtype=torch.float64)
        k = torch.arange(hop, dtype=torch.float64)
        window = torch.sin(math.pi * (n + 0.5) / (2 * hop))
        phase = math.pi / hop * (n[:, None] + 0.5 + hop / 2) * (k + 0.5)
        return (math.sqrt(2 / hop) * window[:, None] * phase.cos()).to(device, dtype)


def frame_count(length: int, hop: int) -> int:
    """Frames of a signal of so many samples, ⌈length / hop⌉ + 1."""
    return -(-length // hop) + 1


def mdct(x: Tensor, hop: int) -> Tensor:
    """Coefficients of signals.

    Args:
        x: signals, shape (..., L).
        hop: N, samples from one frame to the next, which is the number of coefficients.

    Returns:
        Coefficients, shape (..., ⌈L / N⌉ + 1, N), of the same energy as x.
    """
    length = x.shape[-1]
    padded = F.pad(x, (hop, hop + (-length) % hop))
    return padded.unfold(-1, 2 * hop, hop) @ _basis(hop, x.dtype, x.device)


def mdct_inverse(coefficients: Tensor, length: int | None = None) -> Tensor:
    """Signals of coefficients: the inverse of `mdct` on its image, and its adjoint everywhere.

    Args:
        coefficients: shape (..., T + 1, N).
        length: samples that are returned; T N when None.

    Raises:
        ValueError: fewer than two frames, or more samples asked for than there are.
    """
    frames, hop = coefficients.shape[-2:]
    whole = (frames - 1) * hop
    if frames < 2:
        raise ValueError(f"coefficients: expected at least two frames, got {frames}")
    if length is not None and not 0 < length <= whole:
        raise ValueError(f"length: expected 1 to {whole} samples, got {length}")
    windows = coefficients @ _basis(hop, coefficients.dtype, coefficients.device).mT
    # A sample lies in the second half of one window and the first half of the next.
    x = windows[..., :-1, hop:] + windows[..., 1:, :hop]
    return x.flatten(-2)[..., :length]


def mdct_circular(x: Tensor, hop: int) -> Tensor:
    """Coefficients of signals that wrap around, as many as samples; frame t is centred in hop t.

    Args:
        x: signals, shape (..., T N), T at least two.
        hop: N, even.

    Returns:
        Shape (..., T, N), of the same energy as x.

    Raises:
        ValueError: another length, or an odd hop.
    """
    if hop < 2 or hop % 2 or x.shape[-1] % hop or x.shape[-1] < 2 * hop:
        raise ValueError(
            f"x: expected two or more whole hops of an even length, got {x.shape[-1]} samples and "
            f"a hop of {hop}"
        )
    half = hop // 2
    around = torch.cat((x[..., -half:], x, x[..., :half]), dim=-1)
    return around.unfold(-1, 2 * hop, hop) @ _basis(hop, x.dtype, x.device)


def mdct_circular_inverse(coefficients: Tensor) -> Tensor:
    """Signals (..., T N) of coefficients (..., T, N): inverse and adjoint of `mdct_circular`."""
    hop = coefficients.shape[-1]
    windows = coefficients @ _basis(hop, coefficients.dtype, coefficients.device).mT
    blocks = windows[..., :hop] + windows[..., hop:].roll(1, -2)
    return blocks.flatten(-2).roll(-(hop // 2), -1)
