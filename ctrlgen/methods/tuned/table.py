"""Every method with settings for an inverse problem: from a name to what is built for a case.

`evaluations` are those of the network, forward passes; most methods make as many backward ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ctrlgen.methods import (
    CTDTM,
    DAPS,
    DDRM,
    DPS,
    FTM,
    LGDMC,
    MPGD,
    NDTM,
    OTODE,
    TFG,
    UGD,
    AncestralPiGDM,
    CPiGDM,
    CPiGFM,
    DFlow,
    DMPlug,
    FlowGrad,
    FlowPriors,
    FreeDoM,
    Method,
    OCFlow,
    OptimalControl,
    PiGDM,
    PnPFlow,
    REDDiff,
)
from ctrlgen.methods.catalogue import spelled
from ctrlgen.methods.tuned import optimised, stepped
from ctrlgen.methods.tuned.case import Case
from ctrlgen.methods.tuned.optimised import ROLLOUT, STARTED
from ctrlgen.methods.tuned.stepped import ODE_STEPS
from ctrlgen.operators.base import LinearOperator

__all__ = ["METHODS", "Entry", "build", "named"]


@dataclass(frozen=True)
class Entry:
    """One method with its settings.

    Attributes:
        kind: its class.
        make: settings for a case and a number of its steps or iterations; those of the options
            that it takes by name.
        evaluations: of the network per sample, by default; None where a target ends the run.
        each: evaluations that a step or an iteration takes, on average.
        first: evaluations before the first of them.
        linear: whether the operator must be linear.
        options: what it takes of "init", "iterations" and "target".
    """

    kind: Callable[..., Method]
    make: Callable[..., dict[str, Any]]
    evaluations: int | None
    each: float = 1
    first: int = 0
    linear: bool = False
    options: tuple[str, ...] = ()


def named(name: str) -> str:
    """The key of METHODS that a name means, in any case, with or without hyphens.

    Raises:
        UnknownName: if it means none.
    """
    return spelled(name, METHODS)


def build(
    name: str,
    case: Case,
    *,
    evaluations: int | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Method:
    """The method of a name for a case.

    Args:
        name: see `named`.
        case: what it has to do.
        evaluations: of the network per sample, at most; the method's own number by default.
        device: of the run; the network's by default.
        **options: "init", a key of `optimised.INITIALIZERS`; "iterations" of the optimiser;
            "target", a PSNR of the measurement in dB at which a sample stops; None for the
            method's own.

    Raises:
        UnknownName: for a name that is not known.
        ValueError: for a case that the method cannot do, an option that it does not take, or one
            that is out of range; before any compute.
    """
    key = named(name)
    entry = METHODS[key]
    if entry.linear and not isinstance(case.operator, LinearOperator):
        raise ValueError(
            f"method: {key} needs a linear operator, got {type(case.operator).__name__}"
        )
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in entry.options:
            able = ", ".join(k for k, e in METHODS.items() if option in e.options)
            raise ValueError(f"{option}: {key} has none; it is for {able}")
    spent = entry.evaluations if evaluations is None else evaluations
    least = math.ceil(entry.first + entry.each)
    if spent is not None and spent < least:
        raise ValueError(f"evaluations: expected at least {least} for {key}, got {spent}")
    steps = None if spent is None else int((spent - entry.first) / entry.each)
    return entry.kind(**entry.make(case, steps, **given), device=device)


_STOP = ("iterations", "target")
_SOLVE = 2 * ROLLOUT  # there and back

METHODS: dict[str, Entry] = {
    # L-BFGS on six evaluations, after a guided start of thirty
    "d-flow": Entry(DFlow, optimised.dflow, None, 6, 30, options=("init", *_STOP)),
    "dmplug": Entry(DMPlug, optimised.dmplug, 300, 3, 3, options=_STOP),
    "optimal-control": Entry(
        OptimalControl, optimised.optimal_control, 96, ROLLOUT, STARTED + ROLLOUT, options=_STOP
    ),
    "flowgrad": Entry(FlowGrad, optimised.flowgrad, 160, _SOLVE, STARTED + _SOLVE, options=_STOP),
    "oc-flow": Entry(OCFlow, optimised.ocflow, 160, _SOLVE, STARTED + _SOLVE, options=_STOP),
    "ndtm": Entry(NDTM, stepped.ndtm, 100, 4),
    "ctdtm": Entry(CTDTM, stepped.ctdtm, 100),
    "ftm": Entry(FTM, stepped.ftm, 100, 4),
    "pigdm": Entry(PiGDM, stepped.pigdm, 20, linear=True),
    "ancestral-pigdm": Entry(AncestralPiGDM, stepped.ancestral_pigdm, 50, linear=True),
    "c-pigdm": Entry(CPiGDM, stepped.cpigdm, 20, linear=True),
    "ot-ode": Entry(OTODE, stepped.otode, 50, linear=True),
    "c-pigfm": Entry(CPiGFM, stepped.cpigfm, 20, linear=True),
    "ddrm": Entry(DDRM, stepped.ddrm, 20, linear=True),
    "dps": Entry(DPS, stepped.dps, 100),
    "lgd-mc": Entry(LGDMC, stepped.lgdmc, 100),
    "mpgd": Entry(MPGD, stepped.mpgd, 100),
    # three of ten steps are made twice
    "freedom": Entry(FreeDoM, stepped.freedom, 100, 1.3, 1),
    "ugd": Entry(UGD, stepped.ugd, 100, 2),
    "tfg": Entry(TFG, stepped.tfg, 100),
    "red-diff": Entry(REDDiff, stepped.reddiff, 100),
    "flow-priors": Entry(FlowPriors, stepped.flow_priors, 100, 2),
    "pnp-flow": Entry(PnPFlow, stepped.pnp_flow, 100),
    "daps": Entry(DAPS, stepped.daps, 100, ODE_STEPS),
}
