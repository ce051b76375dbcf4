r"""NDTM: non-linear diffusion trajectory matching (Pandey et al., arXiv 2502.03686).

The control moves the state before the network sees it, x̃ = x_t + γu (eqs 14-16), so that the whole
step becomes guided: ε^u = ε̂(x̃, t), x̂^u = x̂(x̃, t), x_s = a x̂^u + b ε^u + c z. Controlled and free
transition share the variance c², so their KL compares means (Proposition 3.1),

    Δm = κ γu + ω (ε^u − ε̂),    κ = a/α_t,    ω = b − a σ_t/α_t

(DDIM: a = α_s, b = √(σ_s² − c²)), and the objective of a step is

    w_s ‖ε^u − ε̂‖² + w_c ‖γu‖² + w_T C(x̂^u),

    weighting        w_s                        w_c
    "ddim"           ω²                         κ²
    "ddim_released"  ω²                         γ²/κ²   (the authors' code: ratio inverted, γ twice)
    "ddpm"           β²/((1−β)(1−ᾱ_t))          1/(1−β),    1 − β = ᾱ_t/ᾱ_s of the whole step
    "ddpm_released"  β²/((1−β)(1−ᾱ_t))          γ²/(1−β),   β of one index of the table (γ twice)
    "ones"           1                          γ²
    "zero"           0                          0           (RB-modulation)

with ᾱ = α²/(α² + σ²). "ddpm" is "ddim" for the ancestral step, whatever the rule is; in strides of
20 indices its β is some twenty times that of one index, which the authors' code takes. 1/(2c²) of
the KL, infinite for a deterministic step, is absorbed in w_T.
Evaluations per step: N + 2 (N + 1 where w_s = 0), vjps: N.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.controls.transitions import GuidedTransitions, Response, T, Weights
from ctrlgen.methods.stepping import Run, check_rule
from ctrlgen.priors.paths import DiscreteVP, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import DDPMUniform, Grid, Level, ddpm
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["NDTM", "Weighting", "transition_weights"]

Weighting = Literal["ddim", "ddim_released", "ddpm", "ddpm_released", "ones", "zero"]


def transition_weights(
    weighting: Weighting,
    rule: StepRule,
    t: Level,
    s: Level,
    gamma: float,
    path: Path | None = None,
) -> Weights:
    """w_s and w_c of the module's table for a step from t to s.

    Args:
        weighting: which.
        rule: of the step.
        t: where it begins.
        s: where it ends.
        gamma: γ.
        path: the table of "ddpm_released", a `DiscreteVP`.

    Raises:
        ValueError: for "ddpm_released" on another path.
    """
    a, b, _ = rule.mix(t, s)
    kappa, omega = a / t.alpha, b - a * t.sigma / t.alpha
    # ᾱ = α²/(α² + σ²), whatever the scale of the path.
    bar_t, bar_s = (v.alpha**2 / (v.alpha**2 + v.sigma**2) for v in (t, s))
    match weighting:
        case "ddim":
            return Weights(omega**2, kappa**2)
        case "ddim_released":
            return Weights(omega**2, (gamma / kappa) ** 2)
        case "ddpm":
            beta = 1 - bar_t / bar_s
            return Weights(beta**2 / ((1 - beta) * (1 - bar_t)), 1 / (1 - beta))
        case "ddpm_released":
            if not isinstance(path, DiscreteVP):
                raise ValueError(f"weighting: 'ddpm_released' needs a DiscreteVP clock, got {path}")
            beta = float(
                path.betas[round(float(path.index(torch.tensor(t.time, dtype=torch.float64))))]
            )
            return Weights(beta**2 / ((1 - beta) * (1 - bar_t)), gamma**2 / (1 - beta))
        case "ones":
            return Weights(1.0, gamma**2)
        case _:
            return Weights(0.0, 0.0)


def _row(
    iterations: int,
    gamma: float,
    eta: float,
    t_end: int,
    terminal_weight: float,
    weighting: Weighting,
) -> dict[str, Any]:
    """One row of Table 8: N, γ, η, τ, w_T and the scheme of w_s and w_c."""
    return {
        "iterations": iterations,
        "gamma": gamma,
        "rule": DDIM(eta),
        "grid": DDPMUniform(50, t_end),
        "terminal_weight": terminal_weight,
        "weighting": weighting,
        "start": "guided",
        "clip": 1.0,
    }


@dataclass(frozen=True, kw_only=True)
class NDTM(GuidedTransitions[T]):
    """Shifts the state that the network sees, one control in every sampling step.

    Args:
        rule: of the steps; DDIM with η = 0.7.
        weighting: of the two penalties, see the module. Presets were tuned by the authors with
            their code: "ddim_released" for those that say "ddim".
    """

    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "ffhq-sr4": _row(5, 1.0, 0.7, 400, 50.0, "ddim_released"),
        "ffhq-inpaint": _row(2, 4.0, 0.2, 500, 1.0, "zero"),
        "ffhq-nonlinear-deblur": _row(5, 5.0, 0.1, 400, 1.0, "zero"),
        "imagenet-sr4": _row(2, 2.0, 0.1, 600, 50.0, "ddim_released"),
        "imagenet-inpaint": _row(2, 4.0, 0.0, 600, 50.0, "ddim_released"),
        "imagenet-nonlinear-deblur": _row(2, 4.0, 0.1, 600, 50.0, "ddim_released"),
    }
    needs_signal: ClassVar[bool] = True

    grid: Grid = field(default_factory=DDPMUniform)
    clock: Path | None = field(default_factory=ddpm)
    rule: StepRule = field(default_factory=lambda: DDIM(0.7))
    weighting: Weighting = "ddim"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule)
        if self.weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting: expected one of {get_args(Weighting)}, got {self.weighting!r}"
            )

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        levels, path = self.grid(prior.flow.path), prior.flow.path
        transition_weights(self.weighting, self.rule, levels[0], levels[1], self.gamma, path)
        super().check(prior, cost, x0)

    def weights(self, run: Run, step: int) -> Weights:
        path = run.prior.flow.path
        return transition_weights(self.weighting, self.rule, *run.at(step), self.gamma, path)

    def respond(self, run: Run, x: Tensor, u: Tensor, step: int, free: Response | None) -> Response:
        moved = x + self.gamma * u
        seen = run.predict(moved, run.levels[step])
        return Response(seen.data, seen.noise, moved)

    def land(self, run: Run, response: Response, step: int) -> Tensor:
        return run.move(response.data, response.quantity, step)
