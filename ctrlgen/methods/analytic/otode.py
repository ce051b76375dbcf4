r"""OT-ODE (ΠGFM): pseudo-inverse guidance of flows (Pokle et al., arXiv 2310.04432).

    u(x|y) = u + (σW/α) γ_t ∇log p(y|x_t),      (1−t)/t on straight paths,

γ_t = w, or w √(α/(α²+σ²)), which is more at the end and none at the start; in Euler steps on the
prior's own clock from x_{t_0} = t_0 H†y + (1−t_0) z. With γ = 1 the ODE is exact for the prior
N(0, I): it ends in the posterior. ΠGFM of arXiv 2405.17673 is γ_t = w, whatever w. n evaluations
and n backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.analytic.guided import AnalyticMethod, AnalyticState
from ctrlgen.methods.analytic.pigdm import guidance
from ctrlgen.methods.stepping import Run
from ctrlgen.sampling.grids import Grid, Uniform

__all__ = ["OTODE"]

Schedule = Literal["constant", "growing"]


@dataclass(frozen=True, kw_only=True)
class OTODE(AnalyticMethod[AnalyticState]):
    """OT-ODE, also known as ΠGFM.

    Args:
        grid: 100 uniform steps from t = 0.2 to the data by default.
        schedule: of γ_t: "constant" for w, "growing" for w √(α/(α²+σ²)).

    Raises:
        ValueError: for a schedule that is not known.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "denoise": {"grid": Uniform(70, 0.3), "schedule": "growing"},
        "deblur": {"grid": Uniform(60, 0.4), "schedule": "growing"},
        "sr": {"grid": Uniform(90, 0.1)},
        "inpaint": {"grid": Uniform(90, 0.1), "schedule": "growing"},
        "inpaint-random": {"grid": Uniform(90, 0.1)},
    }
    """Starts and schedules tuned per task by Martin et al. (PnP-Flow, arXiv 2410.02423); steps of
    1/100, so that a later start has fewer."""

    grid: Grid = field(default_factory=lambda: Uniform(100, 0.2))
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in get_args(Schedule):
            expected = get_args(Schedule)
            raise ValueError(f"schedule: expected one of {expected}, got {self.schedule!r}")

    def update(self, run: Run[AnalyticState], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, s = run.at(step)
        seen, pulled = guidance(self, run, x, step)
        rate = self.weight * t.sigma * t.wronskian / t.alpha / self.variance(t)
        if self.schedule == "growing":
            rate *= (t.alpha / (t.alpha**2 + t.sigma**2)) ** 0.5
        with torch.no_grad():
            new = x + (s.time - t.time) * (seen.velocity + rate * pulled)
        return new, self.reported(run, seen)
