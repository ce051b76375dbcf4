r"""Guidance by name: special cases of `TFG` with their papers' settings, and classifier guidance.

    DPS      x_s ← x_s − ζ ∇_{x_t} ‖y − Hx̂(x_t)‖                 original code; energy "norm"
             x_s ← x_s − ζ ∇_{x_t} ‖y − Hx̂‖² / ‖y − Hx̂‖          the paper's formula, twice as far;
                                                                  energy "ratio"
    LGDMC    x_s ← x_s + ζ ∇_{x_t} log (1/M) Σ exp(−C(x̂ + r_t δ_m)),  r_t = σ/√(α² + σ²)
    MPGD     x̂ ← x̂ − (c/√ᾱ_t) ∇_x̂ ‖y − Hx̂‖,  then the step with the original ε̂
    FreeDoM  x_s ← x_s − c √ᾱ_t ∇_{x_t} C(x̂),  steps repeated from fresh noise ("time travel")
    UGD      ε̂ ← ε̂ − ρ σ_t ∇_{x_t} log p − (α_t/σ_t) Δx̂,  then the step from that ε̂; Δx̂ by ascent
             steps of μ from x̂ (forward and backward guidance), with recurrences

and, with the score of the label added to the prior's (Dhariwal & Nichol, arXiv 2105.05233),

    ClassifierGuidance   s ← s + w ∇_{x_t} log p(y|x_t),   i.e.   ε̂ ← ε̂ − wσ∇,   x̂ ← x̂ + w(σ²/α)∇,

exact for w = 1 where log p(y|x_t) is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ctrlgen.methods.base import CostForm, CostLike
from ctrlgen.methods.gradients.schedules import Schedule
from ctrlgen.methods.gradients.tfg import TFG, Energy, Enters
from ctrlgen.methods.stepping import RuledMethod, Run
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import DDPMUniform, Grid, ddpm
from ctrlgen.sampling.steps import DDIM, ShareStep, StepRule

__all__ = ["DPS", "LGDMC", "MPGD", "UGD", "ClassifierGuidance", "FreeDoM"]

_DPS = {"clip": 1.0}
_NDTM = {"grid": DDPMUniform(1000), "rule": DDIM(0.5), "start": "guided", "energy": "ratio"}


@dataclass(frozen=True, kw_only=True)
class DPS(TFG):
    """Diffusion posterior sampling: a gradient of the residual's norm after every step.

    Args:
        rho: length of the step along the gradient of ‖Hx̂ − y‖ after every step of the rule; large
            ones leave the data, small ones the measurement.
        energy: "norm", whose gradient is of unit scale near a solution; "cost" for the square.
        grid: noise levels, 1000 in the paper; fewer ask for a larger rho.
    """

    control: ClassVar[str] = "state, by gradients"
    cost_form: ClassVar[CostForm] = "psnr"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sr4": {"rho": 0.3, **_DPS},
        "gaussian-deblur": {"rho": 0.3, **_DPS},
        "motion-deblur": {"rho": 0.3, **_DPS},
        "inpaint": {"rho": 0.5, **_DPS},
        "phase-retrieval": {"rho": 1.0, **_DPS},
        "nonlinear-deblur": {"rho": 0.3, **_DPS},
        "ndtm-baseline-sr4": {"rho": 1.0, **_NDTM},
        "ndtm-baseline-inpaint": {"rho": 1.0, **_NDTM},
        "ndtm-baseline-nonlinear-deblur": {"rho": 0.3, **_NDTM},
        "ndtm-baseline-imagenet-nonlinear-deblur": {"rho": 1.0, **_NDTM},
    }
    """The original code's, and those of arXiv 2502.03686 (Table 5), whose code does not clip: FFHQ,
    and with another strength on ImageNet for the non-linear blur."""

    grid: Grid = field(default_factory=lambda: DDPMUniform(1000))
    rho: float = 0.5
    mu: float = 0.0
    rho_schedule: Schedule = "constant"
    energy: Energy = "norm"
    carry: bool = False


@dataclass(frozen=True, kw_only=True)
class LGDMC(TFG):
    """Loss-guided diffusion: DPS on a Monte-Carlo estimate of the cost's expectation.

    Args:
        rho: strength at x_t.
        gamma: width of the Gaussian around x̂ over which the cost is averaged, times √(1 − ᾱ_t).
        draws: samples of that Gaussian in every step; only the cost is evaluated on them.
    """

    control: ClassVar[str] = "state, by gradients"
    cost_form: ClassVar[CostForm] = "psnr"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}

    rho: float = 1.0
    mu: float = 0.0
    rho_schedule: Schedule = "constant"
    gamma: float = 1.0
    draws: int = 10
    carry: bool = False


@dataclass(frozen=True, kw_only=True)
class MPGD(TFG):
    """Manifold-preserving guidance: gradients at the denoised state, none through the network.

    Args:
        mu: length of the step along the gradient at x̂, which passes through no network: a step
            costs one forward pass.
        mu_schedule: "inverse" divides it by √ᾱ_t, for larger steps while noise is large.
        manifold: decode(encode(·)) of an autoencoder, to stay near data; none by default.
    """

    control: ClassVar[str] = "denoised state, by gradients"
    cost_form: ClassVar[CostForm] = "psnr"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}

    rho: float = 0.0
    mu: float = 1.0
    mu_schedule: Schedule = "inverse"
    energy: Energy = "norm"


def _face(scale: float, until: float) -> dict[str, Any]:
    """The authors' sampler for faces: shares of old and new noise, guided above an index."""
    return {
        "rho": scale,
        "rule": ShareStep(0.5),
        "guide_within": (0.0, until),
        "energy": "norm",
        "recurrences": 1,
    }


