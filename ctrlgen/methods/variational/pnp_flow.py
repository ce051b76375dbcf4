r"""PnP-Flow: a flow's denoiser as a plug-and-play prior (Martin et al., arXiv 2410.02423).

For t from 0 to 1 the estimate x of the datum goes down the data term, is noised to t and denoised,

    z = x − γ (1 − t)^a ∇fit(x),      x ← (1/M) Σ_m x̂(αz + σε_m, t),     ε_m ~ N(0, I),

on straight lines D_t(z) = z + (1 − t) u_t(z). With fit = ½‖Hx − y‖²/σ_y² the paper's step
σ_y² (1 − t)^a leaves γ = 1 whatever the noise. At t = 0 nothing of x is left: the run does not
depend on where it starts. Laplace noise in y takes fit = ‖Hx − y‖₁.

M evaluations of the network a step, no vjp; H needs a gradient only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.methods.variational.fidelity import Fidelity, check_fidelity, proxy, slope
from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Grid, Uniform

__all__ = ["PnPFlow"]


@dataclass(frozen=True, kw_only=True)
class PnPFlow(SteppedMethod):
    """Gradient step on the data, noise, denoise; for every time of the flow.

    Args:
        exponent: a >= 0 of the step (1 − t)^a.
        scale: γ > 0; 1 for the fidelities of measurements, in units of the cost otherwise.
        draws: M >= 1, noisy copies that are denoised and averaged.
        fidelity: data term, see `ctrlgen.methods.variational.fidelity`.
        start: "source" or "guided" (H†y); of no effect where the grid starts at pure noise.

    Raises:
        ValueError: for numbers out of range or names that are not known.
    """

    control: ClassVar[str] = "denoised state"
    needs: ClassVar[str] = "a gradient; a measurement, or fidelity='cost'"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "denoise": {"exponent": 0.8},
        "deblur": {"exponent": 0.01},
        "sr2": {"exponent": 0.3},
        "inpaint": {"exponent": 0.5},
        "random-inpaint": {"exponent": 0.01},
    }

    grid: Grid = field(default_factory=lambda: Uniform(100))
    clock: Path | None = field(default_factory=CondOT)
    exponent: float = 0.5
    scale: float = 1.0
    draws: int = 5
    fidelity: Fidelity = "squared"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fidelity(self.fidelity, type(self).__name__)
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"exponent: expected a number >= 0, got {self.exponent}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: expected a number > 0, got {self.scale}")
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"draws: expected a positive integer, got {self.draws!r}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        check_fidelity(self.fidelity, type(self).__name__, cost)
        super().check(prior, cost, x0)

    def first_state(self, run: Run, z: Tensor) -> Tensor:
        return z if self.start == "source" else proxy(run, z)

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = run.levels[step]
        gradient, cost = slope(run, x, self.fidelity)
        assert cost is not None
        z = x - self.scale * (1 - t.time) ** self.exponent * gradient
        with torch.no_grad():
            total = torch.zeros_like(z)
            for draw in range(self.draws):
                noisy = t.alpha * z + t.sigma * run.joined(step, z, draw)
                total = total + run.predict(noisy, t).data
            return total / self.draws, cost
