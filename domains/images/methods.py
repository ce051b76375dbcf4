"""Every method as image tasks use it: one table, from a name to what is built for a task.

    cost form   cost
    "psnr"      −PSNR of the measurement, in dB: of what is optimised to a target, and of methods
                that read the measurement alone
    "squared"   ‖Hx − y‖²: of methods that weigh the cost against something else

`evaluations` are those of the network, forward passes; most methods make as many backward ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.costs.measurement import MeasurementCost
from ctrlgen.domains.images import settings
from ctrlgen.domains.images.settings import ODE_STEPS, ROLLOUT, STARTED, Case
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
from ctrlgen.operators.base import LinearOperator, Operator
from ctrlgen.rows.errors import UnknownName

__all__ = [
    "METHODS",
    "Case",
    "Comparison",
    "Entry",
    "MeasurementCost",
    "build",
    "cost_for",
    "named",
    "psnr_of",
]

Comparison = Literal["measurement", "pseudo-inverse"]


@dataclass(frozen=True)
class Entry:
    """One method as image tasks use it.

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
    for key in METHODS:
        if key.replace("-", "") == name.lower().replace("-", "").replace("_", ""):
            return key
    raise UnknownName("method", name, METHODS)


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
        **options: "init", a key of `settings.INITIALIZERS`; "iterations" of the optimiser;
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


def cost_for(
    method: Method,
    operator: Operator,
    y: Tensor,
    sigma: float = 0.0,
    compare: Comparison = "measurement",
) -> MeasurementCost:
    """The cost of a measurement in the form that a method declares (`Method.cost_form`).

    Args:
        method: from `build`, or of any class.
        operator: H.
        y: measurements, shape (B, *measurement).
        sigma: σ_y in the units of y.
        compare: where −PSNR is taken: Hx with y, or H†Hx with H†y as D-Flow's deblurring does
            (arXiv 2402.14017, Table 6, also at noise 0.05).

    Raises:
        ValueError: for "pseudo-inverse" with a method that does not descend −PSNR to a target.
    """
    if compare == "pseudo-inverse":
        able = [name for name, entry in METHODS.items() if "target" in entry.options]
        if not hasattr(method, "target"):
            raise ValueError(
                f"compare: 'pseudo-inverse' is for {', '.join(able)}, got {type(method).__name__}"
            )
        return NegativePSNR(operator, y, sigma, projected=True)
    if compare != "measurement":
        raise ValueError(f"compare: expected one of {get_args(Comparison)}, got {compare!r}")
    kind = SquaredError if method.cost_form == "squared" else NegativePSNR
    return kind(operator, y, sigma)


def psnr_of(cost: MeasurementCost, values: Tensor) -> Tensor:
    """PSNR of what a cost of `cost_for` compares in dB, from its values (..., B)."""
    if isinstance(cost, NegativePSNR):
        return -values
    mse = values / cost.operator.measured(cost.y).to(values)
    return 20 * math.log10(2) - 10 * torch.log10(mse + 1e-12)


_STOP = ("iterations", "target")
_SOLVE = 2 * ROLLOUT  # there and back

METHODS: dict[str, Entry] = {
    # L-BFGS on six evaluations, after a guided start of thirty
    "d-flow": Entry(DFlow, settings.dflow, None, 6, 30, options=("init", *_STOP)),
    "dmplug": Entry(DMPlug, settings.dmplug, 300, 3, 3, options=_STOP),
    "optimal-control": Entry(
        OptimalControl, settings.optimal_control, 96, ROLLOUT, STARTED + ROLLOUT, options=_STOP
    ),
    "flowgrad": Entry(FlowGrad, settings.flowgrad, 160, _SOLVE, STARTED + _SOLVE, options=_STOP),
    "oc-flow": Entry(OCFlow, settings.ocflow, 160, _SOLVE, STARTED + _SOLVE, options=_STOP),
    "ndtm": Entry(NDTM, settings.ndtm, 100, 4),
    "ctdtm": Entry(CTDTM, settings.ctdtm, 100),
    "ftm": Entry(FTM, settings.ftm, 100, 4),
    "pigdm": Entry(PiGDM, settings.pigdm, 20, linear=True),
    "ancestral-pigdm": Entry(AncestralPiGDM, settings.ancestral_pigdm, 50, linear=True),
    "c-pigdm": Entry(CPiGDM, settings.cpigdm, 20, linear=True),
    "ot-ode": Entry(OTODE, settings.otode, 50, linear=True),
    "c-pigfm": Entry(CPiGFM, settings.cpigfm, 20, linear=True),
    "ddrm": Entry(DDRM, settings.ddrm, 20, linear=True),
    "dps": Entry(DPS, settings.dps, 100),
    "lgd-mc": Entry(LGDMC, settings.lgdmc, 100),
    "mpgd": Entry(MPGD, settings.mpgd, 100),
    # three of ten steps are made twice
    "freedom": Entry(FreeDoM, settings.freedom, 100, 1.3, 1),
    "ugd": Entry(UGD, settings.ugd, 100, 2),
    "tfg": Entry(TFG, settings.tfg, 100),
    "red-diff": Entry(REDDiff, settings.reddiff, 100),
    "flow-priors": Entry(FlowPriors, settings.flow_priors, 100, 2),
    "pnp-flow": Entry(PnPFlow, settings.pnp_flow, 100),
    "daps": Entry(DAPS, settings.daps, 100, ODE_STEPS),
}
