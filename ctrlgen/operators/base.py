r"""Measurement operators: y = H(x) + σ_y n, and what a solver may ask of a linear H.

A linear operator is known through its singular value decomposition in coordinates,

    H = U diag(s) V^T,    H^T = V diag(s) U^T,    H† = V diag(s⁺) U^T,    P = H†H = V 1[s>0] V^T,

where s⁺ inverts the values that are not zero. Every analytic method needs no more than these and
the regularised solve  H^T (r² HH^T + σ² I)^{-1} e = V diag(s / (r² s² + σ²)) U^T e
(Kawar et al., arXiv 2201.11793; Song et al., ΠGDM; Pandey et al., arXiv 2405.17673).

An operator whose small singular values are cut is the operator without them: H, H^T, H† and P
all leave them out, or y would hold components that H† drops silently.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from ctrlgen.rows.batching import PerSample, expand_like, flat, rows_like
from ctrlgen.rows.seeds import Seeds, as_seeds, normal

__all__ = [
    "MEASUREMENT",
    "Composed",
    "LinearOperator",
    "Measurement",
    "Operator",
    "Spectrum",
    "dense",
    "from_unit_range",
    "measure",
]

MEASUREMENT = 2**32  # stream of the measurement's noise; operators draw from the ones above

Map = Callable[[Tensor], Tensor]


class Operator(PerSample, ABC):
    """A differentiable measurement H of a signal, shape (B, *signal) to (B, *measurement)."""

    linear = False
    differentiable = True
    task: ClassVar[str] = "other"
    """What is done to a signal that it measured: "inpaint", "upsample", "deblur" or "denoise" where
    one of these words fits. Settings of methods go by it."""
    entries: Tensor | None = None
    """Entries of the measurement that there are, where samples have several sizes; else None."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Measure the signals x, shape (B, *signal)."""

    def pinv(self, y: Tensor) -> Tensor:
        """A signal that explains y: H† where H is linear, a stated heuristic elsewhere.

        Raises:
            NotImplementedError: where the operator has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pseudo-inverse")

    def ragged(self, mask: Tensor) -> Self:
        """The same operator on samples of several sizes, whose measurements are padded.

        What is padded is not measured: it counts in no residual and in no mean over entries, and a
        sample's cost is the same in any batch.

        Args:
            mask: entries of the measurement that there are, bool, shape (B, *) of its leading
                dimensions, e.g. (B, N) for measurements (B, N, F).

        Raises:
            TypeError: for a mask that is not bool, or an operator that knows by itself which of its
                entries are measured.
        """
        if mask.dtype != torch.bool:
            raise TypeError(f"mask: expected bool, got {mask.dtype}")
        if type(self).measured is not Operator.measured:
            raise TypeError(f"mask: {type(self).__name__} says by itself what is measured")
        padded = copy.copy(self)
        padded.entries = mask
        padded.per_sample = (*self.per_sample, "entries")
        return padded

    def measure(
        self, x: Tensor, noise: float = 0.0, seeds: Seeds | Sequence[int] | None = None
    ) -> Tensor:
        """y = H(x) + σ_y n; see `measure`."""
        return measure(self, x, noise, seeds)

    def measured(self, y: Tensor) -> Tensor:
        """How many entries of each measurement are measured, shape (B,): all, unless masked."""
        if self.entries is None:
            return y.new_full((y.shape[0],), math.prod(y.shape[1:]))
        return flat(self._there(self.entries, y)).sum(1).to(y)

    def observed(self, y: Tensor) -> Tensor:
        """A measurement with zeros where nothing is measured: itself, unless masked."""
        return y if self.entries is None else torch.where(self._there(self.entries, y), y, 0)

    @staticmethod
    def _there(mask: Tensor, y: Tensor) -> Tensor:
        if mask.shape != y.shape[: mask.ndim]:
            raise ValueError(
                f"mask: expected the leading dimensions of a measurement {tuple(y.shape)}, got "
                f"{tuple(mask.shape)}"
            )
        return mask.to(y.device).reshape(*mask.shape, *(1,) * (y.ndim - mask.ndim)).expand(y.shape)

    def __matmul__(self, first: Operator) -> Operator:
        """(H @ G)(x) = H(G(x))."""
        return Composed(self, first)


class Measurement(NamedTuple):
    """What is known of a signal: y = H(x) + σ_y n.

    Attributes:
        operator: H.
        y: measurements, shape (B, *measurement).
        noise: σ_y in the units of y, >= 0.
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0


class Spectrum(NamedTuple):
    """Singular value decomposition in coordinates; all tensors have a leading batch dimension.

    Attributes:
        values: singular values laid out like the coordinates, broadcastable to them: (1, *coords)
            when all samples share the operator, else (B, *coords). Zero where H has a null space.
        right: coordinates of a signal; `right(x)` is V^T x, shape (B, *coords).
        right_inverse: V c, back to signals.
        left: U^T y in the same coordinates (zero where s = 0).
        left_inverse: U c, back to measurements.
    """

    values: Tensor
    right: Map
    right_inverse: Map
    left: Map
    left_inverse: Map


