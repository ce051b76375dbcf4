r"""Predictions: what a network says of a state, in the coordinate that is asked for.

With the coefficients of a path (`ctrlgen.priors.paths`) the velocity u, the denoised datum
x̂ = E[x_1|x_t], the noise ε̂ = E[x_0|x_t], the score s = ∇log p_t and v = αε̂ − σx̂ are one and the
same prediction in five coordinates:

    x̂ = (σu − σ̇x)/W = (x − σε̂)/α = (x + σ²s)/α = (αx − σv)/(α²+σ²)
    ε̂ = (α̇x − αu)/W = (x − αx̂)/σ =    −σ s     = (σx + αv)/(α²+σ²)
    u = α̇x̂ + σ̇ε̂,    s = −ε̂/σ

(Lipman et al., arXiv 2210.02747; Salimans & Ho, arXiv 2202.00512). A division by α or σ only occurs
where the network's own quantity leaves no other way.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ctrlgen.priors.paths import Coefficients

__all__ = ["Kind", "Prediction", "bounded"]

Kind = Literal["velocity", "data", "noise", "score", "v"]


def bounded(x: Tensor, bound: float) -> Tensor:
    """x within ±bound, and NaN where it is not finite: a bound must not hide what has diverged."""
    return torch.add(x.clamp(-bound, bound), x, alpha=0)  # zero times what is infinite is NaN


class Prediction:
    """What a flow knows of a state: the same prediction in every coordinate, computed on demand.

    Attributes:
        x: the state, shape (B, *).
        coefficients: the path at the state's time, broadcastable against x.
    """

    def __init__(self, kind: Kind, value: Tensor, x: Tensor, coefficients: Coefficients) -> None:
        self._kind, self._value = kind, value
        self.x, self.coefficients = x, coefficients

    def clipped(self, bound: float | None) -> Prediction:
        """The same with |x̂| held within a bound, and all the rest what x and that x̂ leave.

        ε̂ = (x − αx̂)/σ then is the one of the bounded x̂: the mean of a step is that of the
        posterior of x̂, as in DDPM code. None for no bound.
        """
        if bound is None:
            return self
        return Prediction("data", bounded(self.data, bound), self.x, self.coefficients)

    @cached_property
    def data(self) -> Tensor:
        """x̂ = E[x_1 | x_t], the denoised state."""
        x, value, c = self.x, self._value, self.coefficients
        match self._kind:
            case "data":
                return value
            case "velocity":
                return (c.sigma * value - c.d_sigma * x) / c.wronskian
            case "noise":
                return (x - c.sigma * value) / c.alpha
            case "score":
                return (x + c.sigma**2 * value) / c.alpha
            case _:
                return (c.alpha * x - c.sigma * value) / (c.alpha**2 + c.sigma**2)

    @cached_property
    def noise(self) -> Tensor:
        """ε̂ = E[x_0 | x_t]."""
        x, value, c = self.x, self._value, self.coefficients
        match self._kind:
            case "noise":
                return value
            case "velocity":
                return (c.d_alpha * x - c.alpha * value) / c.wronskian
            case "data":
                return (x - c.alpha * value) / c.sigma
            case "score":
                return -c.sigma * value
            case _:
                return (c.sigma * x + c.alpha * value) / (c.alpha**2 + c.sigma**2)

    @cached_property
    def velocity(self) -> Tensor:
        """u = dx/dt along the probability-flow ODE."""
        if self._kind == "velocity":
            return self._value
        return self.coefficients.d_alpha * self.data + self.coefficients.d_sigma * self.noise

    @cached_property
    def score(self) -> Tensor:
        """∇ log p_t(x); singular where σ = 0."""
        return self._value if self._kind == "score" else -self.noise / self.coefficients.sigma

    @cached_property
    def v(self) -> Tensor:
        """αε̂ − σx̂."""
        if self._kind == "v":
            return self._value
        return self.coefficients.alpha * self.noise - self.coefficients.sigma * self.data
