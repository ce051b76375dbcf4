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

from ctrlgen.methods.analytic.conjugate import ConjugateMethod, ConjugateState
from ctrlgen.methods.analytic.conjugate_coefficients import (
    Form,
    StepCoefficients,
    conjugate_steps,
    released_steps,
)
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


@dataclass
class ReleasedState(ConjugateState):
    """What a run with the released treatment of noise keeps; its steps are of x̄.

    Attributes:
        first: Ā at the first level, of the shape of the singular values.
        inverses: the approximate inverse at all levels, (n + 1, *values).
        bar: x̄ in the operator's coordinates, from the first step on.
    """

    first: Tensor
    inverses: Tensor
    bar: Tensor | None = None


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

    def coefficients(
        self, run: Run[ConjugateState], values: Tensor, noise: float
    ) -> StepCoefficients:
        path = run.prior.flow.path
        return conjugate_steps("noise", path, run.levels, values, noise, self.weight, self.decay)

    def begin(self, run: Run[ConjugateState], z: Tensor) -> ConjugateState:
        problem = self._problem(run.prior, run.cost, z)
        if self.noisy == "exact" or problem.noise == 0 or problem.operator is None:
            return super().begin(run, z)
        path, spectrum = run.prior.flow.path, problem.spectrum()
        half, weight, decay = problem.noise / 2, self.weight, self.decay
        first, inverses, steps = released_steps(
            path, run.levels, spectrum.values, half, weight, decay
        )
        steps = StepCoefficients(*(part.to(z.device) for part in steps))
        noisy = spectrum, spectrum.right(problem.proxy).double()
        return ReleasedState(problem, steps, noisy, first.to(z.device), inverses.to(z.device))

    def update(self, run: Run[ConjugateState], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """By x̄ where the released treatment is asked for: x is then what the code shows of it."""
        state = run.state
        if not isinstance(state, ReleasedState):
            return super().update(run, x, step)
        assert state.noisy is not None
        (spectrum, measured), inverses = state.noisy, state.inverses
        if state.bar is None:
            state.bar = state.first * spectrum.right(x).double()
        with torch.enable_grad():
            shown = spectrum.right_inverse((inverses[step] * state.bar).to(x)).requires_grad_()
            seen = run.predict(shown, run.levels[step])
            with torch.no_grad():
                pull = state.problem.proxy - state.problem.project(seen.data)
            (pulled,) = torch.autograd.grad(seen.noise, shown, pull)
        at = state.steps.at(step)
        with torch.no_grad():
            noise, turned = (spectrum.right(part).double() for part in (seen.noise, pulled))
            bar = at.state * state.bar + at.measured * measured
            state.bar = bar = bar + at.network * noise + at.jacobian * turned
            new = spectrum.right_inverse((inverses[step + 1] * bar).to(x))
        return new, self.reported(run, seen)
