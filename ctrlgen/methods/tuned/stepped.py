"""Settings of the methods that walk down the noise levels, or relax at each of them."""

from __future__ import annotations

import math
from typing import Any

from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.tuned.case import Case, Settings
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers import Adam
from ctrlgen.sampling.grids import Karras, Uniform
from ctrlgen.sampling.steps import DDIM

__all__ = ["ODE_STEPS"]

ODE_STEPS = 4
"""Evaluations of DAPS at every level."""

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
