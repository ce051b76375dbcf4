r"""C-ΠGDM: conjugate integrators for inverse problems with diffusions (arXiv 2405.17673).

    x̄ = A x,   A = exp(λτ + ½B) [I + (e^{−wB/2} − 1) P],     guidance of weight w_t = w r² α²

on the clock τ = 1 − t of a variance-preserving diffusion, by Euler's method from τ_start on. With
noise in y the projection P becomes g_s = s²/(s² + σ_y²/r²), one factor per singular value, which is
exact. The released code instead expands A to first order in σ_y²,

    Ā = A + κ₃ N,   N = H†(H†)^T,   κ₃ = ½w (A − 1) σ² ln(e^B − 1),
    Ā^{-1} ≈ A^{-1} − κ₃ A^{-1} N A^{-1},

with σ half of σ_y, since it adds noise in [−1, 1] of a level that is quoted for [0, 1].

The weight is no weight of probabilities: the paper's ΠGDM has w_t = w r², and values do not carry
over. A flow prior is read on the diffusion's clock at equal signal-to-noise ratio. n evaluations
and n backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from ctrlgen.grids import Grid, Uniform
from ctrlgen.methods.conjugate import ConjugateMethod
from ctrlgen.methods.conjugate_coefficients import Form, StepCoefficients, conjugate_steps
from ctrlgen.methods.stepping import Run
from ctrlgen.paths import VP, Path

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
    """Published settings; the number is that of steps. Inpainting needs a start near the noise."""

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
        path, exact = run.prior.flow.path, self.noisy == "exact" or noise == 0
        form: Form = "noise" if exact else "released"
        sigma = noise if exact else noise / 2
        return conjugate_steps(form, path, run.levels, values, sigma, self.weight, self.decay)
