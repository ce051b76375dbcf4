r"""C-ΠGFM: conjugate integrators for inverse problems with flows (arXiv 2405.17673, appendix B.2).

    x̄ = A x,   A = e^{λt} [I + (e^{b} − 1) P],   b = w(t²/2 − t³/3)  on straight paths,

guidance of weight w_t = w r² α², by Euler's method from t_start to 1 on the prior's own clock. With
noise in y, P becomes r²s²/(r²s² + σ_y²) per singular value. At λ = 0 and without noise the steps
are differences of

    null space:  Φ_u = t,                    Φ_j = w(t²/2 − 2t³/3 + t⁴/4)
    range:       Φ_u = 1 − (1−t) e^b,        Φ_y = e^b − 1,       Φ_j = w∫ t(1−t)² e^b dt.

The released code multiplies the increment of Φ_j by the step once more, and leaves out P in its
second part; `jacobian="released"` does so too. n evaluations and n backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.analytic.conjugate import ConjugateMethod, ConjugateState
from ctrlgen.methods.analytic.conjugate_coefficients import (
    Form,
    StepCoefficients,
    conjugate_steps,
)
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.stepping import Run
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Grid, Uniform

__all__ = ["CPiGFM"]

Jacobian = Literal["exact", "released"]


@dataclass(frozen=True, kw_only=True)
class CPiGFM(ConjugateMethod):
    """Conjugate ΠGFM.

    Args:
        grid: uniform steps from t = 0.2 to the data by default.
        jacobian: "exact" as derived, or as "released" (straight paths without noise only).

    Raises:
        ValueError: for a `jacobian` that is not known.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "inpaint": {"grid": Uniform(20, 0.1), "weight": 20.0},
        "sr4": {"grid": Uniform(20, 0.2), "weight": 20.0},
        "deblur": {"grid": Uniform(20, 0.4), "weight": 20.0},
        "codec": {"grid": Uniform(10, 0.6), "weight": 20.0, "decay": 0.2, "heuristic": True},
    }
    """The released script's settings for a neural codec; starts of the others as the paper advises:
    early for inpainting, later for super-resolution and deblurring."""

    prediction: ClassVar[Form] = "velocity"

    grid: Grid = field(default_factory=lambda: Uniform(20, 0.2))
    weight: float = 20.0
    jacobian: Jacobian = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jacobian not in get_args(Jacobian):
            expected = get_args(Jacobian)
            raise ValueError(f"jacobian: expected one of {expected}, got {self.jacobian!r}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        if self.jacobian == "released":
            noise = 0.0 if self.heuristic else self._problem(prior, cost, x0).noise
            if noise > 0 or not isinstance(prior.flow.path, CondOT):
                raise ValueError(
                    "jacobian: 'released' is known for straight paths and measurements without "
                    f"noise only, got {prior.flow.path} and noise {noise}; use 'exact'"
                )

    def coefficients(
        self, run: Run[ConjugateState], values: Tensor, noise: float
    ) -> StepCoefficients:
        path = run.prior.flow.path
        steps = conjugate_steps(
            "velocity", path, run.levels, values, noise, self.weight, self.decay
        )
        if self.jacobian == "exact":
            return steps
        # δ A'^{-1} ΔΦ_j on all of q, with ΔΦ_j that of the range: A' of the null space lacks e^b.
        ends = [level.time for level in run.levels]
        growth = [math.exp(self.weight * (t**2 / 2 - t**3 / 3)) for t in ends[1:]]
        widths = [b - a for a, b in pairwise(ends)]
        on_range = steps.jacobian[:, 1] * torch.tensor(widths, dtype=torch.float64)
        on_null = on_range * torch.tensor(growth, dtype=torch.float64)
        return steps._replace(jacobian=torch.stack((on_null, on_range), 1))
