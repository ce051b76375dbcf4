r"""C-ΠGDM: conjugate integrators for inverse problems with diffusions (arXiv 2405.17673).

    x̄ = A x,   A = exp(λτ + ½B) [I + (e^{−wB/2} − 1) P],     guidance of weight w_t = w r² α²

on the clock τ = 1 − t of a variance-preserving diffusion, by Euler's method from τ_start on. With
noise in y the projection P becomes g_s = s²/(s² + σ_y²/r²), one factor per singular value, which is
exact. The released code instead expands A to first order in σ_y²,

    Ā = A + κ₃ N,   N = H†(H†)^T,   κ₃ = ½w (A − 1) σ² ln(e^B − 1),
    Ā^{-1} ≈ A^{-1} − κ₃ A^{-1} N A^{-1},

with σ half of σ_y, since it adds noise in [−1, 1] of a level that is quoted for [0, 1]. Its pull is
H†y − Px̂ as without noise, and what it carries from step to step is x̄; the network sees Ā^{-1}x̄,
which is not x, from the first step on.

The weight is no weight of probabilities: the paper's ΠGDM has w_t = w r², and values do not carry
over. A flow prior is read on the diffusion's clock at equal signal-to-noise ratio. n evaluations
and n backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.analytic.conjugate import ConjugateMethod
from ctrlgen.methods.analytic.conjugate_coefficients import (
    Form,
    StepCoefficients,
    conjugate_steps,
    released_steps,
)
from ctrlgen.methods.analytic.structure import InverseProblem
from ctrlgen.methods.stepping import Run
from ctrlgen.priors.paths import VP, Path
from ctrlgen.sampling.grids import Grid, Uniform

__all__ = ["CPiGDM", "truncated"]

Noisy = Literal["exact", "released"]


def truncated(steps: int, tau: float, end: float = 0.001) -> Uniform:
    """A grid of n uniform steps from diffusion time τ_start to τ_end.

    Args:
        steps: n.
        tau: τ_start in (τ_end, 1).
        end: τ_end.
    """
    return Uniform(steps, 1 - tau, 1 - end, clean=False)


@dataclass(frozen=True, kw_only=True)
class CPiGDM(ConjugateMethod):
    """Conjugate ΠGDM.

    Args:
        grid: uniform steps from diffusion time 0.4 to 0.001 by default; `truncated` makes others.
        clock: of the diffusion; None for the prior's own path.
        noisy: how noise in y enters: "exact" per singular value, or as "released".

    Raises:
        ValueError: for a `noisy` that is not known, or where it is "released" for a clock without
            α² + σ² = 1.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sr4-5": {"grid": truncated(5, 0.4), "weight": 15.0, "decay": 0.0},
        "sr4-20": {"grid": truncated(20, 0.4), "weight": 4.0, "decay": -0.4},
        "sr4-5-noisy": {"grid": truncated(5, 0.4), "weight": 2.0, "decay": -0.15},
        "inpaint": {"grid": truncated(20, 0.9), "weight": 4.0, "decay": -0.4},
    }
    """The number is that of steps. "sr4-5" and "sr4-5-noisy" are the released code's, "sr4-20" is a
    baseline of arXiv 2502.03686; "inpaint" is ours: it needs a start near the noise."""

    prediction: ClassVar[Form] = "noise"

    grid: Grid = field(default_factory=lambda: truncated(20, 0.4))
    clock: Path | None = field(default_factory=VP)
    weight: float = 4.0
    decay: float = -0.4
    noisy: Noisy = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noisy not in get_args(Noisy):
            raise ValueError(f"noisy: expected one of {get_args(Noisy)}, got {self.noisy!r}")

    def coefficients(self, run: Run, values: Tensor, noise: float) -> StepCoefficients:
        path = run.prior.flow.path
        return conjugate_steps("noise", path, run.levels, values, noise, self.weight, self.decay)

    def begin(self, run: Run, x: Tensor) -> None:
        problem: InverseProblem = run.memory["problem"]
        if self.noisy == "exact" or problem.noise == 0 or problem.operator is None:
            super().begin(run, x)
            return
        path, spectrum = run.prior.flow.path, problem.spectrum()
        half, weight, decay = problem.noise / 2, self.weight, self.decay
        first, inverses, steps = released_steps(
            path, run.levels, spectrum.values, half, weight, decay
        )
        run.memory["carried"] = spectrum, first.to(x.device) * spectrum.right(x).double()
        run.memory["measured"] = spectrum.right(problem.proxy).double()
        run.memory["released"] = [part.to(x.device) for part in (inverses, *steps)]

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """By x̄ where the released treatment is asked for: x is then what the code shows of it."""
        if "carried" not in run.memory:
            return super().update(run, x, step)
        problem: InverseProblem = run.memory["problem"]
        spectrum, bar = run.memory["carried"]
        inverses, state, measured, network, jacobian = run.memory["released"]
        with torch.enable_grad():
            shown = spectrum.right_inverse((inverses[step] * bar).to(x)).requires_grad_()
            seen = run.predict(shown, run.levels[step])
            with torch.no_grad():
                pull = problem.proxy - problem.project(seen.data)
            (pulled,) = torch.autograd.grad(seen.noise, shown, pull)
        with torch.no_grad():
            noise, turned = (spectrum.right(part).double() for part in (seen.noise, pulled))
            bar = state[step] * bar + measured[step] * run.memory["measured"]
            bar = bar + network[step] * noise + jacobian[step] * turned
            run.memory["carried"] = spectrum, bar
            new = spectrum.right_inverse((inverses[step + 1] * bar).to(x))
        return new, self.reported(run, seen)
