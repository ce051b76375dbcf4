r"""Measurement operators: y = H(x) + σ_y n, and what a solver may ask of a linear H.

A linear operator is known through its singular value decomposition in coordinates,

    H = U diag(s) V^T,      H^T = V diag(s) U^T,      H† = V diag(s⁺) U^T,      P = H†H = V 1[s>0] V^T,

where s⁺ inverts the values that are not zero. Every analytic method needs no more than these and
the regularised solve  H^T (r² HH^T + σ² I)^{-1} e = V diag(s / (r² s² + σ²)) U^T e
(Kawar et al., arXiv 2201.11793; Song et al., ΠGDM; Pandey et al., arXiv 2405.17673).

An operator whose small singular values are cut is the operator without them: H, H^T, H† and P
all leave them out, or y would hold components that H† drops silently.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.batching import PerSample, expand_like

__all__ = ["Composed", "LinearOperator", "Operator", "Spectrum"]


Map = Callable[[Tensor], Tensor]


class Operator(PerSample, ABC):
    """A differentiable measurement H of a signal, shape (B, *signal) to (B, *measurement)."""

    linear = False
    differentiable = True

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Measure the signals x, shape (B, *signal)."""

    def pinv(self, y: Tensor) -> Tensor:
        """A signal that explains y: H† where H is linear, a stated heuristic elsewhere.

        Raises:
            NotImplementedError: where the operator has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pseudo-inverse")

    def __matmul__(self, first: Operator) -> Operator:
        """(H @ G)(x) = H(G(x))."""
        return Composed(self, first)


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

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        """H^T (r² HH^T + σ² I)^{-1} e, at σ = 0 the limit H†e / r².

        Args:
            residual: e in measurement space, shape (B, *measurement).
            variance: r², scalar or per sample (B,), > 0.
            noise: σ, standard deviation of the measurement's noise, scalar or per sample, >= 0.
        """
        spectrum = self._spectrum_of(residual)
        s = spectrum.values
        r2 = expand_like(torch.as_tensor(variance, dtype=s.dtype, device=s.device), s)
        n = expand_like(torch.as_tensor(noise, dtype=s.dtype, device=s.device), s)
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
