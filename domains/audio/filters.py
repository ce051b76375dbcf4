r"""Linear filters of audio that wrap around, with or without decimation, and their exact inverses.

A filter h and a factor k take L samples to M = L/k,  (H x)_m = Σ_n h[n] x[mk - n]  (indices mod L).
In orthonormal Fourier coordinates the k frequencies f ≡ r (mod M) meet in r, with g = ĥ/√k,

    (Hx)^_r = Σ_{f ≡ r} g_f x̂_f,       s_r² = Σ_{f ≡ r} |g_f|²,       (H^T y)^_f = ḡ_f ŷ_{f mod M},

so H† y, P x and the regularised solve multiply ŷ_r by 1/s_r² and the like. Frequencies of y with
s_r below a cut are zero in H itself: what a filter keeps at −60 dB is not measured.

The decomposition in real coordinates. A = H/s has orthonormal rows; E, decimation behind an ideal
low-pass, has too. For a symmetric filter (ĝ real) A E^T is symmetric and the reflection

    W = 1 - N^T (1 - A E^T)^{-1} N,    N = A - E,

is orthogonal with W A^T = E^T, so V^T = B W where B are Hartley coordinates of all L frequencies,
the pair at ±M/2 turned by 45° (E sees their mean). U^T y = B E^T y.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.batching import rows_like
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import derived

__all__ = ["BandLimit", "Filter", "LowPass", "Reverb", "check_signals", "kaiser_lowpass"]

CUT = 1e-3


def check_signals(x: Tensor, name: str = "x") -> None:
    """Refuse anything but a floating tensor (B, C, L) without empty dimensions.

    Raises:
        TypeError: x is no floating tensor.
        ValueError: another number of dimensions, or an empty one.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a floating tensor of signals, got {got}")
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"{name}: expected signals of shape (B, C, L), got {tuple(x.shape)}")


def kaiser_lowpass(cutoff: float, crossings: int = 64, beta: float = 14.769656459379492) -> Tensor:
    """Taps of a symmetric low-pass, h(n) = c sinc(c n) Kaiser(c n / z), odd length, float64.

    Args:
        cutoff: c in (0, 1], relative to the Nyquist frequency.
        crossings: z, zero crossings on each side.
        beta: of the Kaiser window.

    Raises:
        ValueError: a cut-off outside (0, 1].
    """
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff: expected a share of the Nyquist frequency, got {cutoff}")
    half = math.ceil(crossings / cutoff)
    t = cutoff * torch.arange(-half, half + 1, dtype=torch.float64)
    window = torch.special.i0(beta * (1 - (t / crossings).square()).clamp_min(0).sqrt())
    window = window / torch.special.i0(torch.tensor(beta, dtype=torch.float64))
    return torch.where(t.abs() < crossings, cutoff * torch.sinc(t) * window, 0)


