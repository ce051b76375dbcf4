"""Settings of the methods that minimise to a target: D-Flow, DMPlug, steered trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.methods.source.dflow import DFlow
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.methods.tuned.case import Case, Settings
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.sampling.grids import Uniform
from ctrlgen.solvers import Midpoint

__all__ = ["INITIALIZERS", "ROLLOUT", "STARTED"]

_mean = partial(GuidedStart, temperature=0.0, start=0.3)

INITIALIZERS: dict[str, Callable[[], Initializer]] = {
    "guided": GuidedStart,
    "mean": _mean,
    "refined": lambda: Refined(_mean()),
    "secants": MultiSecant,
    "blend": Blend,
    "source": SourceSample,
}

ROLLOUT = 8
"""Steps of the sampler whose whole trajectory is steered."""
_START = (6, 4)  # guided steps of its start, and midpoint steps that solve it back
STARTED = _START[0] + 2 * _START[1]
"""Evaluations of that start."""

_PRESETS = {"inpaint": "inpaint", "upsample": "sr2", "deblur": "deblur", "denoise": "denoise"}


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
        "target": _goal(case, target, -float(preset.target)),
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
