r"""Conjugate integrators: guided sampling in few steps, the linear part of the guidance exact.

In x̄ = A x the stiff, linear part of the guided ODE disappears, and Euler's method only integrates
what the network says (Pandey, Yang and Mandt, arXiv 2405.17673). `ctrlgen.methods.conjugate_
coefficients` has the mathematics and the numbers of every step,

    x' = a x + m H†y + e n + j q,        q = (∂n/∂x)^T R,   n the network's ε̂ or u,

different on the range of H^T and on the null space, or in every singular direction where y is
noisy. R = H†y − Px̂, with noise  r² H^T (r² HH^T + σ_y² I)^{-1} (y − Hx̂).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.analytic.conjugate_coefficients import Form, StepCoefficients
from ctrlgen.methods.analytic.guided import AnalyticMethod, AnalyticState
from ctrlgen.methods.analytic.structure import InverseProblem
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.stepping import Run
from ctrlgen.operators.base import Spectrum
from ctrlgen.priors.prior import Prior

__all__ = ["ConjugateMethod", "ConjugateState"]


@dataclass
class ConjugateState(AnalyticState):
    """What a run keeps.

    Attributes:
        steps: coefficients of all steps.
        noisy: where y has noise, the operator's decomposition, and H†y in its coordinates.
    """

    steps: StepCoefficients
    noisy: tuple[Spectrum, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class ConjugateMethod(AnalyticMethod[ConjugateState]):
    """Base of C-ΠGDM and C-ΠGFM.

    Args:
        decay: λ, which trades how much of the step is exact; 0 by default.

    Raises:
        ValueError: for a λ that is not finite.
    """

    prediction: ClassVar[Form]
    """Which quantity of the network enters: "noise" or "velocity"."""

    decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.decay):
            raise ValueError(f"decay: expected a finite number, got {self.decay}")

    @abstractmethod
    def coefficients(
        self, run: Run[ConjugateState], values: Tensor, noise: float
    ) -> StepCoefficients:
        """Of all steps at singular values of the operator; float64, (n, *values)."""

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        problem = self._problem(prior, cost, x0)
        if problem.noise > 0 and problem.operator is not None:
            problem.spectrum()

    def begin(self, run: Run[ConjugateState], z: Tensor) -> ConjugateState:
        problem = self._problem(run.prior, run.cost, z)
        noise = problem.noise if problem.operator is not None else 0.0
        noisy = None
        if noise > 0:
            spectrum = problem.spectrum()
            noisy, values = (spectrum, spectrum.right(problem.proxy)), spectrum.values
        else:
            values = torch.tensor([0.0, 1.0], dtype=torch.float64)  # null space and range
        steps = StepCoefficients(*(part.to(z) for part in self.coefficients(run, values, noise)))
        return ConjugateState(problem, steps, noisy)

    def update(self, run: Run[ConjugateState], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, _ = run.at(step)
        problem = run.state.problem
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            seen = run.predict(x, t)
            network = seen.noise if self.prediction == "noise" else seen.velocity
            pull = problem.pull(seen.data.detach(), self.variance(t))
            (pulled,) = torch.autograd.grad(network, x, pull)
        at = run.state.steps.at(step)
        with torch.no_grad():
            parts = (x, network, pulled)
            if run.state.noisy is not None:
                new = _in_spectrum(*run.state.noisy, parts, at)
            else:
                new = _in_subspaces(problem, parts, at)
        return new, self.reported(run, seen)


def _in_spectrum(
    spectrum: Spectrum,
    measured: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    at: StepCoefficients,
) -> Tensor:
    """x' with a coefficient of its own for every singular direction."""
    x, network, pulled = (spectrum.right(part) for part in parts)
    return spectrum.right_inverse(
        at.state * x + at.measured * measured + at.network * network + at.jacobian * pulled
    )


def _in_subspaces(
    problem: InverseProblem, parts: tuple[Tensor, Tensor, Tensor], at: StepCoefficients
) -> Tensor:
    """x' with one coefficient on the null space and one on the range of H^T."""
    null, seen = ([w[k] for w in (at.state, at.network, at.jacobian)] for k in (0, 1))
    difference = [b - a for a, b in zip(null, seen, strict=True)]
    if problem.operator is not None:  # linear: one projection does
        on_range = problem.project(_combined(difference, parts))
    else:  # h†∘h of every quantity at its own scale
        on_range = _combined(difference, tuple(problem.project(part) for part in parts))
    return _combined(null, parts) + on_range + at.measured[1] * problem.proxy


def _combined(weights: list[Tensor], parts: tuple[Tensor, ...]) -> Tensor:
    a, b, c = (weight * part for weight, part in zip(weights, parts, strict=True))
    return a + b + c
