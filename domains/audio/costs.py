r"""Costs of decoded audio: what a waveform should be like, one value per sample; signals (B, C, L).

    spectra       the multi-resolution distance of short-time spectra          (`metrics.mrstft`)
    mel           mean |log M x − log M r|,  M the power in triangular bands on the mel scale
    continuation  mean (x[n] − c[n])² over the samples that a context has
    loop          mean (x[n] − x[L − N + n])² over the first and last N samples: the signal can be
                  joined to itself by a crossfade of N samples
    loudness      mean over K equal parts of (20 log₁₀ rms_k − target_k)², in dB²
    chroma        1 − mean over K parts of the cosine between the energies of the twelve pitch
                  classes and those wished for

−PSNR and squared error of a measurement are in `ctrlgen.costs`. They add, with weights:

    cost = NegativePSNR(mask, y, peak=1.0) + 0.1 * LoudnessCurve([-30.0, -20.0, -14.0])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.costs import Cost
from ctrlgen.domains.audio.metrics import mrstft, spectrogram
from ctrlgen.rows.constants import follow

__all__ = ["ChromaTarget", "Continuation", "Loop", "LoudnessCurve", "MelDistance", "Spectra"]

_FLOOR = 1e-10  # −100 dB of power


def _signals(name: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 3 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected floating signals of shape (B, C, L), got {got}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name}: expected finite numbers")
    return x


class Spectra(Cost):
    """Multi-resolution distance of short-time spectra to a reference.

    Args:
        reference: shape (B, C, L).
        sizes: of the windows in samples.
    """

    per_sample = ("reference",)

    def __init__(self, reference: Tensor, sizes: Sequence[int] = (512, 1024, 2048)) -> None:
        self.reference, self.sizes = _signals("reference", reference), tuple(sizes)
        if not self.sizes or min(self.sizes) < 8:
            raise ValueError(f"sizes: expected windows of at least 8 samples, got {sizes}")

    def forward(self, x: Tensor) -> Tensor:
        return mrstft(x, follow(self.reference, x), self.sizes)


@lru_cache(maxsize=16)
def _bands(size: int, rate: int, bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Triangular filters on the mel scale, shape (bands, size/2 + 1)."""
    with torch.inference_mode(False):
        top = 2595 * math.log10(1 + rate / 2 / 700)
        edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
        frequency = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
        low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
        filters = torch.minimum(rising, falling).clamp_min(0)
        # A band narrower than a bin takes the bin that is nearest.
        nearest = F.one_hot((frequency - centre).abs().argmin(1), len(frequency))
        empty = filters.sum(1, keepdim=True) == 0
        return torch.where(empty, nearest.to(filters), filters).to(device, dtype)