class LinearOperator(Operator):
    """A linear H. Subclasses give `spectrum`; those that know a faster way override the rest."""

    linear = True

    @abstractmethod
    def spectrum(self, x: Tensor) -> Spectrum:
        """The decomposition for signals of the shape, dtype and device of x."""

    @abstractmethod
    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        """Shape of one signal, without the batch, whose measurement has the shape of y."""

    def _spectrum_of(self, y: Tensor) -> Spectrum:
        # A signal of the right shape, without memory of its own, only to say shape and dtype.
        return self.spectrum(y.new_zeros(()).expand(y.shape[0], *self.signal_shape(y)))

    def __call__(self, x: Tensor) -> Tensor:
        spectrum = self.spectrum(x)
        return spectrum.left_inverse(spectrum.values * spectrum.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """H^T y."""
        spectrum = self._spectrum_of(y)
        return spectrum.right_inverse(spectrum.values * spectrum.left(y))

    def pinv(self, y: Tensor) -> Tensor:
        """H† y, the least-norm least-squares solution."""
        spectrum = self._spectrum_of(y)
        s = spectrum.values
        inverse = torch.where(s > 0, 1 / torch.where(s > 0, s, 1), 0)
        return spectrum.right_inverse(inverse * spectrum.left(y))

    def project(self, x: Tensor) -> Tensor:
        """P x = H†H x, the part of x that H sees."""
        spectrum = self.spectrum(x)
        return spectrum.right_inverse((spectrum.values > 0) * spectrum.right(x))

    def splice(self, x: Tensor, y: Tensor) -> Tensor:
        """The signal nearest to x that measures exactly y, x + H†(y − Hx); for y without noise."""
        return x + self.pinv(y - self(x))

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        """H^T (r² HH^T + σ² I)^{-1} e, at σ = 0 the limit H†e / r².

        Args:
            residual: e in measurement space, shape (B, *measurement).
            variance: r², scalar or per sample (B,), > 0.
            noise: σ, standard deviation of the measurement's noise, scalar or per sample, >= 0.
        """
        spectrum = self._spectrum_of(residual)
        s = spectrum.values
        r2, n = rows_like(variance, s), rows_like(noise, s)
        seen = s > 0
        gain = torch.where(seen, s / torch.where(seen, r2 * s**2 + n**2, 1), 0)
        return spectrum.right_inverse(gain * spectrum.left(residual))


class Composed(Operator):
    """One operator after another, (H ∘ G)(x) = H(G(x)).

    Its `pinv` is G†H†, exact only where it is (e.g. either one orthogonal); a heuristic else.
    """

    per_sample = ("last", "first")

    def __init__(self, last: Operator, first: Operator) -> None:
        self.last, self.first = last, first
        self.differentiable = last.differentiable and first.differentiable

    def __call__(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))

    def pinv(self, y: Tensor) -> Tensor:
        return self.first.pinv(self.last.pinv(y))

    def measured(self, y: Tensor) -> Tensor:
        return self.last.measured(y)

    def observed(self, y: Tensor) -> Tensor:
        return self.last.observed(y)


def measure(
    operator: Operator, x: Tensor, noise: Tensor | float = 0.0, seeds: Seeds | None = None
) -> Tensor:
    """A measurement y = H(x) + σ_y n with noise that belongs to the sample; none where hidden.

    Args:
        operator: H.
        x: signals, shape (B, *signal).
        noise: σ_y in the units of the measurement, >= 0, scalar or per sample (B,). Where a paper
            states it for data in [0, 1] and the data are in [-1, 1]: `from_unit_range(σ)`.
        seeds: one per sample; needed where there is noise.

    Raises:
        ValueError: for negative noise, missing seeds, or another number of either than of samples.
    """
    sigma = torch.as_tensor(noise, dtype=x.dtype, device=x.device)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(x)):
        raise ValueError(
            f"noise: expected a scalar or shape ({len(x)},), got shape {tuple(sigma.shape)}"
        )
    if not (sigma >= 0).all():
        raise ValueError(f"noise: expected a standard deviation >= 0, got {noise}")
    if not sigma.any():
        return operator(x)
    seeds = None if seeds is None else as_seeds(seeds)
    if seeds is None or len(seeds) != len(x):
        got = "none" if seeds is None else len(seeds)
        raise ValueError(f"seeds: noise needs one seed for each of {len(x)} samples, got {got}")
    y = operator(x)
    draws = normal(seeds, y.shape[1:], MEASUREMENT, dtype=y.dtype, device=y.device)
    return y + operator.observed(expand_like(sigma, y) * draws)


def from_unit_range(sigma: float) -> float:
    """Noise quoted for data in [0, 1], in the units of data in [-1, 1]: twice as much."""
    return 2 * sigma


def dense(
    operator: LinearOperator,
    shape: Sequence[int],
    *,
    row: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """The matrix of a linear operator, for small signals: shape (measurement size, signal size).

    Args:
        operator: H.
        shape: of one signal, without the batch.
        row: the sample whose matrix is asked for, where the operator holds per-sample data.
    """
    size = math.prod(shape)
    copies = operator.take(torch.full((size,), row, dtype=torch.int64, device=device))
    units = torch.eye(size, dtype=dtype, device=device).reshape(size, *shape)
    return copies(units).reshape(size, -1).mT.contiguous()
