r"""How far audio is from a reference, one value per sample; signals (B, C, L) in [-1, 1].

    PSNR    10 log₁₀ (peak² / mean (x − r)²), peak = 1 (full scale) unless told otherwise
    SNR     10 log₁₀ (Σ r² / Σ (x − r)²)
    SI-SDR  SNR of x against α r, α = ⟨x, r⟩ / ⟨r, r⟩            (Le Roux et al., ICASSP 2019)
    LSD     mean over frames of √ mean over bins (log₁₀ |X|² − log₁₀ |R|²)²
    MR-STFT mean over resolutions of  ‖|X| − |R|‖ / ‖|R|‖ + mean |log |X| − log |R||
                                                                  (Yamamoto et al., ICASSP 2020)
    click   |x[s] − x[s−1]| at a seam, in standard deviations of the steps of its neighbourhood

Decibels are those of power. PSNR is over samples that count, where a mask says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.checks import check_precision

__all__ = ["click", "lsd", "mrstft", "psnr", "si_sdr", "snr", "spectrogram"]

_FLOOR = 1e-10  # −100 dB of power: silence has a logarithm


def _check(x: Tensor, reference: Tensor) -> None:
    if x.ndim != 3 or x.shape != reference.shape:
        raise ValueError(
            "x, reference: expected signals of one shape (B, C, L), "
            f"got {tuple(x.shape)} and {tuple(reference.shape)}"
        )


def psnr(x: Tensor, reference: Tensor, peak: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, shape (B,); infinite where nothing differs.

    Args:
        x: shape (B, C, L).
        reference: shape of x.
        peak: amplitude of full scale; 2 for the range of [-1, 1].
        mask: samples that count, bool, broadcastable to x; all when None.

    Raises:
        ValueError: shapes differ.
    """
    _check(x, reference)
    weight = torch.ones_like(x) if mask is None else mask.to(x).expand_as(x)
    error = row_sum(weight * (x - reference).square()) / row_sum(weight)
    return 10 * (peak**2 / error).log10()


def snr(x: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB, shape (B,).

    Raises:
        ValueError: shapes differ.
    """
    _check(x, reference)
    return 10 * (row_sum(reference.square()) / row_sum((x - reference).square())).log10()


def si_sdr(x: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, shape (B,); means are taken off first.

    Raises:
        ValueError: shapes differ.
    """
    _check(x, reference)
    x, reference = (part - part.mean((1, 2), keepdim=True) for part in (x, reference))
    scale = row_sum(x * reference) / row_sum(reference.square())
    target = scale[:, None, None] * reference
    return 10 * (row_sum(target.square()) / row_sum((x - target).square())).log10()


@lru_cache(maxsize=16)
def _window(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(size, dtype=dtype, device=device)


def spectrogram(x: Tensor, size: int, hop: int) -> Tensor:
    """Power of short-time Fourier coefficients, shape (B, C, size/2 + 1, frames).

    Frames are centred on multiples of the hop; a sine of amplitude a has the power a²/4 in its bin.

    Args:
        x: shape (B, C, L), at least one sample.
        size: of the Hann window and the transform.
        hop: samples from one frame to the next.

    Raises:
        TypeError: for signals in half precision.
    """
    check_precision(x=x)
    window = _window(size, x.dtype, x.device)
    flat = x.reshape(-1, x.shape[2])
    c = torch.stft(
        flat, size, hop, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = c.real.square() + c.imag.square()
    return (power / window.sum().square()).reshape(*x.shape[:2], *power.shape[1:])


def lsd(
    x: Tensor,
    reference: Tensor,
    *,
    size: int = 2048,
    hop: int = 512,
    rate: int | None = None,
    band: tuple[float, float] | None = None,
    span: tuple[int, int] | None = None,
) -> Tensor:
    """Log-spectral distance in decades of power, shape (B,), of all, of a band, or of a span.

    Args:
        x: shape (B, C, L).
        reference: shape of x.
        size: of the window.
        hop: between frames.
        rate: in Hz, where a band is given.
        band: lowest and highest frequency that count, Hz.
        span: first sample that counts and the one after the last: frames centred there count.

    Raises:
        ValueError: shapes differ, a band without a rate, or nothing left that counts.
    """
    _check(x, reference)
    difference = (
        spectrogram(x, size, hop).clamp_min(_FLOOR).log10()
        - spectrogram(reference, size, hop).clamp_min(_FLOOR).log10()
    )
    if band is not None:
        if rate is None:
            raise ValueError("rate: expected the sampling rate beside a band, got None")
        frequency = torch.arange(size // 2 + 1, device=x.device) * rate / size
        difference = difference[:, :, (frequency >= band[0]) & (frequency <= band[1])]
    if span is not None:
        first, last = -(-span[0] // hop), -(-span[1] // hop)
        difference = difference[..., first:last]
    if difference.numel() == 0:
        raise ValueError(f"band, span: expected some bins and frames, got {band} and {span}")
    return difference.square().mean(2).sqrt().mean((1, 2))


def mrstft(x: Tensor, reference: Tensor, sizes: Sequence[int] = (512, 1024, 2048)) -> Tensor:
    """Multi-resolution distance of short-time spectra, shape (B,), differentiable.

    Args:
        x: shape (B, C, L).
        reference: shape of x.
        sizes: of the windows; the hop is a quarter of each.

    Raises:
        ValueError: shapes differ.
    """
    _check(x, reference)
    total = x.new_zeros(len(x))
    for size in sizes:
        ours, theirs = (
            spectrogram(part, size, size // 4).clamp_min(_FLOOR).sqrt() for part in (x, reference)
        )
        convergence = (row_sum((ours - theirs).square()) / row_sum(theirs.square())).sqrt()
        logarithmic = row_sum((ours.log() - theirs.log()).abs()) / math.prod(ours.shape[1:])
        total = total + convergence + logarithmic
    return total / len(sizes)


def click(x: Tensor, seam: int, reach: int = 512) -> Tensor:
    """The step into a seam over the root mean square of the steps around it, shape (B,).

    Args:
        x: shape (B, C, L).
        seam: index of the first sample after the seam.
        reach: samples of the neighbourhood, on either side.

    Raises:
        ValueError: the seam lies at an end of the signal, or outside.
    """
    if not 0 < seam < x.shape[2]:
        raise ValueError(f"seam: expected an index from 1 to {x.shape[2] - 1}, got {seam}")
    steps = x.diff(dim=2)
    low, high = max(0, seam - 1 - reach), min(steps.shape[2], seam + reach)
    around = torch.cat((steps[..., low : seam - 1], steps[..., seam:high]), dim=2)
    if around.shape[2] == 0:
        raise ValueError("x: expected samples around the seam, got a signal of two")
    return steps[..., seam - 1].abs().amax(1) / around.square().mean((1, 2)).sqrt().clamp_min(1e-12)