class Filter(LinearOperator):
    """Circular convolution of every channel, then every k-th sample.

    Args:
        taps: h, odd length, the middle one at lag 0 (`centred`) or the first.
        factor: k; the length of a signal must be a multiple.
        centred: whether lag 0 is the middle tap.
        cut: frequencies of y with s of less are zero, in the measurement as well.

    Raises:
        ValueError: taps of another shape or not finite, or a factor below one.
    """

    def __init__(
        self, taps: Tensor, factor: int = 1, *, centred: bool = True, cut: float = CUT
    ) -> None:
        if taps.ndim != 1 or not bool(taps.isfinite().all()) or (centred and len(taps) % 2 == 0):
            raise ValueError(f"taps: expected finite taps of odd number, got {tuple(taps.shape)}")
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"factor: expected a positive integer, got {factor!r}")
        if not 0 <= cut < 1:
            raise ValueError(f"cut: expected a singular value in [0, 1), got {cut}")
        self.taps, self.factor, self.cut = taps.double(), factor, float(cut)
        self.first = -(len(taps) // 2) if centred else 0
        symmetric = centred and bool(torch.equal(taps, taps.flip(0)))
        if factor > 1 and not symmetric:
            raise ValueError("taps: expected a symmetric filter where samples are dropped")

    def _gain(self, x: Tensor, name: str, scale: int) -> Tensor:
        """g, zero where cut, for signals of `scale` times x's length, shape (L,), complex."""
        check_signals(x, name)
        length, k = x.shape[2] * scale, self.factor
        if length % k:
            raise ValueError(
                f"{name}: expected a length divisible by the factor {k}, got {length} samples"
            )
        check_precision(**{name: x})
        key = (length, x.dtype, x.device)
        return derived(
            self.taps, key, lambda: self._transfer(length).to(x.device, x.dtype.to_complex())
        )

    def _transfer(self, length: int) -> Tensor:
        """g of one length, shape (L,); in float64, so that all dtypes cut the same frequencies."""
        taps, k = self.taps, self.factor
        lag = torch.arange(self.first, self.first + len(taps), device=taps.device) % length
        gain = torch.fft.fft(taps.new_zeros(length).index_add(0, lag, taps)) / math.sqrt(k)
        if k > 1:
            gain = gain.real.to(gain.dtype)  # symmetric taps
        values = self._values(gain)
        floor = (length * torch.finfo(values.dtype).eps * values.max()).clamp_min(self.cut)
        # Frequencies r and -r are cut together.
        seen = torch.maximum(values, values.flip(0).roll(1)) >= floor
        return torch.where(seen.repeat(k), gain, 0)

    def _values(self, gain: Tensor) -> Tensor:
        """s of every frequency of the measurement, shape (M,)."""
        return gain.abs().square().view(self.factor, -1).sum(0).sqrt()

    def _down(self, x: Tensor, weight: Tensor, size: int) -> Tensor:
        """Σ over f ≡ r of weight_f x̂_f, back in time: (B, C, L) to (B, C, M)."""
        spectrum = torch.fft.fft(x, norm="ortho") * weight
        folded = spectrum.unflatten(-1, (-1, size)).sum(-2)
        return torch.fft.ifft(folded, norm="ortho").real

    def _up(self, y: Tensor, weight: Tensor) -> Tensor:
        """weight_f ŷ_{f mod M}, back in time: (B, C, M) to (B, C, L)."""
        spectrum = torch.fft.fft(y, norm="ortho").repeat(1, 1, len(weight) // y.shape[2])
        return torch.fft.ifft(spectrum * weight, norm="ortho").real

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(x, self._gain(x, "x", 1), x.shape[2] // self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._up(y, self._gain(y, "y", self.factor).conj())

    def pinv(self, y: Tensor) -> Tensor:
        gain = self._gain(y, "y", self.factor)
        return self._up(y, gain.conj() * self._inverse(gain))

    def project(self, x: Tensor) -> Tensor:
        gain = self._gain(x, "x", 1)
        measurement = self._down(x, gain, x.shape[2] // self.factor)
        return self._up(measurement, gain.conj() * self._inverse(gain))

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        gain = self._gain(residual, "residual", self.factor)
        r2, n = rows_like(variance, residual), rows_like(noise, residual)
        power = self._values(gain).square()
        inner = torch.where(power > 0, 1 / (r2 * torch.where(power > 0, power, 1) + n**2), 0)
        spectrum = torch.fft.fft(residual, norm="ortho") * inner
        whole = spectrum.repeat(1, 1, self.factor) * gain.conj()
        return torch.fft.ifft(whole, norm="ortho").real

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (y.shape[1], y.shape[2] * self.factor)

    def _inverse(self, gain: Tensor) -> Tensor:
        """1/s² at every frequency of the signal, zero where cut, shape (L,)."""
        power = self._values(gain).square()
        inverse = torch.where(power > 0, 1 / torch.where(power > 0, power, 1), 0)
        return inverse.repeat(self.factor)

    def spectrum(self, x: Tensor) -> Spectrum:
        gain = self._gain(x, "x", 1)
        return _whole(gain, self, x) if self.factor == 1 else _folded(gain, self, x)


def _hartley(x: Tensor) -> Tensor:
    """Discrete Hartley transform over time: orthogonal and its own inverse."""
    c = torch.fft.fft(x, norm="ortho")
    return c.real - c.imag


def _whole(gain: Tensor, owner: Filter, x: Tensor) -> Spectrum:
    """Without decimation: V the Hartley transform, U = Φ V with Φ the phases of the filter."""
    values = gain.abs()
    phase = gain / torch.where(values > 0, values, 1)
    return Spectrum(
        values.expand(1, *x.shape[1:]),
        right=_hartley,
        right_inverse=_hartley,
        left=lambda y: _hartley(owner._up(y, phase.conj())),
        left_inverse=lambda c: owner._up(_hartley(c), phase),
    )


def _folded(gain: Tensor, owner: Filter, x: Tensor) -> Spectrum:
    """With decimation: the reflection of the module's docstring."""
    length = len(gain)
    size = length // owner.factor
    f = torch.arange(length, device=x.device)
    near = torch.minimum(f, length - f)  # |f| of the signed frequency
    ideal = torch.where(2 * near < size, 1.0, torch.where(2 * near == size, 0.5**0.5, 0.0))
    ideal = ideal.to(x.dtype)
    values = owner._values(gain)
    # A cut row has no direction of its own: it takes that of the ideal filter, and W leaves it.
    unit = gain.real / torch.where(values > 0, values, 1).repeat(owner.factor)
    unit = torch.where((values > 0).repeat(owner.factor), unit, ideal)
    overlap = (unit * ideal).view(-1, size).sum(0)
    apart = 1 - overlap
    weight = torch.where(apart > 1e-12, 1 / torch.where(apart > 1e-12, apart, 1), 0)
    normal = unit - ideal
    scaled = normal * weight.repeat(owner.factor)

    def reflect(x: Tensor) -> Tensor:
        return x - owner._up(owner._down(x, normal, size), scaled)

    def turned(c: Tensor) -> Tensor:
        """The coordinates at ±M/2 turned by 45°, where there are two; its own inverse."""
        if size % 2:
            return c
        low, high = c[..., size // 2], c[..., length - size // 2]
        c = c.clone()
        c[..., size // 2] = (low + high) * 0.5**0.5
        c[..., length - size // 2] = (low - high) * 0.5**0.5
        return c

    laid = torch.where(2 * near < size, values.repeat(owner.factor), 0)
    if size % 2 == 0:
        laid[size // 2] = values[size // 2]
    return Spectrum(
        laid.expand(1, *x.shape[1:]),
        right=lambda x: turned(_hartley(reflect(x))),
        right_inverse=lambda c: reflect(_hartley(turned(c))),
        left=lambda y: turned(_hartley(owner._up(y, ideal))) * (laid > 0),
        left_inverse=lambda c: owner._down(_hartley(turned(c * (laid > 0))), ideal, size),
    )


class LowPass(Filter):
    """What a lower sampling rate keeps: a windowed sinc, then every k-th sample.

    Args:
        factor: k, the old rate over the new one.
        rolloff: cut-off relative to the new Nyquist frequency.
        cut: as of `Filter`.
    """

    def __init__(self, factor: int, rolloff: float = 0.9475937167399596, cut: float = CUT) -> None:
        if not isinstance(factor, int) or factor < 2:
            raise ValueError(f"factor: expected an integer of at least 2, got {factor!r}")
        if not 0 < rolloff <= 1:
            raise ValueError(f"rolloff: expected a share of the Nyquist frequency, got {rolloff}")
        super().__init__(kaiser_lowpass(rolloff / factor), factor, cut=cut)
        self.rolloff = rolloff


class BandLimit(Filter):
    """What lies above a frequency is gone, at the same sampling rate, as an encoder leaves it.

    Args:
        cutoff: in Hz.
        rate: sampling rate in Hz.
        cut: as of `Filter`.
    """

    def __init__(self, cutoff: float, rate: int, cut: float = CUT) -> None:
        if not 0 < cutoff < rate / 2:
            raise ValueError(f"cutoff: expected 0 to {rate / 2} Hz, got {cutoff}")
        super().__init__(kaiser_lowpass(2 * cutoff / rate), cut=cut)
        self.cutoff, self.rate = cutoff, rate


class Reverb(Filter):
    """Convolution with the known impulse response of a room, which wraps around.

    Args:
        impulse: from the moment of the impulse on, shape (n,).
        cut: as of `Filter`.
    """

    def __init__(self, impulse: Tensor, cut: float = CUT) -> None:
        super().__init__(impulse, centred=False, cut=cut)
