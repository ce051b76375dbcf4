r"""Change of the sampling rate by a windowed sinc, differentiable.

With f and g the old and the new rate over their greatest common divisor, c = ρ min(1, g/f) the
cut-off relative to the old Nyquist frequency, and a Kaiser window of z zero crossings on each side,

    y[m] = Σ_n x[n] h(n − m f/g),     h(t) = c sinc(c t) I₀(β √(1 − (c t/z)²)) / I₀(β),  |c t| < z

(Smith, "Digital audio resampling", CCRMA 2002). h depends on m modulo g alone: a bank of g filters
with stride f. Outside of the signal lie zeros.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["resample", "resampled_length"]

_CROSSINGS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492
"""z, ρ and β: more than 80 dB of attenuation beyond the new Nyquist frequency."""


@lru_cache(maxsize=32)
def _filters(
    old: int,
    new: int,
    crossings: int,
    rolloff: float,
    beta: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The filter bank, shape (new, 1, 2 half + old), whose first tap lies `half` before a block."""
    with torch.inference_mode(False):
        cutoff = rolloff * min(1.0, new / old)
        half = math.ceil(crossings / cutoff)
        tap = torch.arange(-half, half + old, dtype=torch.float64)
        centre = torch.arange(new, dtype=torch.float64) * old / new
        t = cutoff * (tap - centre[:, None])
        inside = (1 - (t / crossings).square()).clamp_min(0)
        window = torch.special.i0(beta * inside.sqrt())
        window = window / torch.special.i0(torch.tensor(beta, dtype=torch.float64))
        taps = torch.where(t.abs() < crossings, cutoff * torch.sinc(t) * window, 0)
        return taps.unsqueeze(1).to(device, dtype)


def resampled_length(length: int, old: int, new: int) -> int:
    """Samples at the new rate that cover as much time: ⌈length · new / old⌉."""
    return -(-length * new // old)


def resample(
    x: Tensor,
    old: int,
    new: int,
    *,
    crossings: int = _CROSSINGS,
    rolloff: float = _ROLLOFF,
    beta: float = _BETA,
) -> Tensor:
    """Signals at another sampling rate.

    Args:
        x: shape (..., L), at the old rate.
        old: rate in Hz.
        new: rate in Hz.
        crossings: z, zero crossings of the sinc on each side.
        rolloff: ρ in (0, 1], the cut-off relative to the lower of the two Nyquist frequencies.
        beta: β of the Kaiser window.

    Returns:
        Shape (..., ⌈L · new / old⌉).

    Raises:
        ValueError: a rate that is not positive, or a rolloff outside (0, 1].
    """
    for name, rate in (("old", old), ("new", new)):
        if not isinstance(rate, int) or rate < 1:
            raise ValueError(f"{name}: expected a positive rate in Hz, got {rate!r}")
    if not 0 < rolloff <= 1:
        raise ValueError(f"rolloff: expected a share of the Nyquist frequency, got {rolloff}")
    if old == new:
        return x
    divisor = math.gcd(old, new)
    f, g = old // divisor, new // divisor
    filters = _filters(f, g, crossings, rolloff, beta, x.dtype, x.device)
    half = (filters.shape[2] - f) // 2
    length = x.shape[-1]
    blocks = -(-length // f)
    flat = F.pad(x.reshape(-1, 1, length), (half, half + blocks * f - length))
    y = F.conv1d(flat, filters, stride=f).transpose(1, 2).flatten(1)
    return y[:, : resampled_length(length, f, g)].reshape(*x.shape[:-1], -1)
