r"""Costs of inverse problems: how far H(x) is from the measurement y.

    SSE            ‖H(x) − y‖²                                     (arXiv 2402.14017, eq 6)
    −PSNR          10 log₁₀ MSE − 20 log₁₀ MAX,   MSE = ‖H(x) − y‖²/m
    reversed       ‖x − y‖²
    level set      (F(x) − c)²                                     (eq 7)

m counts the entries that are measured: a hidden pixel is not a perfect one. The gradient of −PSNR
is (10/ln 10) ∇MSE/MSE, free of the scale of the data; a floor under the MSE keeps it finite at the
solution. For a blur the PSNR can be taken where the pseudo-inverse lives, between H†H x and H†y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, Squares
from ctrlgen.operators.base import LinearOperator, Measurement, Operator
from ctrlgen.rows.batching import PerSample, flat, rows_like
from ctrlgen.rows.constants import follow

__all__ = ["LevelSet", "MeasurementCost", "NegativePSNR", "Reversed", "SquaredError", "psnr"]


class MeasurementCost(Cost):
    """Base of costs that compare H(x) with y.

    Args:
        operator: H.
        y: measurements, one per sample, shape (B, *measurement), floating point and finite.
        noise: σ_y, standard deviation of the noise in y, in its units, >= 0.

    Raises:
        TypeError: if the operator is none, or y is no floating point tensor.
        ValueError: if y has no batch dimension or is not finite, or the noise is negative.
    """

    per_sample: tuple[str, ...] = ("operator", "y")

    def __init__(self, operator: Operator, y: Tensor, noise: float = 0.0) -> None:
        if not isinstance(operator, Operator):
            raise TypeError(f"operator: expected an Operator, got {type(operator).__name__}")
        _check_measurement("y", y)
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise: expected a standard deviation >= 0, got {noise}")
        self.operator, self.y, self.noise = operator, y, noise

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.operator, self.y, self.noise)

    @property
    def differentiable(self) -> bool:
        return self.operator.differentiable

    def residual(self, x: Tensor) -> Tensor:
        """H(x) − y, shape (B, *measurement); zero where nothing is measured, whatever y holds.

        Raises:
            ValueError: if x measures to another shape than that of y.
        """
        seen = self.operator(x)
        if seen.shape != self.y.shape:
            raise ValueError(
                f"y: expected shape {tuple(seen.shape)}, that of H(x), got {tuple(self.y.shape)}"
            )
        return self.operator.observed(seen - follow(self.y, seen))


class SquaredError(MeasurementCost):
    """‖H(x) − y‖², summed over all entries, in squared units of y."""

    squares: Squares = "sum"

    def least_squares(self, x: Tensor) -> Tensor:
        return flat(self.residual(x))

    def forward(self, x: Tensor) -> Tensor:
        return flat(self.residual(x)).square().sum(1)


class NegativePSNR(MeasurementCost):
    """−PSNR of H(x) against y, in dB.

    Args:
        operator: H.
        y: measurements, shape (B, *measurement).
        noise: σ_y in units of y.
        peak: range of the data, MAX; 2 for [−1, 1].
        floor: least MSE, where the PSNR saturates; 1e-12 is 126 dB at peak 2.
        projected: compare H†H x with H†y in signal space (for blurs); H must be linear.
    """

    squares: Squares = "rising"

    def __init__(
        self,
        operator: Operator,
        y: Tensor,
        noise: float = 0.0,
        *,
        peak: float = 2.0,
        floor: float = 1e-12,
        projected: bool = False,
    ) -> None:
        super().__init__(operator, y, noise)
        if not (peak > 0 and floor > 0):
            raise ValueError(f"peak, floor: expected positive numbers, got {peak, floor}")
        if projected and not isinstance(operator, LinearOperator):
            raise ValueError(
                f"projected: needs a linear operator, got {type(operator).__name__}; use False"
            )
        if projected and operator.entries is not None:
            raise ValueError(
                "projected: a pseudo-inverse has no mean over the entries of samples of several "
                "sizes, whose padding it would count; use False"
            )
        self.peak, self.floor, self.projected = peak, floor, projected

    def least_squares(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        # H†(Hx − y) = Px − H†y
        return flat(self.operator.pinv(residual) if self.projected else residual)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        if self.projected:
            residual = self.operator.pinv(residual)
            mse = flat(residual).square().mean(1)
        else:
            mse = flat(residual).square().sum(1) / self.operator.measured(residual)
        return 10 * torch.log10(mse + self.floor) - 20 * math.log10(self.peak)


def psnr(decibels: float) -> float:
    """The cost −PSNR at a PSNR in dB: `target=psnr(40)` stops a sample there."""
    return -float(decibels)


class Reversed(Cost):
    """‖x − y‖²: which source makes this signal? (reversed sampling)

    Args:
        y: signals, shape (B, *signal), floating point and finite.
    """

    per_sample = ("y",)
    squares: Squares = "sum"

    def __init__(self, y: Tensor) -> None:
        _check_measurement("y", y)
        self.y = y

    def forward(self, x: Tensor) -> Tensor:
        return self.least_squares(x).square().sum(1)

    def least_squares(self, x: Tensor) -> Tensor:
        if x.shape != self.y.shape:
            raise ValueError(f"y: expected shape {tuple(x.shape)}, got {tuple(self.y.shape)}")
        return flat(x - follow(self.y, x))


class LevelSet(Cost):
    """(F(x) − c)²: signals on which a function takes a value.

    Args:
        function: F, (B, *signal) to (B,); a `Cost` is one too. A `BlackBoxCost` leaves the square
            without a gradient, and infinite where it is.
        target: c, one number or one per sample, shape (B,), in the units of F.
    """

    squares: Squares = "sum"

    def __init__(self, function: Callable[[Tensor], Tensor], target: float | Tensor) -> None:
        if not callable(function):
            raise TypeError(f"function: expected a callable, got {type(function).__name__}")
        value = torch.as_tensor(target)
        if value.ndim > 1 or not bool(torch.isfinite(value).all()):
            raise ValueError(f"target: expected a finite number or shape (B,), got {target!r}")
        self.function, self.target = function, target
        held = {"function": isinstance(function, PerSample), "target": value.ndim == 1}
        self.per_sample = tuple(name for name, holds in held.items() if holds)

    @property
    def differentiable(self) -> bool:
        return bool(getattr(self.function, "differentiable", True))

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        return (value - rows_like(self.target, value)).square()

    def least_squares(self, x: Tensor) -> Tensor:
        value = self.function(x)
        return (value - rows_like(self.target, value)).unsqueeze(1)


def _check_measurement(name: str, y: Tensor) -> None:
    if not isinstance(y, Tensor) or not y.is_floating_point():
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name}: expected a floating point tensor, got {got}")
    if y.ndim < 2:
        raise ValueError(
            f"{name}: expected one row per sample, shape (B, ...), got {tuple(y.shape)}"
        )
    bad = (~torch.isfinite(flat(y)).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in samples {bad}")
