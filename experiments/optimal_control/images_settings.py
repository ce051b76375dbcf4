r"""Settings of the methods of `optimal_control.images`, by task and number T of steps of a sampler.

Where a rate or a number of iterations is not the paper's, it was chosen on eight images of MNIST
that are not among those of the results, from two or three values each. From noise the trajectory
ends at another digit than the one that was measured, and gradients of the controls seldom change
it: at the published rate of 5e-3 Adam is far from the measurement after 25 iterations at this size,
at twenty times that rate it comes near.

From the mean of a guided start, 30 evaluations, the controls only have to close what is left of the
residual. Adam then needs a rate small against it, as the steps of all T controls add up; L-BFGS
takes ten to twenty solves; iLQR takes a damping of the size of what its curvature leaves out, 1/σ²
times squared singular values of H. There are 49 of them for x4 super-resolution of a digit and one
for every known pixel in inpainting, all of about one size: low rank pays little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ctrlgen.methods import DPS, FlowGrad, Method, OCFlow, OptimalControl
from ctrlgen.methods.starts import GuidedStart
from ctrlgen.optimizers import LBFGS
from ctrlgen.sampling.grids import DDPMUniform, Respaced, Uniform

__all__ = [
    "COUNTS",
    "FAMILY",
    "METHODS",
    "NOISE",
    "RANDOM",
    "RIVALS",
    "STEPS",
    "SWEPT",
    "VARIANTS",
    "Form",
    "Variant",
]

Form = Literal["norm", "likelihood", "psnr"]

NOISE = 0.05  # σ_y in [-1, 1]
STEPS = 20  # T of the paper's tables
COUNTS = (5, 10, 20, 50)  # T of its figure
MET = 1e9  # a target that any sample meets, so that no control acts


def _warm() -> GuidedStart:
    return GuidedStart(temperature=0.0, start=0.3)


@dataclass(frozen=True)
class Variant:
    """A method as the experiment runs it.

    Attributes:
        title: as printed.
        form: of the cost, see `optimal_control.Misfit`; "psnr" for −PSNR.
        build: from T, the squared inverse of H's largest singular value, and the target at which
            the residual is the noise.
    """

    title: str
    form: Form
    build: Callable[[int, float, float], Method]


def _dps(steps: int, strength: float, target: float) -> Method:
    # the step along a unit gradient that is best at a hundred steps, longer in fewer
    pace = 2 * math.sqrt(100 * strength / steps)
    return DPS(grid=Uniform(steps), clip=1.0, rho=pace)


def _published_dps(steps: int, strength: float, target: float) -> Method:
    name = "sr4" if strength > 1 else "inpaint"
    return DPS.preset(name, grid=DDPMUniform(steps))


def _released(rate: float, passes: int) -> Callable[[int, float, float], Method]:
    """The published variant with another rate; T · iterations is `passes` at any T."""

    def build(steps: int, strength: float, target: float) -> Method:
        return OptimalControl.preset(
            "released",
            grid=Respaced(steps),  # T states, T − 1 steps
            iterations=passes // steps,
            learning_rate=rate,
            target=target,
        )

    return build


def _adam(passes: int) -> Callable[[int, float, float], Method]:
    """Adam on the flow's own clock from the guided mean."""

    def build(steps: int, strength: float, target: float) -> Method:
        return OptimalControl(
            grid=Uniform(steps),
            initializer=_warm(),
            rank=0,
            update="adam",
            penalty=0.0,
            learning_rate=0.06 / steps,  # the steps of all controls add up
            iterations=passes // steps,
            target=target,
        )

    return build


def _iterated(rank: int, **changes: Any) -> Callable[[int, float, float], Method]:
    def build(steps: int, strength: float, target: float) -> Method:
        settings = {"rank": rank, "penalty": 1.0, "damping": 1e3, "iterations": 6, "halvings": 8}
        return OptimalControl(grid=Uniform(steps), target=target, **{**settings, **changes})

    return build


def _by_lbfgs(
    kind: type[FlowGrad] | type[OCFlow], solves: int = 12, **changes: Any
) -> Callable[[int, float, float], Method]:
    """Trajectory control with L-BFGS: gradient descent at the papers' rates goes astray here."""

    def build(steps: int, strength: float, target: float) -> Method:
        optimizer = LBFGS(max_iterations=100, max_evaluations=solves)
        return kind(grid=Uniform(steps), optimizer=optimizer, target=target, **changes)

    return build


_FLOWGRAD: dict[str, Any] = {"threshold": None}  # groups make its gradients inexact
_OCFLOW: dict[str, Any] = {"penalty": 0.01}

VARIANTS: dict[str, Variant] = {
    "dps": Variant("DPS, step by T", "psnr", _dps),
    "dps-published": Variant("DPS, as published", "psnr", _published_dps),
    "released": Variant("optimal control, as released", "norm", _released(5e-3, 1000)),
    "adam": Variant("optimal control, Adam at 0.1", "norm", _released(0.1, 500)),
    "rank-4": Variant("iLQR, rank 4", "likelihood", _iterated(4)),
    "flowgrad": Variant("FlowGrad", "psnr", _by_lbfgs(FlowGrad, **_FLOWGRAD)),
    "flowgrad-long": Variant("FlowGrad, 25 solves", "psnr", _by_lbfgs(FlowGrad, 25, **_FLOWGRAD)),
    "oc-flow": Variant("OC-Flow", "psnr", _by_lbfgs(OCFlow, **_OCFLOW)),
    "start": Variant(
        "guided start",
        "psnr",
        lambda steps, strength, target: OptimalControl(
            grid=Uniform(steps), initializer=_warm(), rank=0, target=MET
        ),
    ),
    "adam-start": Variant("guided start, Adam control", "psnr", _adam(240)),
    **{
        f"rank-{rank}-start": Variant(
            f"guided start, iLQR, rank {rank}", "likelihood", _iterated(rank, initializer=_warm())
        )
        for rank in (0, 1, 4, 16)
    },
    "flowgrad-start": Variant(
        "guided start, FlowGrad", "psnr", _by_lbfgs(FlowGrad, initializer=_warm(), **_FLOWGRAD)
    ),
    "oc-flow-start": Variant(
        "guided start, OC-Flow", "psnr", _by_lbfgs(OCFlow, initializer=_warm(), **_OCFLOW)
    ),
}

RIVALS = ("dps", "dps-published")
FAMILY = tuple(name for name in VARIANTS if name not in (*RIVALS, "start"))
"""What is optimal control, exact or to first order."""

_EVERYWHERE = (*RIVALS, "adam", "flowgrad", "oc-flow", "start", "adam-start", "rank-4-start",
               "flowgrad-start", "oc-flow-start")  # fmt: skip

METHODS: dict[str, tuple[str, ...]] = {
    "sr4": tuple(name for name in VARIANTS if name != "flowgrad-long"),
    "sr2": _EVERYWHERE,
    "inpaint": _EVERYWHERE,
}
"""Rows of the table, by task: the ablations are on the first."""

SWEPT = (*RIVALS, "adam", "start", "adam-start")
"""Rows of the figure over T."""

RANDOM: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("sr4", "inpaint"), (*RIVALS, "adam", "flowgrad-long")
)
"""Rows with a random network, by task; from noise, as a guided start would need a prior."""
