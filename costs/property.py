r"""Costs of predicted properties: targets, ranges, inequalities, extremes, and several at once.

With predictions f_p of a signal, wanted intervals [l_p, h_p] and scales s_p,

    C(x) = Σ_p w_p φ(e_p/s_p),      e_p = max(f_p − h_p, 0) − max(l_p − f_p, 0),

    φ(u) = u²                                        squared (arXiv 2402.14017, eq 7)
    φ(u) = u²/2 where |u| <= 1, |u| − ½ elsewhere     smooth-l1 (Huber 1964)

A target is an interval of one point, an inequality one with an infinite end. In units of the mean
absolute deviation of the data (the scales) several properties weigh alike, and gradients have the
same size for all of them, which line searches want. The absolute error, in which results are
reported, has a kink where it is zero and is no form to minimise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, Squares
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.constants import follow

__all__ = ["Form", "PropertyCost"]

Form = Literal["squared", "smooth-l1"]
Bounds = float | Sequence[float] | Tensor


class PropertyCost(Cost):
    """How far predicted properties are from where they are wanted, in squared scales.

    Args:
        predict: signals (B, *signal) to properties (B, P), or (B,) for one; differentiable, unless
            it is a `BlackBoxCost`. Where it holds data of samples it has `take`.
        low: lower bounds in the unit of each property, −inf where open: a number, shape (P,), or
            one row per sample, shape (B, P).
        high: upper bounds, inf where open; equal to `low` for a target.
        scale: size of an error that counts as one, > 0, a number or shape (P,).
        weights: w_p >= 0, a number or shape (P,).
        form: φ, "squared" or "smooth-l1".

    Raises:
        TypeError: if the predictor cannot be called.
        ValueError: for bounds that are NaN, crossed or both infinite, a scale that is not positive,
            a negative weight, shapes that do not fit, or another form.
    """

    def __init__(
        self,
        predict: Callable[[Tensor], Tensor],
        low: Bounds,
        high: Bounds,
        *,
        scale: Bounds = 1.0,
        weights: Bounds = 1.0,
        form: Form = "squared",
    ) -> None:
        if not callable(predict):
            raise TypeError(f"predict: expected a callable, got {type(predict).__name__}")
        if form not in get_args(Form):
            raise ValueError(f"form: expected one of {get_args(Form)}, got {form!r}")
        bounds = torch.broadcast_tensors(_numbers("low", low, 2), _numbers("high", high, 2))
        self.low, self.high = (bound.contiguous() for bound in bounds)
        if bool((self.low > self.high).any()):
            raise ValueError(f"low, high: expected low <= high, got {low} and {high}")
        if bool((self.low.isinf() & self.high.isinf()).any()):
            raise ValueError("low, high: expected a finite bound for every property")
        self.scale, self.weights = _numbers("scale", scale, 1), _numbers("weights", weights, 1)
        if not bool(((self.scale > 0) & self.scale.isfinite()).all()):
            raise ValueError(f"scale: expected positive numbers, got {scale}")
        if not bool(((self.weights >= 0) & self.weights.isfinite()).all()):
            raise ValueError(f"weights: expected numbers >= 0, got {weights}")
        lengths = {
            "low": self.low.shape[-1],
            "scale": len(self.scale),
            "weights": len(self.weights),
        }
        self.properties = max(lengths.values())
        for name, length in lengths.items():
            if length not in (1, self.properties):
                raise ValueError(
                    f"{name}: expected one number or {self.properties}, as many as properties, "
                    f"got {length}"
                )
        self.predict, self.form = predict, form
        own = ("low", "high") if self.low.ndim == 2 else ()
        self.per_sample = ("predict", *own) if isinstance(predict, PerSample) else own

    @classmethod
    def extreme(
        cls, predict: Callable[[Tensor], Tensor], limit: Bounds, *, scale: Bounds = 1.0
    ) -> PropertyCost:
        """A property as large, or as small, as its predictor can be trusted.

        Pulls with constant strength 1/s from afar, ever less towards the limit, and back from
        beyond it, where an optimiser would exploit the predictor rather than find molecules.

        Args:
            predict: as of the class.
            limit: trust limit, for instance the 99.5 % quantile of the data to maximise.
            scale: as of the class.
        """
        return cls(predict, limit, limit, scale=scale, form="smooth-l1")

    def values(self, x: Tensor) -> Tensor:
        """The predictions, shape (B, P)."""
        found = self.predict(x)
        found = found.unsqueeze(1) if found.ndim == 1 else found
        if found.shape != (len(x), self.properties):
            raise ValueError(
                f"predict: expected shape {(len(x), self.properties)}, got {tuple(found.shape)}"
            )
        return found

    def errors(self, x: Tensor) -> Tensor:
        """Signed distances from the wanted intervals in scales, zero inside, shape (B, P)."""
        found = self.values(x)
        low, high, scale = (follow(v, found) for v in (self.low, self.high, self.scale))
        return ((found - high).clamp_min(0) - (low - found).clamp_min(0)) / scale

    @property
    def differentiable(self) -> bool:
        return bool(getattr(self.predict, "differentiable", True))

    @property
    def squares(self) -> Squares:
        return "sum" if self.form == "squared" else "no"

    def least_squares(self, x: Tensor) -> Tensor:
        if self.form != "squared":
            return super().least_squares(x)
        u = self.errors(x)
        return follow(self.weights, u).sqrt() * u

    def terms(self, x: Tensor) -> Tensor:
        """What every property adds to the cost, w_p φ(e_p/s_p), shape (B, P)."""
        u = self.errors(x)
        far = u.abs()
        smooth = torch.where(far <= 1, u.square() / 2, far - 0.5)
        value = u.square() if self.form == "squared" else smooth
        return follow(self.weights, u) * value

    def forward(self, x: Tensor) -> Tensor:
        return self.terms(x).sum(1)

    def __repr__(self) -> str:
        return f"PropertyCost({getattr(self.predict, '__name__', type(self.predict).__name__)})"


def _numbers(name: str, value: Bounds, most: int) -> Tensor:
    """Numbers as float64 of at least one dimension; NaN and too many dimensions are refused."""
    made = torch.as_tensor(value, dtype=torch.float64).detach()
    made = made.unsqueeze(0) if made.ndim == 0 else made
    if made.ndim > most or bool(made.isnan().any()):
        shapes = "a number, shape (P,)" + (" or (B, P)" if most == 2 else "")
        raise ValueError(f"{name}: expected {shapes}, not NaN, got {value!r}")
    return made
