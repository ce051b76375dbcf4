r"""CT-DTM: trajectory matching in continuous time (Pandey et al., arXiv 2502.03686, eqs 12, 29-33).

The guided reverse diffusion runs on s(x, u, t) in place of the score s(x, t). By Girsanov the KL of
the two path measures is ½ E ∫ g² ‖s(x, u, t) − s(x, t)‖² dt, so the greedy problem at time t is

    min_u  ½g² ‖s(x, u, t) − s(x, t)‖² + λ_u ‖γu‖² + w_T C(x̂^u),    x̂^u = (x + σ² s(x, u, t))/α,

g² = 2σW/α on any path (β on VP). Two parameterisations of the control:

    "shift"   s(x, u, t) = s(x + γu, t)   N + 2 evaluations, N vjps a step
    "linear"  s(x, u, t) = s(x, t) + γu   1 evaluation, no vjp: the cost is then quadratic-plus-C in
              u (path-integral control, eqs 18-19), and for w_T C = −log p(y|x_t) linear in u, of
              slope g² ∇log p(y|x_t), its minimiser is classifier guidance.

Where C = ‖Hx − y‖², with H and the codec linear, `exact` solves the greedy problem of the
linear mode: x̂^u is x̂ + r²H^T(r²HH^T + I/2w_T)^{-1}(y − Hx̂) with r² = (σ²/α)²/(g² + 2λ_u), the mean
of N(x̂, r²I) given y with noise 1/√(2w_T). [Derived here.]

The shift leaves directions in which the score is flat without a penalty; λ_u gives them one. The
state itself does not move with the control: only the drift does, which is what tells it from NDTM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ctrlgen.methods.analytic.structure import InverseProblem, inverse_problem
from ctrlgen.methods.base import CostLike, measurement_of
from ctrlgen.methods.controls.transitions import (
    GuidedTransitions,
    Response,
    TransitionState,
    Weights,
)
from ctrlgen.methods.stepping import Run, check_rule
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import DDPMUniform, Grid, ddpm
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["CTDTM"]


@dataclass
class CTDTMState(TransitionState):
    """What a run keeps.

    Attributes:
        problem: with the noise that the cost's weight stands for, where it is solved exactly.
    """

    problem: InverseProblem | None = None


@dataclass(frozen=True, kw_only=True)
class CTDTM(GuidedTransitions[CTDTMState]):
    """Controls the score of the reverse diffusion in every step.

    Args:
        rule: of the steps; DDIM with η = 1, the reverse diffusion.
        mode: "shift" or "linear", see the module.
        control_weight: λ_u >= 0.
        exact: solve for the control instead of descending, in mode "linear" and for a linear
            operator; the cost is then ‖Hx − y‖² of the measurement, whatever its own formula.
            `iterations` and `optimizer` are not used.

    Raises:
        ValueError: for numbers out of range, or `exact` in another mode.
    """

    needs_signal: ClassVar[bool] = True

    grid: Grid = field(default_factory=DDPMUniform)
    clock: Path | None = field(default_factory=ddpm)
    rule: StepRule = field(default_factory=lambda: DDIM(1.0))
    mode: Literal["shift", "linear"] = "shift"
    control_weight: float = 0.0
    exact: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule)
        if self.mode not in ("shift", "linear"):
            raise ValueError(f"mode: expected 'shift' or 'linear', got {self.mode!r}")
        if not self.control_weight >= 0:
            raise ValueError(f"control_weight: expected >= 0, got {self.control_weight}")
        if self.exact and (self.mode != "linear" or not self.terminal_weight > 0):
            raise ValueError(
                "exact: expected with mode='linear' and terminal_weight > 0, got "
                f"{self.mode!r} and {self.terminal_weight}"
            )

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        if self.exact:
            if measurement_of(cost) is None:
                raise ValueError("cost: exact=True needs one with a measurement (operator and y)")
            self._problem(prior, cost, x0)

    def begin(self, run: Run[CTDTMState], z: Tensor) -> CTDTMState:
        problem = self._problem(run.prior, run.cost, z) if self.exact else None
        return CTDTMState(problem=problem)

    def update(self, run: Run[CTDTMState], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        problem = run.state.problem
        if problem is None:
            return super().update(run, x, step)
        t, weights = run.levels[step], self.weights(run, step)
        with torch.no_grad():
            free = self.respond(run, x, torch.zeros_like(x), step, None)
            reach = t.sigma**2 / t.alpha
            pull = problem.pull(free.data, 0.5 * reach**2 / (weights.change + weights.control))
            data = run.clipped(free.data + pull)
            response = Response(data, free.quantity + pull / reach, x)
            return self.land(run, response, step), run.value(data)

    def weights(self, run: Run, step: int) -> Weights:
        t = run.levels[step]
        return Weights(t.sigma * t.wronskian / t.alpha, self.control_weight)

    def needs_free(self, weights: Weights) -> bool:
        return True

    def respond(self, run: Run, x: Tensor, u: Tensor, step: int, free: Response | None) -> Response:
        t = run.levels[step]
        if self.mode == "linear" and free is not None:
            score = free.quantity + self.gamma * u
        else:  # with u = 0 both modes ask for the free score
            score = -run.predict(x + self.gamma * u, t).noise / t.sigma
        return Response((x + t.sigma**2 * score) / t.alpha, score, x)

    def land(self, run: Run, response: Response, step: int) -> Tensor:
        t = run.levels[step]  # −σ times the score, or what a bound of x̂ leaves of it
        return run.move(response.data, (response.base - t.alpha * response.data) / t.sigma, step)

    def _problem(self, prior: Prior, cost: CostLike, like: Tensor) -> InverseProblem:
        """The measurement, with the noise that the cost's weight stands for."""
        measurement = measurement_of(cost)
        assert measurement is not None  # `check` has seen to it
        noise = 1 / math.sqrt(2 * self.terminal_weight)
        return inverse_problem(prior, measurement._replace(noise=noise), like)
