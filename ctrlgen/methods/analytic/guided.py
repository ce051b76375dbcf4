r"""Base of the methods with analytic guidance: ΠGDM, OT-ODE and their conjugate forms.

All take p(x_1|x_t) as N(x̂, r²I), r² = σ²/(α²+σ²), which gives the likelihood of y = Hx + σ_y n at
every noise level in closed form,

    ∇ log p(y|x_t) = (∂x̂/∂x)^T H^T (r² HH^T + σ_y² I)^{-1} (y − Hx̂),

exact where the prior is N(0, I) (Song et al., ΠGDM, ICLR 2023). One evaluation and one backward
pass of the network a step; the solve uses the operator's structure
(`ctrlgen.methods.analytic.structure`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor

from ctrlgen.methods.analytic.structure import InverseProblem, inverse_problem
from ctrlgen.methods.base import CostLike, measurement_of
from ctrlgen.methods.stepping import Run, Start, SteppedMethod
from ctrlgen.priors.flows import Prediction
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Level

__all__ = ["AnalyticMethod", "AnalyticState", "Final"]

Final = Literal["none", "tweedie"]


@dataclass
class AnalyticState:
    """What a run keeps.

    Attributes:
        problem: the measurement in the coordinates of states.
    """

    problem: InverseProblem


A = TypeVar("A", bound=AnalyticState)


@dataclass(frozen=True, kw_only=True)
class AnalyticMethod(SteppedMethod[A]):
    """Base: one gradient of a prediction along an analytic pull, once a step.

    Args:
        weight: w >= 0, strength of the guidance.
        heuristic: take h†∘h for the projection H†H, for operators (JPEG) and codecs that are not
            linear; the noise level is not used then.
        final: what to make of the last state: "none", or "tweedie" for its denoised state, at one
            more evaluation.

    Raises:
        ValueError: for a weight that is negative or not finite, or a `final` that is not known.
    """

    control: ClassVar[str] = "analytic guidance"
    needs: ClassVar[str] = "a linear operator, or its heuristic"
    needs_measurement: ClassVar[bool] = True

    weight: float = 1.0
    heuristic: bool = False
    final: Final = "none"
    start: Start = "guided"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight: expected a finite number >= 0, got {self.weight}")
        if self.final not in get_args(Final):
            raise ValueError(f"final: expected one of {get_args(Final)}, got {self.final!r}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        first, *between = self.grid(prior.flow.path)[:-1]
        if first.alpha <= 0 or any(level.sigma <= 0 for level in (first, *between)):
            raise ValueError(
                "grid: guidance needs some signal and some noise at every evaluation, α > 0 and "
                f"σ > 0; start later than t = {first.time}"
            )
        self._problem(prior, cost, x0)

    def begin(self, run: Run[A], z: Tensor) -> A:
        """The problem; a method that keeps more returns an `AnalyticState` of its own."""
        return cast(A, AnalyticState(self._problem(run.prior, run.cost, z)))

    def first_state(self, run: Run[A], z: Tensor) -> Tensor:
        """α H†y + σ z, or noise alone, √(α² + σ²) z."""
        level = run.levels[0]
        if self.start == "source":
            return (level.alpha**2 + level.sigma**2) ** 0.5 * z
        return level.alpha * run.state.problem.proxy + level.sigma * z

    def finish(self, run: Run[A], x: Tensor) -> Tensor:
        if self.final == "none":
            return x
        with torch.no_grad():
            return run.predict(x, run.levels[-1]).data

    def _problem(self, prior: Prior, cost: CostLike, like: Tensor) -> InverseProblem:
        measurement = measurement_of(cost)
        assert measurement is not None  # `check` has seen to it
        return inverse_problem(prior, measurement, like, self.heuristic)

    @staticmethod
    def variance(level: Level) -> float:
        """r² of the denoised state."""
        return level.sigma**2 / (level.alpha**2 + level.sigma**2)

    @staticmethod
    def reported(run: Run, seen: Prediction) -> Tensor:
        """The cost of x̂, for the history."""
        with torch.no_grad():
            return run.value(seen.data.detach())