@dataclass(frozen=True, kw_only=True)
class FreeDoM(TFG):
    """Energy guidance with time travel: steps in the middle of the run are repeated.

    Args:
        rho: strength at x_t, times √ᾱ_t.
        recurrences: how often each step of the middle of the run is repeated, with fresh noise.
        recur_within: that middle, as shares of the run.
    """

    control: ClassVar[str] = "state, by gradients"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "face-segmentation": _face(0.2, 0.79),
        "face-sketch": _face(20.0, 0.89),
        "face-landmarks": _face(500.0, 0.79),
        "face-identity": _face(100.0, 0.89),
        "clip": {
            "rho": 0.02,
            "rho_schedule": "constant",
            "relative": True,
            "energy": "norm",
            "recurrences": 10,
            "recur_within": (0.19, 0.5),
        },
    }
    """The authors' code. Guidance of faces stops at the index 200 or 100 of 1000; text on ImageNet
    recurs from 800 to 500."""

    rho: float = 1.0
    mu: float = 0.0
    rho_schedule: Schedule = "signal"
    recurrences: int = 2
    recur_within: tuple[float, float] = (0.2, 0.5)
    carry: bool = False


@dataclass(frozen=True, kw_only=True)
class UGD(TFG):
    """Universal guidance: forward and backward guidance of the noise, with recurrences.

    Args:
        rho: forward guidance, by a gradient through the network.
        mu: backward guidance, by steps at x̂.
        iterations: of those steps.
        recurrences: of every step, with fresh noise.
    """

    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}

    rho: float = 1.0
    mu: float = 1.0
    rho_schedule: Schedule = "constant"
    mu_schedule: Schedule = "constant"
    iterations: int = 4
    recurrences: int = 2
    enters: Enters = "noise"


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidance(RuledMethod):
    """Adds the score of a classifier to the prior's.

    One evaluation a step, and one vjp where the cost is taken at the denoised state.

    Args:
        scale: w >= 0.
        at: where −log p(y|x_t) comes from. "state": the cost has a method `noisy(x, t)` of states
            and the time on this method's clock, as a classifier trained on noisy data does.
            "denoised": the cost of x̂(x_t), which any cost has.

    Raises:
        ValueError: for a negative scale or another place.
    """

    control: ClassVar[str] = "score"
    needs: ClassVar[str] = "a gradient; at noisy states: noisy(x, t)"
    needs_signal: ClassVar[bool] = True

    grid: Grid = field(default_factory=lambda: DDPMUniform(100))
    clock: Path | None = field(default_factory=ddpm)
    rule: StepRule = field(default_factory=lambda: DDIM(1.0))
    scale: float = 1.0
    at: Literal["state", "denoised"] = "denoised"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale >= 0:
            raise ValueError(f"scale: expected a number >= 0, got {self.scale}")
        if self.at not in ("state", "denoised"):
            raise ValueError(f"at: expected 'state' or 'denoised', got {self.at!r}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        if self.at == "state" and not callable(getattr(cost, "noisy", None)):
            raise ValueError(
                f"cost: ClassifierGuidance at 'state' needs noisy(x, t) of the cost, got {cost!r}; "
                "use at='denoised'"
            )
        super().check(prior, cost, x0)

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = run.levels[step]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.at == "state":
                with torch.no_grad():
                    seen = run.predict(x, t)
                value = run.cost.noisy(x, t.time)  # type: ignore[attr-defined]
            else:
                seen = run.predict(x, t)
                value = run.value(run.clipped(seen.data))
            (slope,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            data = run.clipped(seen.data.detach() - self.scale * t.sigma**2 / t.alpha * slope)
            # ε̂ + wσ∇ without a bound; with one, a shift that was cut off must not come back in ε̂.
            noise = (x - t.alpha * data) / t.sigma
            return run.move(data, noise, step), run.value(data)
