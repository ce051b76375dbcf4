r"""deepinv's physics as measurement operators: y = A(u), without its noise.

deepinv's images u are in [0, 1], ours x in [-1, 1] or whatever range the prior has:
u = (x − low)/(high − low). This module is the only place where the two meet.

A linear A is applied to x itself, which keeps it linear, and a measurement y_u of an image in
[0, 1] becomes one of ours by

    y = A x = (high − low) y_u + low · A(1)                            (`DeepinvLinear.convert`),

its noise growing by (high − low). A physics that is not linear measures (x − low)/(high − low) and
keeps its own units.

The regularised solve of `LinearOperator` has no spectrum to use here. By the push-through identity
H^T (r² HH^T + σ²I)^{-1} e = (r² H^TH + σ²I)^{-1} H^T e, which conjugate gradients solve with only
H and H^T, one step length per sample; from zero they stay in the range of H^T, so that σ = 0
gives the limit H†e/r².
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator, Operator, Spectrum
from ctrlgen.operators.systems import conjugate_gradients
from ctrlgen.rows.batching import flat, rows_like

__all__ = ["DeepinvLinear", "DeepinvOperator", "from_deepinv"]


class DeepinvOperator(Operator):
    """A deepinv physics that need not be linear.

    Args:
        physics: has A(u), and A_dagger(y) for `pinv`.
        low: the signal that is 0 to the physics.
        high: the signal that is 1 to the physics.
    """

    def __init__(self, physics: Any, low: float, high: float) -> None:
        self.physics, self.low, self.high = physics, low, high

    def __call__(self, x: Tensor) -> Tensor:
        return self.physics.A((x - self.low) / (self.high - self.low))

    def pinv(self, y: Tensor) -> Tensor:
        """The physics' own inverse, A_dagger: a heuristic."""
        return self.low + (self.high - self.low) * self.physics.A_dagger(y)


class DeepinvLinear(LinearOperator):
    """A linear deepinv physics, applied to signals as they are.

    Args:
        physics: has A(u), A_adjoint(y), A_adjoint_A(u) and A_dagger(y).
        low: the signal that is 0 to the physics.
        high: the signal that is 1 to the physics.
        tolerance: of `solve`, relative to H^T e.
        iterations: of `solve`, at most.
    """

    def __init__(
        self, physics: Any, low: float, high: float, tolerance: float, iterations: int
    ) -> None:
        self.physics, self.low, self.high = physics, low, high
        self.tolerance, self.iterations = tolerance, iterations

    def __call__(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        """The physics' own A_dagger: in closed form, or by its solver and to its tolerance."""
        return self.physics.A_dagger(y)

    def project(self, x: Tensor) -> Tensor:
        return self.pinv(self(x))

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        """H^T (r² HH^T + σ² I)^{-1} e by conjugate gradients, each sample to its own tolerance.

        A sample that has not converged in the permitted iterations is returned as NaN, with a
        warning: a method marks it, and its neighbours go on.
        """
        target = self.adjoint(residual)
        r2, n2 = rows_like(variance, target), rows_like(noise, target) ** 2
        solution = conjugate_gradients(
            lambda x: r2 * self.physics.A_adjoint_A(x) + n2 * x,
            target,
            self.tolerance,
            self.iterations,
        )
        lost = int(flat(solution).isnan().any(1).sum())
        if lost:
            warnings.warn(
                f"solve: {lost} samples above the tolerance {self.tolerance} after "
                f"{self.iterations} iterations are returned as NaN",
                RuntimeWarning,
                stacklevel=2,
            )
        return solution

    def convert(self, measurement: Tensor, x: Tensor) -> Tensor:
        """A deepinv measurement of images in [0, 1] as one of our signals; noise grows likewise.

        Args:
            measurement: y_u = A(u) + noise, shape (B, *measurement).
            x: any signals of the right shape, dtype and device, shape (B, *signal).
        """
        return (self.high - self.low) * measurement + self.low * self(torch.ones_like(x))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(self.adjoint(y[:1]).shape[1:])

    def spectrum(self, x: Tensor) -> Spectrum:
        """Not known.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self!r} has no spectral form; solve and pinv do without")

    def __repr__(self) -> str:
        return f"DeepinvLinear({type(self.physics).__name__})"


def from_deepinv(
    physics: Any,
    signal_range: tuple[float, float] = (-1.0, 1.0),
    *,
    tolerance: float = 1e-6,
    iterations: int = 500,
) -> DeepinvLinear | DeepinvOperator:
    """The measurement operator of a deepinv physics, without its noise.

    Args:
        physics: a `deepinv.physics.Physics` or anything with its methods; one for all samples. It
            is linear where it has A_adjoint_A.
        signal_range: the prior's signals that are 0 and 1 to deepinv.
        tolerance: of the linear operator's `solve`, relative.
        iterations: of `solve`, at most.

    Raises:
        TypeError: for an object without A.
        ValueError: for an empty signal range, or a physics with parameters of single samples,
            which could not leave the batch with them.
    """
    if not callable(getattr(physics, "A", None)):
        raise TypeError(
            f"physics: expected a deepinv physics with a method A, got {type(physics).__name__}"
        )
    low, high = map(float, signal_range)
    if not low < high:
        raise ValueError(f"signal_range: expected low < high, got {signal_range}")
    buffers: dict[str, Tensor] = dict(getattr(physics, "named_buffers", dict)())
    for name, buffer in buffers.items():
        if buffer.ndim >= 4 and buffer.shape[0] > 1:
            raise ValueError(
                f"physics: expected one physics for all samples, got {name} of shape "
                f"{tuple(buffer.shape)}"
            )
    # Not by A_adjoint: deepinv's phase retrieval has one, of its linear part alone.
    if callable(getattr(physics, "A_adjoint_A", None)):
        return DeepinvLinear(physics, low, high, tolerance, iterations)
    return DeepinvOperator(physics, low, high)
