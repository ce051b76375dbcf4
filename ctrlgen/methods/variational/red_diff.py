r"""RED-diff: the prior as a regulariser by denoising (Mardani et al., arXiv 2305.04391).

One estimate μ of the datum descends a cost whose prior part is that of the noise level t, for t
from noisy to clean, one step of Adam each:

    x_t = αν + σε,     ∇ = ∇fit(ν) + λ_t (ε̂(x_t, t) − ε),     λ_t = λ w(σ/α),     ν = μ + σ_x0 n.

ε̂ − ε has the mean −σ s(x_t), the pull of the noised prior, and no gradient passes through the
network. With m measured entries and d degrees of freedom of a state,

    form      fit                        prior
    "mean"    ½ ‖H(μ) − y‖²/m            λ_t (ε̂ − ε)/d      the authors' code for pixels
    "sum"     ‖H(decode(μ)) − y‖²        λ_t (ε̂ − ε)        for latents (arXiv 2402.14017, eq 64)
    "cost"    C(decode(μ))               λ_t (ε̂ − ε)        any cost

    weighting   "linear" r,  "sqrt" √r,  "square" r²,  "log" log(1 + r),  "clip" min(r, 1),
                "2by3" r^{2/3},  "const" 1,            of r = σ/α

Most often σ_x0 = 0 and ν is μ. The result is μ itself. On straight lines λ_t = λ(1 − t)/t, so t
starts above 0. One evaluation of the network a step, no vjp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.stepping import Run, Start, SteppedMethod
from ctrlgen.methods.variational.fidelity import check_fidelity, proxy, slope
from ctrlgen.optimizers import Adam
from ctrlgen.optimizers.first_order import FirstOrder
from ctrlgen.optimizers.stepwise import Stepwise
from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like
from ctrlgen.sampling.grids import DDPMUniform, Grid, Uniform, ddpm

__all__ = ["Form", "REDDiff", "Weighting"]

Form = Literal["mean", "sum", "cost"]
Weighting = Literal["linear", "sqrt", "square", "log", "clip", "2by3", "const"]

_WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda r: r,
    "sqrt": math.sqrt,
    "square": lambda r: r**2,
    "log": math.log1p,
    "clip": lambda r: min(r, 1.0),
    "2by3": lambda r: r ** (2 / 3),
    "const": lambda r: 1.0,
}


def _adam(learning_rate: float) -> Adam:
    return Adam(learning_rate=learning_rate, betas=(0.9, 0.99))


def _baseline(weight: float, dispersion: float = 0.0) -> dict[str, Any]:
    """As NDTM's authors ran it (arXiv 2502.03686, Table 6)."""
    return {
        "grid": DDPMUniform(50),
        "optimizer": _adam(0.5),
        "weight": weight,
        "dispersion": dispersion,
    }


def _latent(learning_rate: float, weight: float) -> dict[str, Any]:
    return {
        "form": "sum",
        "weight": weight,
        "optimizer": _adam(learning_rate),
        "clock": CondOT(),
        "grid": Uniform(100, start=0.02),
    }


@dataclass(frozen=True, kw_only=True)
class REDDiff(SteppedMethod[Stepwise]):
    """Descends fit and noised prior together, one noise level after the other.

    Args:
        start: "guided" for μ = H†y, "source" for a draw from the source.
        form: of fit and prior, see the module.
        weight: λ >= 0.
        weighting: of λ over the noise levels, see the module.
        optimizer: of μ; its stopping rules play no part.
        dispersion: σ_x0 >= 0 of the noise n, fresh in every step, under which fit and prior see μ.

    Raises:
        TypeError: for an optimizer that is not of first order.
        ValueError: for numbers out of range or names that are not known.
    """

    control: ClassVar[str] = "denoised state"
    needs: ClassVar[str] = "a gradient; a measurement, or form='cost'"
    needs_signal: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "image": {"grid": DDPMUniform(1000), "optimizer": _adam(0.1)},
        "image-100": {"grid": DDPMUniform(100), "optimizer": _adam(0.5)},
        "ndtm-baseline-ffhq-sr4": _baseline(1.0, 1e-4),
        "ndtm-baseline-ffhq-inpaint": _baseline(0.25),
        "ndtm-baseline-ffhq-nonlinear-deblur": _baseline(0.25),
        "ndtm-baseline-imagenet-sr4": _baseline(0.4, 1e-4),
        "ndtm-baseline-imagenet-inpaint": _baseline(0.25),
        "ndtm-baseline-imagenet-nonlinear-deblur": _baseline(0.25, 1e-4),
        "latent": _latent(0.25, 0.25),
        "audio": _latent(0.05, 0.5),
    }
    """The authors' configuration and README, NDTM's baselines, and D-Flow's for latents."""

    grid: Grid = field(default_factory=lambda: DDPMUniform(100))
    clock: Path | None = field(default_factory=ddpm)
    start: Start = "guided"
    form: Form = "mean"
    weight: float = 0.25
    weighting: Weighting = "linear"
    optimizer: FirstOrder = field(default_factory=lambda: _adam(0.1))
    dispersion: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.optimizer, FirstOrder):
            raise TypeError(f"optimizer: expected Adam or GradientDescent, got {self.optimizer!r}")
        Stepwise(self.optimizer, torch.zeros(1, 1))  # refuses schedules
        for name, names in (("form", get_args(Form)), ("weighting", get_args(Weighting))):
            if getattr(self, name) not in names:
                raise ValueError(f"{name}: expected one of {names}, got {getattr(self, name)!r}")
        for name in ("weight", "dispersion"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        if self.form != "cost":
            try:
                check_fidelity("squared", type(self).__name__, cost)
            except ValueError as error:
                raise ValueError(
                    f"cost: REDDiff with form={self.form!r} needs one with a measurement (operator "
                    "and y); form='cost' takes any cost"
                ) from error
        super().check(prior, cost, x0)

    def first_state(self, run: Run[Stepwise], z: Tensor) -> Tensor:
        return z if self.start == "source" else proxy(run, z)

    def begin(self, run: Run[Stepwise], z: Tensor) -> Stepwise:
        return Stepwise(self.optimizer, z)

    def update(self, run: Run[Stepwise], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        gradient, cost = self.gradient(run, x, step)
        return run.prior.source.project(run.state(x, gradient)), cost

    def gradient(self, run: Run[Stepwise], mu: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """∇ of the module's formula, shape of μ (B, *), and the cost of ν, shape (B,)."""
        t = run.levels[step]
        weight = self.weight * _WEIGHTS[self.weighting](t.ratio)
        centre = mu
        if self.dispersion:
            centre = mu + self.dispersion * run.noise(step, mu, 1)
        fit, cost = slope(run, centre, "cost" if self.form == "cost" else "squared")
        assert cost is not None
        with torch.no_grad():
            noise = run.joined(step, mu)
            pull = run.predict(t.alpha * centre + t.sigma * noise, t).noise - noise
            if self.form == "mean":
                assert run.measurement is not None
                operator, y = run.measurement.operator, run.measurement.y.to(mu)
                fit = fit / expand_like(operator.measured(y).to(mu), mu)
                pull = pull / expand_like(run.prior.source.degrees_of_freedom(mu), mu)
            elif self.form == "sum":
                fit = 2 * fit
            return fit + weight * pull, cost
