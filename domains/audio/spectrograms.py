r"""Cells of a spectrogram that are known or hidden.

The short-time transform C is the lapped one that wraps around (`mdct`): N coefficients of every 2N
samples under the window w[n] = sin(π (n + ½)/2N), which meets w[n]² + w[n + N]² = 1, so that C is
orthogonal, with as many coefficients as samples. The mask alone is then the decomposition,

    H = diag(m) C,     s = m,     V^T = C,     H† = H^T = C^T diag(m).

The redundant Fourier frame of the same window has F^T F = 1 and not F F^T = 1: its cells overlap,
the pseudo-inverse of a masked frame is not its adjoint, and no decomposition is at hand. Cell
(t, k) lies at the time (t + ½) N/rate and the frequency (k + ½) rate/2N.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctrlgen.domains.audio.filters import check_signals
from ctrlgen.domains.audio.mdct import mdct_circular, mdct_circular_inverse
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.constants import follow

__all__ = ["SpectrogramMask", "cells"]

Hole = tuple[float, float, float, float]
"""First and last moment in seconds, lowest and highest frequency in Hz."""


def cells(holes: Sequence[Hole], length: int, rate: int, bins: int = 512) -> Tensor:
    """A mask that is False in parts of a spectrogram, bool, shape (length / bins, bins).

    Args:
        holes: start and end in seconds, lowest and highest frequency in Hz; cells whose middle is
            inside are hidden.
        length: of the signal in samples, a multiple of `bins` of at least two.
        rate: in Hz.
        bins: N, coefficients of a frame; even.

    Raises:
        ValueError: a length that does not fit, a hole that is empty or outside, or nothing is left.
    """
    if bins < 2 or bins % 2 or length % bins or length < 2 * bins:
        raise ValueError(
            f"length, bins: expected frames of an even number of bins, two or more, got {length} "
            f"and {bins}"
        )
    times = (torch.arange(length // bins) + 0.5) * bins / rate
    pitches = (torch.arange(bins) + 0.5) * rate / (2 * bins)
    mask = torch.ones(length // bins, bins, dtype=torch.bool)
    for start, end, low, high in holes:
        if not (0 <= start < end <= length / rate and 0 <= low < high <= rate / 2):
            raise ValueError(
                f"holes: expected 0 <= start < end <= {length / rate:g} s and 0 <= low < high <= "
                f"{rate / 2:g} Hz, got {start:g} to {end:g} s, {low:g} to {high:g} Hz"
            )
        late = ((times >= start) & (times < end)).unsqueeze(1)
        inside = late & (pitches >= low) & (pitches < high)
        if not bool(inside.any()):
            raise ValueError(
                f"holes: no cell has its middle in {start:g} to {end:g} s, {low:g} to {high:g} Hz; "
                f"cells are {bins / rate:.3g} s by {rate / 2 / bins:.3g} Hz"
            )
        mask &= ~inside
    if not bool(mask.any()):
        raise ValueError("holes: they cover the whole spectrogram; nothing is left to go by")
    return mask


class SpectrogramMask(LinearOperator):
    """Known cells of a spectrogram stay, hidden ones become zero: y = m ⊙ C x, (B, C, T, N).

    Args:
        mask: cells that are kept, bool: shared by all samples, shape (T, N), or one per sample,
            shape (B, T, N); signals have T N samples. `cells` makes one from seconds and Hz.

    Raises:
        TypeError: the mask is not bool.
        ValueError: another shape, fewer than two frames, an odd N, or nothing is kept of a sample.
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask: expected a bool tensor, got {got}")
        if (
            mask.ndim not in (2, 3)
            or mask.shape[-2] < 2
            or mask.shape[-1] % 2
            or not bool(mask.flatten(-2).any(-1).all())
        ):
            raise ValueError(
                "mask: expected shape (T, N) or (B, T, N) of two or more frames and an even number "
                f"of bins that keeps something of every signal, got {tuple(mask.shape)}"
            )
        self.mask = mask
        if mask.ndim == 3:
            self.per_sample = ("mask",)

    @property
    def frames(self) -> int:
        """T."""
        return self.mask.shape[-2]

    @property
    def bins(self) -> int:
        """N."""
        return self.mask.shape[-1]

    def _kept(self, like: Tensor) -> Tensor:
        """The mask where like (B, *) is, broadcastable to measurements."""
        if self.mask.ndim == 3 and len(self.mask) != len(like):
            raise ValueError(f"x: the mask holds {len(self.mask)} rows, got a batch of {len(like)}")
        mask = follow(self.mask, like)
        return mask.unsqueeze(1) if mask.ndim == 3 else mask

    def coefficients(self, x: Tensor) -> Tensor:
        """All cells of signals (B, C, L), shape (B, C, T, N), orthonormal.

        Raises:
            ValueError: another length than that of the mask.
        """
        check_signals(x)
        if x.shape[2] != self.frames * self.bins:
            raise ValueError(
                f"x: expected {self.frames} frames of {self.bins} samples, as the mask has, "
                f"got {x.shape[2]} samples"
            )
        return mdct_circular(x, self.bins)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self._kept(x), self.coefficients(x), 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return mdct_circular_inverse(self.observed(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def project(self, x: Tensor) -> Tensor:
        return mdct_circular_inverse(self(x))

    def measured(self, y: Tensor) -> Tensor:
        kept = self.mask.flatten(-2).sum(-1).to(y) * y.shape[1]
        return kept.reshape(-1).expand(len(y))

    def observed(self, y: Tensor) -> Tensor:
        return torch.where(self._kept(y), y, 0)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (y.shape[1], self.frames * self.bins)

    def spectrum(self, x: Tensor) -> Spectrum:
        kept = self._kept(x).to(x.dtype)
        rows = len(x) if self.mask.ndim == 3 else 1
        values = kept.expand(rows, x.shape[1], self.frames, self.bins)
        return Spectrum(
            values, self.coefficients, mdct_circular_inverse, self.observed, lambda c: c
        )
