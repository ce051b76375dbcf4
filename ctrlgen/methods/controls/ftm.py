r"""FTM: flow trajectory matching (Pandey et al., arXiv 2502.03686, eqs 13, 34-36).

On the clock of a flow, with a control c of the state that the velocity sees, x̃ = x + γc, the step
of length h solves

    min_c  w_v ‖u(x̃, t) − u(x, t)‖² + w_c ‖γc‖² + w_T C(x̂^c),    x̂^c = (σ u(x̃, t) − σ̇ x_b)/W,

    mode "state"     x_b = x̃,   x' = x̃ + h u(x̃, t)    (what NDTM does on a diffusion; default)
    mode "velocity"  x_b = x,   x' = x + h u(x̃, t)    (eq 35 to the letter; c acts to order h)

    weighting "euler"  w_v = h², w_c = 1 in mode "state", 0 in "velocity": ‖x'^c − x'‖² split as
                       Proposition 3.1 splits the DDIM mean
              "paper"  w_v = 1,  w_c = 0
              "zero"   w_v = w_c = 0

With "state" and "euler" on a path with α = 1 this is NDTM with DDIM(0) and its "ddim" weights:
Euler in σ/α of x/α is DDIM. N + 2 evaluations and N vjps a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ctrlgen.methods.controls.transitions import (
    GuidedTransitions,
    Response,
    TransitionState,
    Weights,
)
from ctrlgen.methods.stepping import Run
from ctrlgen.sampling.grids import DDPMUniform

__all__ = ["FTM"]

Weighting = Literal["euler", "paper", "zero"]


def _row(
    iterations: int, gamma: float, t_end: int, terminal_weight: float, weighting: Weighting
) -> dict[str, Any]:
    """A row of NDTM's Table 8 with its start carried over by the signal-to-noise ratio."""
    return {
        "iterations": iterations,
        "gamma": gamma,
        "grid": DDPMUniform(50, t_end),
        "terminal_weight": terminal_weight,
        "weighting": weighting,
        "start": "guided",
        "clip": 1.0,
    }


@dataclass(frozen=True, kw_only=True)
class FTM(GuidedTransitions[TransitionState]):
    """Shifts the state that the velocity sees, one control in every Euler step of the flow.

    Args:
        mode: "state" or "velocity", see the module.
        weighting: "euler", "paper" or "zero".
    """

    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sr4": _row(5, 1.0, 400, 50.0, "euler"),
        "inpaint": _row(2, 4.0, 500, 1.0, "zero"),
        "nonlinear-deblur": _row(5, 5.0, 400, 1.0, "zero"),
    }

    mode: Literal["state", "velocity"] = "state"
    weighting: Weighting = "euler"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("state", "velocity"):
            raise ValueError(f"mode: expected 'state' or 'velocity', got {self.mode!r}")
        if self.weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting: expected one of {get_args(Weighting)}, got {self.weighting!r}"
            )

    def weights(self, run: Run, step: int) -> Weights:
        t, s = run.at(step)
        match self.weighting:
            case "euler":
                return Weights((s.time - t.time) ** 2, 1.0 if self.mode == "state" else 0.0)
            case "paper":
                return Weights(1.0, 0.0)
            case _:
                return Weights(0.0, 0.0)

    def respond(self, run: Run, x: Tensor, u: Tensor, step: int, free: Response | None) -> Response:
        t = run.levels[step]
        moved = x + self.gamma * u
        velocity = run.predict(moved, t).velocity
        base = moved if self.mode == "state" else x
        data = (t.sigma * velocity - t.d_sigma * base) / t.wronskian
        return Response(data, velocity, base)

    def land(self, run: Run, response: Response, step: int) -> Tensor:
        t, s = run.at(step)
        if self.clip is None:
            return response.base + (s.time - t.time) * response.quantity
        # u = a x + b x̂ with the bounded x̂: its bound is part of the velocity.
        velocity = (t.d_sigma * response.base + t.wronskian * response.data) / t.sigma
        return response.base + (s.time - t.time) * velocity
