r"""Operators that keep, hide, mix or clip samples of signals (B, C, L).

TimeMask   H = diag(m), m one where a sample is known          s = m, V = I
Mixture    y = Σ_c x_c, the sum of C stems                      s = √C once, V an orthonormal
                                                                basis of the stems
Clipping   y = clamp(x, -θ, θ), not linear: a clipped sample says |x| ≥ θ
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctrlgen.domains.audio.filters import check_signals
from ctrlgen.operators.base import LinearOperator, Operator, Spectrum
from ctrlgen.rows.constants import follow

__all__ = ["Clipping", "Mixture", "TimeMask", "gaps"]


def gaps(spans: Sequence[tuple[float, float]], length: int, rate: int | None = None) -> Tensor:
    """A mask that is False within spans, bool, shape (length,).

    Args:
        spans: first and last moment of each gap: seconds where a rate is given, else samples.
        length: of the signal in samples.
        rate: in Hz.

    Raises:
        ValueError: a gap that is empty, outside of the signal, or overlaps another; or nothing is
            left to go by.
    """
    mask = torch.ones(length, dtype=torch.bool)
    unit = "samples" if rate is None else "seconds"
    for start, end in sorted(spans):
        first, last = (round(moment * (rate or 1)) for moment in (start, end))
        if not 0 <= first < last <= length:
            whole = length / (rate or 1)
            raise ValueError(
                f"gap: expected 0 <= start < end <= {whole:g} {unit}, got {start:g} to {end:g}"
            )
        if not bool(mask[first:last].all()):
            raise ValueError(f"gap: {start:g} to {end:g} {unit} overlaps another gap")
        mask[first:last] = False
    if not bool(mask.any()):
        raise ValueError("gap: the gaps cover the whole signal; nothing is left to go by")
    return mask


class TimeMask(LinearOperator):
    """Known samples stay, hidden ones become zero: y = m ⊙ x.

    Args:
        mask: what is kept: shared by all samples, shape (L,), or one per sample, shape (B, L).

    Raises:
        TypeError: the mask is not bool.
        ValueError: another shape, or nothing is kept.
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask: expected a bool tensor, got {got}")
        if mask.ndim not in (1, 2) or not bool(mask.any(-1).all()):
            raise ValueError(
                "mask: expected shape (L,) or (B, L) that keeps something of every signal, "
                f"got {tuple(mask.shape)}"
            )
        self.mask = mask
        if mask.ndim == 2:
            self.per_sample = ("mask",)

    def _weight(self, x: Tensor) -> Tensor:
        check_signals(x)
        if x.shape[2] != self.mask.shape[-1]:
            raise ValueError(
                f"x: expected {self.mask.shape[-1]} samples, as many as the mask, got {x.shape[2]}"
            )
        if self.mask.ndim == 2 and len(self.mask) != len(x):
            raise ValueError(f"x: the mask holds {len(self.mask)} rows, got a batch of {len(x)}")
        mask = follow(self.mask, x)
        return mask.unsqueeze(-2) if mask.ndim == 2 else mask

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self._weight(x), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def project(self, x: Tensor) -> Tensor:
        return self(x)

    def measured(self, y: Tensor) -> Tensor:
        kept = self._weight(y).sum(-1).to(y) * y.shape[1]
        return kept.reshape(-1).expand(len(y))

    def observed(self, y: Tensor) -> Tensor:
        return self(y)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def spectrum(self, x: Tensor) -> Spectrum:
        weight = self._weight(x).to(x.dtype)
        values = weight.expand(len(x) if self.mask.ndim == 2 else 1, *x.shape[1:])
        return Spectrum(values, _same, _same, self, _same)


def _same(x: Tensor) -> Tensor:
    return x


class Mixture(LinearOperator):
    """The sum of the channels of a signal of stems, (B, C, L) to (B, 1, L).

    Args:
        stems: C, at least two.
    """

    def __init__(self, stems: int) -> None:
        if not isinstance(stems, int) or stems < 2:
            raise ValueError(f"stems: expected an integer of at least 2, got {stems!r}")
        self.stems = stems

    def _check(self, x: Tensor) -> None:
        check_signals(x)
        if x.shape[1] != self.stems:
            raise ValueError(f"x: expected {self.stems} stems, got {x.shape[1]} channels")

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x)
        return x.sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.expand(-1, self.stems, -1)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.stems

    def project(self, x: Tensor) -> Tensor:
        return self.pinv(self(x))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (self.stems, y.shape[2])

    def spectrum(self, x: Tensor) -> Spectrum:
        self._check(x)
        c = self.stems
        # The reflection that takes (1, ..., 1)/√C to the first axis: symmetric and orthogonal.
        normal = x.new_full((c,), c**-0.5)
        normal[0] -= 1
        basis = torch.eye(c, dtype=x.dtype, device=x.device)
        basis = basis - 2 * torch.outer(normal, normal) / normal.square().sum()
        values = x.new_zeros(1, c, x.shape[2])
        values[:, 0] = c**0.5

        def turn(x: Tensor) -> Tensor:
            return basis @ x

        def left(y: Tensor) -> Tensor:
            return torch.cat((y, y.new_zeros(len(y), c - 1, y.shape[2])), dim=1)

        return Spectrum(values, turn, turn, left, lambda coordinates: coordinates[:, :1])


class Clipping(Operator):
    """Samples beyond a threshold are cut off at it, y = clamp(x, -θ, θ).

    Args:
        threshold: θ in (0, 1], amplitude.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold: expected an amplitude in (0, 1], got {threshold}")
        self.threshold = threshold

    def __call__(self, x: Tensor) -> Tensor:
        check_signals(x)
        return x.clamp(-self.threshold, self.threshold)

    def pinv(self, y: Tensor) -> Tensor:
        """The measurement itself, the nearest signal that explains it."""
        return y

    def clipped(self, y: Tensor) -> Tensor:
        """Samples that say no more than their sign, bool, shape of y."""
        return y.abs() >= self.threshold
