"""Tasks and settings of `ndtm.images`: what is measured, and among what each method may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.images.operators import Inpainting, NonlinearBlur, SuperResolution
from ctrlgen.domains.images.operators.kernels import gaussian_taps, motion_kernels
from ctrlgen.methods import DDRM, DPS, NDTM, BlindNDTM, CPiGDM, Method, REDDiff
from ctrlgen.methods.controls.blind import convolve
from ctrlgen.methods.controls.transitions import GuidedTransitions
from ctrlgen.methods.tuned import METHODS, Case, build
from ctrlgen.operators.base import Operator
from ctrlgen.optimizers import Adam
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.steps import DDIM

__all__ = [
    "ABLATED",
    "AXES",
    "BLIND",
    "NAMES",
    "NOISE",
    "SHOWN",
    "TASKS",
    "WINDOW",
    "Task",
    "WindowBlur",
    "ablations",
    "blind_settings",
    "methods_for",
    "settings",
]

NOISE = 0.01
SHOWN = 10  # images in a figure
WINDOW = 9  # side of a blind kernel in pixels
INNER = 4  # steps on control and kernel in every sampling step of blind NDTM


class WindowBlur(Operator):
    """q ⊛ x with a kernel of each image's own, zero outside of the image; H† = y, a heuristic.

    Args:
        kernel: q, shape (B, k, k).
    """

    per_sample = ("kernel",)
    task = "deblur"

    def __init__(self, kernel: Tensor) -> None:
        self.kernel = kernel

    def __call__(self, x: Tensor) -> Tensor:
        return convolve(x, self.kernel)

    def pinv(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Task:
    """An inverse problem of the tables.

    Attributes:
        operator: from the shape of one image and the seeds of all.
        linear: whether methods that need a linear operator take part.
    """

    operator: Callable[[tuple[int, ...], range], Operator]
    linear: bool = True


TASKS = {
    "sr4": Task(lambda shape, seeds: SuperResolution(4)),
    "random-inpaint": Task(lambda shape, seeds: Inpainting.random(0.9, shape, seeds)),
    "nonlinear-deblur": Task(lambda shape, seeds: NonlinearBlur(), linear=False),
}

BLIND: dict[str, Callable[[range], Tensor]] = {
    "blind-gaussian": lambda seeds: _gaussian().expand(len(seeds), -1, -1),
    "blind-motion": lambda seeds: motion_kernels(seeds, WINDOW, 0.5),
}

NAMES = {
    "ndtm": "NDTM",
    "ndtm-released": "NDTM, released weighting",
    "ctdtm": "CT-DTM",
    "ftm": "FTM",
    "dps": "DPS",
    "red-diff": "RED-diff",
    "ddrm": "DDRM",
    "c-pigdm": "C-ΠGDM",
}
_ONLY_LINEAR = ("ddrm", "c-pigdm")

ABLATED = ("sr4", "nonlinear-deblur")
AXES: dict[str, tuple[Any, ...]] = {
    "iterations": (1, 2, 5, 10),
    "gamma": (0.5, 1.0, 2.0, 4.0, 8.0),
    "terminal_weight": (1.0, 10.0, 50.0, 250.0),
    "weighting": ("ddim", "ddim_released", "ddpm", "zero", "ones"),
}


def _gaussian() -> Tensor:
    taps = torch.tensor(gaussian_taps(1.5, WINDOW))
    return torch.outer(taps, taps).unsqueeze(0)


def methods_for(task: str) -> list[str]:
    """The methods that can do a task, of NAMES."""
    return [name for name in NAMES if TASKS[task].linear or name not in _ONLY_LINEAR]


def settings(name: str, case: Case, evaluations: int) -> dict[str, Method]:
    """Four settings of a method by a label, around those of `ctrlgen image`.

    Args:
        name: of NAMES.
        case: what it has to do.
        evaluations: of the network per image, at most; less where the method's own number is.
    """
    key = name.removesuffix("-released")
    base = build(key, case, evaluations=min(evaluations, METHODS[key].evaluations or evaluations))
    match base:
        case GuidedTransitions():
            if name != key:
                assert isinstance(base, NDTM)
                base = replace(base, weighting="ddim_released")
            return {
                f"w_T {base.terminal_weight * w:g}, lr {_rate(base) * r:g}": replace(
                    base, terminal_weight=base.terminal_weight * w, optimizer=_slower(base, r)
                )
                for w, r in product((1.0, 0.1), (1.0, 3.0))
            }
        case REDDiff():
            return {
                f"λ {base.weight * w:g}, lr {_rate(base) * r:g}": replace(
                    base, weight=base.weight * w, optimizer=_slower(base, r)
                )
                for w, r in product((1.0, 4.0), (1.0, 0.3))
            }
        case DPS():
            rhos = [base.rho * factor for factor in (0.25, 0.5, 1.0, 2.0)]
            return {f"ζ {rho:.3g}": replace(base, rho=rho) for rho in rhos}
        case DDRM():
            return {f"η {eta:g}": replace(base, eta=eta) for eta in (0.0, 0.5, 0.85, 1.0)}
        case _:
            assert isinstance(base, CPiGDM)
            return {f"w {w:g}": replace(base, weight=w) for w in (2.0, 5.0, 10.0, 20.0)}


def _rate(base: GuidedTransitions | REDDiff) -> float:
    assert not callable(base.optimizer.learning_rate)
    return base.optimizer.learning_rate


def _slower(base: GuidedTransitions | REDDiff, factor: float) -> Any:
    return replace(base.optimizer, learning_rate=_rate(base) * factor)


def blind_settings(evaluations: int) -> dict[str, Method]:
    """Four settings of blind NDTM by a label; how far a control may go matters most."""
    base = BlindNDTM(
        grid=Uniform(max(evaluations // (INNER + 2), 1)),
        rule=DDIM(0.2),
        iterations=INNER,
        gamma=2.0,
        kernel_optimizer=Adam(learning_rate=0.1),  # far fewer steps than the paper's thousands
        clip=1.0,
    )
    rates = (0.1, 0.05, 0.03, 0.02)
    return {f"lr {r:g}": replace(base, optimizer=Adam(learning_rate=r)) for r in rates}


def ablations(case: Case, evaluations: int) -> Iterator[tuple[str, Any, NDTM]]:
    """NDTM with one number changed: (axis, value, method), those of no change among them."""
    base = build("ndtm", case, evaluations=evaluations)
    assert isinstance(base, NDTM)
    for axis, values in AXES.items():
        for value in values:
            yield axis, value, replace(base, **{axis: value})
