r"""Settings of every method for a case of image restoration, by numbers of steps or iterations.

They are for priors of some thirty pixels a side at some tens of evaluations of the network a
sample; the presets of `ctrlgen.methods` are their papers', for large images and up to thousands.
Three rules are common to them:

- where pixels are hidden H†y says nothing of the image there, and a run starts from noise;
- with noise σ in y, ‖Hx − y‖² weighs no more than a share of 1/σ², its weight in −log p(y|x);
- a gradient of ‖Hx − y‖² is as large as H's largest singular value squared, 1/f² for a reduction
  by f, which the strength of a step makes up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ctrlgen.methods import DFlow
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.operators.base import LinearOperator, Operator
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.sampling.grids import Karras, Uniform
from ctrlgen.sampling.steps import DDIM
from ctrlgen.solvers import Midpoint

__all__ = ["INITIALIZERS", "ODE_STEPS", "ROLLOUT", "STARTED", "Case"]

Settings = dict[str, Any]

_mean = partial(GuidedStart, temperature=0.0, start=0.3)

INITIALIZERS: dict[str, Callable[[], Initializer]] = {
    "guided": GuidedStart,
    "mean": _mean,
    "refined": lambda: Refined(_mean()),
    "blend": Blend,
    "source": SourceSample,
}

ROLLOUT = 8
"""Steps of the sampler whose whole trajectory is steered."""
_START = (6, 4)  # guided steps of its start, and midpoint steps that solve it back
STARTED = _START[0] + 2 * _START[1]
"""Evaluations of that start."""
ODE_STEPS = 4
"""Evaluations of DAPS at every level."""

_PRESETS = {"inpaint": "inpaint", "upsample": "sr2", "deblur": "deblur", "denoise": "denoise"}


@dataclass(frozen=True)
class Case:
    """What a method has to do.

    Attributes:
        task: "inpaint", "upsample", "deblur", "denoise", or another word for what is none of them.
        operator: H.
        noise: σ_y as stated, in [−1, 1].
        sigma: σ_y with the rounding of the file.
    """

    task: str
    operator: Operator
    noise: float = 0.0
    sigma: float = 0.0

    @property
    def guided(self) -> bool:
        """Whether H†y resembles the image."""
        return self.task in ("upsample", "deblur", "denoise")

    @property
    def near(self) -> bool:
        """Whether a guided start can be had: a linear H, or one with a pseudo-inverse."""
        kind = type(self.operator)
        return isinstance(self.operator, LinearOperator) or kind.pinv is not Operator.pinv

    @property
    def strength(self) -> float:
        """One over the largest singular value of H, squared."""
        return float(getattr(self.operator, "factor", 1)) ** 2

    def weight(self, most: float, share: float = 0.05) -> float:
        """Of ‖Hx − y‖²: `share`/σ², and at most `most`."""
        return min(most, share / self.sigma**2) if self.sigma > 0 else most


# ---------------------------------------------------------------- optimisers, to a target


def _goal(case: Case, target: float | None, usual: float) -> float:
    """−PSNR at which a sample stops: the usual one, or where the residual is the noise."""
    if target is not None:
        if not math.isfinite(target):
            raise ValueError(f"target: expected a PSNR in dB, got {target}")
        return -target
    goal = usual if case.noise == 0 else math.inf
    if case.sigma > 0:
        goal = min(goal, 20 * math.log10(2 / case.sigma))
    return -goal


def dflow(
    case: Case,
    steps: int | None,
    init: str | None = None,
    iterations: int = 400,
    target: float | None = None,
) -> Settings:
    init = ("guided" if case.near else "source") if init is None else init
    if init not in INITIALIZERS:
        raise ValueError(f"init: expected one of {', '.join(INITIALIZERS)}, got {init!r}")
    name = _PRESETS.get(case.task, "deblur")
    if case.noise > 0 and name != "denoise":
        name += "-noisy"
    preset = DFlow.preset(name)
    assert preset.target is not None
    optimizer = LBFGS(max_iterations=iterations)
    if steps is not None:
        optimizer = replace(optimizer, max_evaluations=steps)
    return {
        "regularizer": preset.regularizer,
        "initializer": INITIALIZERS[init](),
        "optimizer": optimizer,
        "target": _goal(case, target, -preset.target),
    }


def dmplug(
    case: Case, steps: int, iterations: int | None = None, target: float | None = None
) -> Settings:
    count = steps if iterations is None else iterations
    return {
        "grid": Uniform(3),
        "optimizer": Adam(learning_rate=0.1, max_iterations=count),
        "target": _goal(case, target, 45),
        "clip": 1.0,
    }


def _steered(
    case: Case, steps: int, iterations: int | None, target: float | None
) -> tuple[Settings, int, float]:
    """Common settings of a steered trajectory, iterations, and the change of a state by one.

    The steps of all controls add up. Next to a solution each must be small; from noise, where no
    guided start is known, the trajectory has far to go.
    """
    start = _mean(steps=_START[0], solver=Midpoint(_START[1])) if case.near else SourceSample()
    shared = {"grid": Uniform(ROLLOUT), "initializer": start, "target": _goal(case, target, 45)}
    pace = 0.06 / ROLLOUT if case.near else 0.05
    return shared, steps if iterations is None else iterations, pace


def optimal_control(
    case: Case, steps: int, iterations: int | None = None, target: float | None = None
) -> Settings:
    shared, count, pace = _steered(case, steps, iterations, target)
    rest = {"rank": 0, "update": "adam", "learning_rate": pace, "iterations": count}
    return {**shared, **rest}


def flowgrad(
    case: Case, steps: int, iterations: int | None = None, target: float | None = None
) -> Settings:
    shared, count, pace = _steered(case, steps, iterations, target)
    # groups of straight steps would make the gradient inexact, and a guided start needs it exact
    optimizer = Adam(learning_rate=pace, max_iterations=count)
    return {**shared, "optimizer": optimizer, "threshold": None}


def ocflow(
    case: Case, steps: int, iterations: int | None = None, target: float | None = None
) -> Settings:
    shared, count, pace = _steered(case, steps, iterations, target)
    # a control of the velocity acts by the width of its step
    optimizer = Adam(learning_rate=pace * ROLLOUT, max_iterations=count)
    return {**shared, "optimizer": optimizer, "penalty": 0.01}


# ---------------------------------------------------------------- a control in every step


def _down(case: Case, steps: int, start: float = 0.6) -> Settings:
    """Down the noise levels: from H†y at a time of its clock, or all the way from noise."""
    if case.guided:
        return {"grid": Uniform(steps, start), "start": "guided", "clip": 1.0}
    return {"grid": Uniform(steps), "clip": 1.0}


def _controlled(case: Case, steps: int, start: float = 0.6) -> Settings:
    return {
        **_down(case, steps, start),
        "iterations": 2,
        "gamma": 4.0,
        "terminal_weight": case.weight(50.0),
        "optimizer": Adam(learning_rate=0.02 if case.guided else 0.1),  # noise has far to go
    }


def ndtm(case: Case, steps: int) -> Settings:
    return {**_controlled(case, steps), "rule": DDIM(0.2)}


def ctdtm(case: Case, steps: int) -> Settings:
    # of the score itself: no evaluation in the inner steps, so there may be many
    linear = isinstance(case.operator, LinearOperator)
    return {
        **_controlled(case, steps),
        "rule": DDIM(0.3),
        "mode": "linear",
        "exact": linear,
        "gamma": 1.0,
        "iterations": 30,
        "terminal_weight": case.weight(1e3, 0.5),
        "optimizer": Adam(learning_rate=0.3),
        "clip": None,  # a bound would end the gradient of a control that overshoots
    }


def ftm(case: Case, steps: int) -> Settings:
    return {**_controlled(case, steps, 0.3), "terminal_weight": case.weight(50.0, 0.005)}


# ---------------------------------------------------------------- analytic guidance


def pigdm(case: Case, steps: int) -> Settings:
    return {"grid": truncated(steps, 0.4 if case.guided else 0.99), "weight": 10.0}


def ancestral_pigdm(case: Case, steps: int) -> Settings:
    return {"grid": Uniform(steps, 0.6 if case.guided else 0.0)}


def cpigdm(case: Case, steps: int) -> Settings:
    return {"grid": truncated(steps, 0.4 if case.guided else 0.9), "weight": 20.0}


def cpigfm(case: Case, steps: int) -> Settings:
    start = {"upsample": 0.2, "deblur": 0.4, "denoise": 0.3}.get(case.task, 0.1)
    return {"grid": Uniform(steps, start)}


def otode(case: Case, steps: int) -> Settings:
    start = {"deblur": 0.4, "denoise": 0.3}.get(case.task, 0.1)
    schedule = "constant" if case.task == "upsample" else "growing"
    return {"grid": Uniform(steps, start), "schedule": schedule}


def ddrm(case: Case, steps: int) -> Settings:
    return {"grid": Uniform(steps), "clip": 1.0}


# ---------------------------------------------------------------- guidance by gradients


def _guided(steps: int, **strengths: Any) -> Settings:
    return {"grid": Uniform(steps), "clip": 1.0, **strengths}


def _pace(case: Case, steps: int, each: float) -> float:
    """Length of a step along a unit gradient: `each` at a hundred steps, more in fewer."""
    return each * math.sqrt(case.strength * 100 / steps)


def dps(case: Case, steps: int) -> Settings:
    return _guided(steps, rho=_pace(case, steps, 2.0))


def lgdmc(case: Case, steps: int) -> Settings:
    return _guided(steps, rho=_pace(case, steps, 2.0), energy="norm", draws=2, gamma=0.3)


def mpgd(case: Case, steps: int) -> Settings:
    return _guided(steps, mu=_pace(case, steps, 1.5))


def freedom(case: Case, steps: int) -> Settings:
    return _guided(steps, rho=case.strength * case.weight(0.8, 0.01))


def ugd(case: Case, steps: int) -> Settings:
    weight = case.strength * case.weight(0.2, 0.001)
    return _guided(steps, rho=4 * weight, mu=weight)


def tfg(case: Case, steps: int) -> Settings:
    weight = case.strength * case.weight(0.2, 0.001)
    return _guided(steps, rho=weight, mu=weight, iterations=4)


# ---------------------------------------------------------------- variational, plug-and-play


def reddiff(case: Case, steps: int) -> Settings:
    return {
        "grid": Uniform(steps),
        "optimizer": Adam(learning_rate=0.1, betas=(0.9, 0.99)),
        "weight": max(0.25, 10 * case.sigma),
        "weighting": "clip",
    }


def flow_priors(case: Case, steps: int) -> Settings:
    return {
        "grid": Uniform(steps, 1e-3),
        "weight": case.weight(1e4, 1.0),
        "optimizer": Adam(learning_rate=0.05),
    }


def pnp_flow(case: Case, steps: int) -> Settings:
    exponent = {"denoise": 0.8, "deblur": 0.01, "upsample": 0.3}.get(case.task, 0.5)
    return {
        "grid": Uniform(steps),
        "exponent": exponent,
        "scale": case.strength,
        "draws": 1,
    }


def daps(case: Case, steps: int) -> Settings:
    noise = max(case.sigma, 0.02)
    linear = isinstance(case.operator, LinearOperator)
    return {
        # Langevin is stable while its rate is below 2r², r the last level
        "grid": Karras(steps, max(0.02, 0.25 * case.sigma), 50.0),
        "ode_steps": ODE_STEPS,
        # enough to meet the measurement; more only spread what it does not see
        "langevin_steps": 12 if linear else 50,
        "noise": noise,
        "rate": 0.5 * case.strength * min(noise, 0.1) ** 2,
        "rate_end": 0.05,
    }
