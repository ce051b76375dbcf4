"""Configurations of `published.images`: tasks, and the methods of each at their papers' presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ctrlgen.costs import MeasurementCost
from ctrlgen.costs.problems import Comparison, InverseProblem
from ctrlgen.domains.images.operators import (
    Denoise,
    GaussianBlur,
    Inpainting,
    MotionBlur,
    NonlinearBlur,
    SuperResolution,
)
from ctrlgen.experiments.optimal_control.images import Misfit
from ctrlgen.methods import (
    DAPS,
    DDRM,
    DPS,
    NDTM,
    OTODE,
    CPiGDM,
    DFlow,
    FlowPriors,
    Method,
    OptimalControl,
    PnPFlow,
    REDDiff,
)
from ctrlgen.operators.base import Operator

__all__ = ["CONFIGURATIONS", "TASKS", "Configuration", "Task", "cost_of"]


def cost_of(
    method: Method,
    operator: Operator,
    y: Tensor,
    noise: float,
    compare: Comparison = "measurement",
) -> MeasurementCost:
    """The cost that a preset belongs to: ‖Hx − y‖ for optimal control, else an `InverseProblem`'s.

    Args:
        method: a preset.
        operator: H.
        y: measurements, shape (B, *measurement).
        noise: σ_y.
        compare: of D-Flow on the task; other methods compare the measurement.
    """
    if isinstance(method, OptimalControl):
        return Misfit(operator, y, noise, "norm")
    own = compare if isinstance(method, DFlow) else "measurement"
    return InverseProblem(operator, y, noise, compare=own).cost(method)


@dataclass(frozen=True)
class Task:
    """An inverse problem.

    Attributes:
        operator: from the shape of an image and the seeds.
        noise: σ_y.
        compare: what D-Flow compares.
    """

    operator: Callable[[tuple[int, ...], range], Operator]
    noise: float
    compare: Comparison = "measurement"


TASKS = {
    # NDTM (arXiv 2502.03686): noise 0.01
    "sr4": Task(lambda shape, seeds: SuperResolution(4), 0.01),
    "random-inpaint-90": Task(lambda shape, seeds: Inpainting.random(0.9, shape, seeds), 0.01),
    "nonlinear-deblur": Task(lambda shape, seeds: NonlinearBlur(), 0.01),
    # optimal control (arXiv 2412.16748): noise 0.05
    "sr4-noisy": Task(lambda shape, seeds: SuperResolution(4), 0.05),
    "box-inpaint": Task(lambda shape, seeds: Inpainting.centre(shape[-1] // 2, shape), 0.05),
    "gaussian-deblur": Task(lambda shape, seeds: GaussianBlur(3.0, 61), 0.05),
    "motion-deblur": Task(lambda shape, seeds: MotionBlur(seeds, 61, 0.5), 0.05),
    # C-PiGDM (arXiv 2405.17673): noiseless
    "sr4-clean": Task(lambda shape, seeds: SuperResolution(4), 0.0),
    # D-Flow (arXiv 2402.14017): a hole of 40/128 of the side, noise 0 and 0.05
    "inpaint": Task(lambda shape, seeds: Inpainting.centre(shape[-1] * 5 // 16, shape), 0.0),
    "inpaint-noisy": Task(lambda shape, seeds: Inpainting.centre(shape[-1] * 5 // 16, shape), 0.05),
    "sr2": Task(lambda shape, seeds: SuperResolution(2), 0.0),
    "sr2-noisy": Task(lambda shape, seeds: SuperResolution(2), 0.05),
    "deblur": Task(lambda shape, seeds: GaussianBlur(1.0, 61), 0.0, "pseudo-inverse"),
    "deblur-noisy": Task(lambda shape, seeds: GaussianBlur(1.0, 61), 0.05, "pseudo-inverse"),
    "denoise": Task(lambda shape, seeds: Denoise(), 0.05),
}


@dataclass(frozen=True)
class Configuration:
    """What a data set of the papers is run with.

    Attributes:
        size: side of the images in pixels.
        model: of `from_adm`; None for a network of the user's.
        contests: per task the methods by name, each with its published settings.
    """

    size: int
    model: str | None
    contests: dict[str, dict[str, Method]]


def _ndtm(data: str) -> dict[str, dict[str, Method]]:
    """Tables 1 and 9-12 of arXiv 2502.03686, baselines as in its tables 5 and 6."""
    blur = "nonlinear-deblur"
    strong = f"imagenet-{blur}" if data == "imagenet" else blur
    dps = {
        task: DPS.preset(f"ndtm-baseline-{name}")
        for task, name in (("sr4", "sr4"), ("random-inpaint-90", "inpaint"), (blur, strong))
    }
    red = {
        task: REDDiff.preset(f"ndtm-baseline-{data}-{name}")
        for task, name in (("sr4", "sr4"), ("random-inpaint-90", "inpaint"), (blur, blur))
    }
    return {
        "sr4": {
            "ndtm": NDTM.preset(f"{data}-sr4"),
            "dps": dps["sr4"],
            "red-diff": red["sr4"],
            "ddrm": DDRM.preset("sr4"),
            "c-pigdm": CPiGDM.preset("sr4-20"),
        },
        "random-inpaint-90": {
            "ndtm": NDTM.preset(f"{data}-inpaint"),
            "dps": dps["random-inpaint-90"],
            "red-diff": red["random-inpaint-90"],
            "ddrm": DDRM.preset("inpaint"),
        },
        "nonlinear-deblur": {
            "ndtm": NDTM.preset(f"{data}-nonlinear-deblur"),
            "dps": dps["nonlinear-deblur"],
            "red-diff": red["nonlinear-deblur"],
        },
    }


def _control() -> dict[str, dict[str, Method]]:
    """FFHQ-256 of arXiv 2412.16748, with DAPS."""
    pairs = {
        "sr4-noisy": ("released", "sr4", "sr4"),
        "box-inpaint": ("released", "inpaint", "inpaint"),
        "gaussian-deblur": ("released-gaussian-blur", "gaussian-deblur", "gaussian-deblur"),
        "motion-deblur": ("released", "motion-deblur", "motion-deblur"),
    }
    return {
        task: {
            "optimal-control": OptimalControl.preset(ours),
            "dps": DPS.preset(dps),
            "daps": DAPS.preset(daps),
        }
        for task, (ours, dps, daps) in pairs.items()
    }


def _conjugate() -> dict[str, dict[str, Method]]:
    """x4 of arXiv 2405.17673 at 5 and 20 evaluations."""
    presets = {"c-pigdm-5": "sr4-5", "c-pigdm-20": "sr4-20"}
    return {"sr4-clean": {name: CPiGDM.preset(preset) for name, preset in presets.items()}}


def _flows() -> dict[str, dict[str, Method]]:
    """The tasks of D-Flow, with the flow methods of arXiv 2410.02423."""
    contests: dict[str, dict[str, Method]] = {}
    for task in ("inpaint", "sr2", "deblur"):
        guided = {"inpaint": "inpaint", "sr2": "sr", "deblur": "deblur"}[task]
        for name in (task, f"{task}-noisy"):
            contests[name] = {
                "d-flow": DFlow.preset(name),
                "ot-ode": OTODE.preset(guided),
                "pnp-flow": PnPFlow.preset(task),
                "flow-priors": FlowPriors.preset(task),
            }
    contests["denoise"] = {
        "d-flow": DFlow.preset("denoise"),
        "ot-ode": OTODE.preset("denoise"),
        "pnp-flow": PnPFlow.preset("denoise"),
        "flow-priors": FlowPriors.preset("denoise"),
    }
    return contests


CONFIGURATIONS = {
    "ffhq-256": Configuration(256, "ffhq-256", {**_ndtm("ffhq"), **_control(), **_conjugate()}),
    "imagenet-256": Configuration(256, "imagenet-256", {**_ndtm("imagenet"), **_conjugate()}),
    "imagenet-128": Configuration(128, None, _flows()),
    "lsun-256": Configuration(256, "lsun-256", {**_ndtm("imagenet"), **_conjugate()}),
    "lsun-256-flow": Configuration(256, None, _flows()),
    "celeba-hq-256": Configuration(256, None, _flows()),
    "celeba-128": Configuration(128, None, _flows()),
    "afhq-cat-256": Configuration(256, None, _flows()),
}