class MelDistance(Cost):
    """Mean absolute difference of log mel spectra to a reference, in nepers of power.

    Args:
        reference: shape (B, C, L).
        rate: in Hz.
        bands: of the mel scale.
        size: of the window in samples; the hop is a quarter.
    """

    per_sample = ("reference",)

    def __init__(self, reference: Tensor, rate: int, bands: int = 64, size: int = 1024) -> None:
        self.reference = _signals("reference", reference)
        if rate <= 0 or bands < 1 or size < 8:
            raise ValueError(f"rate, bands, size: got {rate}, {bands} and {size}")
        self.rate, self.bands, self.size = rate, bands, size

    def forward(self, x: Tensor) -> Tensor:
        reference = follow(self.reference, x)
        if x.shape != reference.shape:
            raise ValueError(f"x: expected shape {tuple(reference.shape)}, got {tuple(x.shape)}")
        filters = _bands(self.size, self.rate, self.bands, x.dtype, x.device)
        ours, theirs = (
            (filters @ spectrogram(part, self.size, self.size // 4) + _FLOOR).log()
            for part in (x, reference)
        )
        return (ours - theirs).abs().mean((1, 2, 3))


class Continuation(Cost):
    """Mean squared difference of the first samples to a context that the signal continues.

    Args:
        context: shape (B, C, n), not longer than the signals.
    """

    per_sample = ("context",)

    def __init__(self, context: Tensor) -> None:
        self.context = _signals("context", context)

    def forward(self, x: Tensor) -> Tensor:
        context = follow(self.context, x)
        head = x[..., : context.shape[2]]
        if head.shape != context.shape:
            raise ValueError(f"x: expected {context.shape[2]} samples or more, got {x.shape[2]}")
        return (head - context).square().mean((1, 2))


class Loop(Cost):
    """Mean squared difference of a signal's first and last samples.

    Args:
        overlap: samples in which the end becomes the start.
    """

    def __init__(self, overlap: int) -> None:
        if overlap < 1:
            raise ValueError(f"overlap: expected a number of samples, got {overlap}")
        self.overlap = overlap

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 2 * self.overlap:
            raise ValueError(f"x: expected {2 * self.overlap} samples or more, got {x.shape[2]}")
        return (x[..., : self.overlap] - x[..., -self.overlap :]).square().mean((1, 2))


class LoudnessCurve(Cost):
    """Mean squared difference of the level over time to a curve, in dB².

    Args:
        decibels: levels of equal parts of the signal, dB of full scale, shape (K,) or (B, K).
    """

    def __init__(self, decibels: Sequence[float] | Tensor) -> None:
        curve = torch.as_tensor(decibels)
        curve = curve if curve.is_floating_point() else curve.float()
        if curve.ndim not in (1, 2) or 0 in curve.shape or not bool(curve.isfinite().all()):
            raise ValueError(f"decibels: expected levels (K,) or (B, K), got {tuple(curve.shape)}")
        self.decibels = curve
        self.per_sample = ("decibels",) if curve.ndim == 2 else ()

    def forward(self, x: Tensor) -> Tensor:
        curve = follow(self.decibels, x)
        count = curve.shape[-1]
        if x.shape[2] < count:
            raise ValueError(f"x: expected {count} samples or more, got {x.shape[2]}")
        power = F.adaptive_avg_pool1d(x.square().mean(1, keepdim=True), count).squeeze(1)
        return (10 * (power + _FLOOR).log10() - curve).square().mean(1)


@lru_cache(maxsize=16)
def _classes(size: int, rate: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which pitch class a bin belongs to, shape (12, size/2 + 1); C is 0, A 440 Hz is 9."""
    with torch.inference_mode(False):
        frequency = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
        note = 69 + 12 * (frequency.clamp_min(1e-9) / 440).log2()
        within = (frequency >= 60) & (frequency <= 4200)
        one = F.one_hot(note.round().long() % 12, 12).T * within
        return one.to(device, dtype)


class ChromaTarget(Cost):
    """One less the mean cosine between the energies of pitch classes and those wished for.

    Args:
        chroma: weights of C, C♯, ... B in equal parts of the signal, not negative, some positive in
            every part, shape (12, K) or (B, 12, K).
        rate: in Hz.
        size: of the window in samples; the hop is a quarter.
    """

    def __init__(self, chroma: Tensor, rate: int, size: int = 2048) -> None:
        if (
            not isinstance(chroma, Tensor)
            or chroma.ndim not in (2, 3)
            or chroma.shape[-2] != 12
            or not bool((chroma >= 0).all() and (chroma.sum(-2) > 0).all())
        ):
            got = tuple(chroma.shape) if isinstance(chroma, Tensor) else type(chroma).__name__
            raise ValueError(f"chroma: expected weights (12, K) or (B, 12, K), got {got}")
        self.chroma = chroma if chroma.is_floating_point() else chroma.float()
        self.rate, self.size = rate, size
        self.per_sample = ("chroma",) if chroma.ndim == 3 else ()

    def forward(self, x: Tensor) -> Tensor:
        wish = follow(self.chroma, x)
        power = spectrogram(x, self.size, self.size // 4).mean(1)
        energy = _classes(self.size, self.rate, x.dtype, x.device) @ power
        energy = F.adaptive_avg_pool1d(energy, wish.shape[-1])
        return 1 - F.cosine_similarity(energy, wish, dim=-2, eps=_FLOOR).mean(-1)
