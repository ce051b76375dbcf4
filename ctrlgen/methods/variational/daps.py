r"""DAPS: decoupled annealing posterior sampling (Zhang et al., arXiv 2407.01521).

In the variance-exploding state x_1 + r x_0, r = σ/α, at every level r of the grid:

    1. probability-flow ODE from r to r_end, `ode_steps` Euler steps in r          ⇒ x̂
    2. Langevin on N(x̂, r²I) times the likelihood, from x̂, `langevin_steps` times
           x ← x + η [−∇fit(x)/τ² + (x̂ − x)/r²] + √(2η) n
    3. x ← x + r' n, with r' of the next level; at the end of the grid x itself.

It starts at r_0 z, z ~ N(0, I), in the state x_1 + r x_0.

Later levels do not have to lie on one trajectory with earlier ones, so errors can be undone. η
falls linearly from `rate` at the first level to `rate_end · rate` past the last. The data term is
fit = ½‖H(x) − y‖², so that τ is the standard deviation of the noise; the authors' code leaves the
½ out, so that their τ = 0.01 means 0.01/√2 (`likelihood="released"`, which their rates belong to).
It also visits the first n of n + 1 points down to the least level (`Karras(..., last=False)`), and
counts them in the decay of η, whose share is step/(n + 1) (`decay="released"`).

Langevin is stable for η(1/τ² + 1/r²) < 2 where H has singular values up to 1, half of that for
the released likelihood. Evaluations of the network: `ode_steps` a level, no vjp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.methods.variational.fidelity import Fidelity, check_fidelity, slope
from ctrlgen.priors.paths import EDM, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Grid, Karras
from ctrlgen.sampling.steps import DDIM, walk

__all__ = ["DAPS"]

Likelihood = Literal["derived", "released"]


def _released(rate: float, langevin_steps: int = 100) -> dict[str, Any]:
    return {
        "grid": Karras(200, 0.1, 100.0, last=False),
        "likelihood": "released",
        "decay": "released",
        "rate": rate,
        "langevin_steps": langevin_steps,
    }


@dataclass(frozen=True, kw_only=True)
class DAPS(SteppedMethod):
    """Denoise by the ODE, sample the posterior of the denoised state by Langevin, noise again.

    Args:
        grid: annealing levels.
        ode_steps: >= 1, evaluations of the network at every level.
        ode_end: σ/α > 0 at which the ODE stops, below that of every level.
        ode_rho: exponent > 0 of the ODE's levels, linear in r^{1/ρ}.
        langevin_steps: >= 0.
        rate: η > 0 at the first level.
        rate_end: η past the last level, as a share of `rate`, in (0, 1].
        noise: τ > 0, or None for σ_y of the measurement.
        likelihood: "derived", or "released" for twice the derived data term.
        decay: of η over n levels: "derived", by step/n, or "released", by step/(n + 1).
        fidelity: data term, see `ctrlgen.methods.variational.fidelity`; a cost is taken for −τ²
            log p(y|x).

    Raises:
        ValueError: for numbers out of range or names that are not known.
    """

    control: ClassVar[str] = "denoised state"
    needs: ClassVar[str] = "a gradient; a measurement, or fidelity='cost'"
    needs_signal: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sr4": _released(1e-4),
        "gaussian-deblur": _released(1e-4),
        "random-inpaint": _released(1e-4),
        "inpaint": _released(5e-5),
        "motion-deblur": _released(5e-5),
        "phase-retrieval": _released(5e-5),
        "hdr": _released(2e-5),
        "nonlinear-deblur": _released(1e-5, 200),
    }

    grid: Grid = field(default_factory=lambda: Karras(200, 0.1, 100.0))
    clock: Path | None = field(default_factory=lambda: EDM(0.002, 100.0))
    ode_steps: int = 5
    ode_end: float = 0.01
    ode_rho: float = 7.0
    langevin_steps: int = 100
    rate: float = 5e-5
    rate_end: float = 0.01
    noise: float | None = 0.01
    likelihood: Likelihood = "derived"
    decay: Likelihood = "derived"
    fidelity: Fidelity = "squared"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fidelity(self.fidelity, type(self).__name__)
        for name in ("likelihood", "decay"):
            if getattr(self, name) not in get_args(Likelihood):
                got = getattr(self, name)
                raise ValueError(f"{name}: expected one of {get_args(Likelihood)}, got {got!r}")
        for name, least in (("ode_steps", 1), ("langevin_steps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
        for name in ("ode_end", "ode_rho", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)}")
        if not 0 < self.rate_end <= 1:
            raise ValueError(f"rate_end: expected a share in (0, 1], got {self.rate_end}")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise ValueError(f"noise: expected a number > 0 or None, got {self.noise}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        check_fidelity(self.fidelity, type(self).__name__, cost)
        if self.noise is None:
            measurement = getattr(cost, "measurement", None)
            if measurement is None or not measurement.noise > 0:
                raise ValueError(
                    "noise: None takes σ_y of the cost's measurement, which is "
                    f"{'missing' if measurement is None else 'zero'}; give a number"
                )
        levels = self.grid(prior.flow.path)[:-1]
        low = min(level.ratio for level in levels)
        if not low > self.ode_end:
            raise ValueError(
                f"ode_end: expected less than σ/α of every level, {low:.4g} at the last, "
                f"got {self.ode_end}"
            )
        super().check(prior, cost, x0)

    def first_state(self, run: Run, z: Tensor) -> Tensor:
        return run.levels[0].sigma * z if self.start == "source" else super().first_state(run, z)

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, s = run.at(step)
        steps = Karras(self.ode_steps + 1, self.ode_end, t.ratio, self.ode_rho)
        levels = steps(run.prior.flow.path)[:-1]
        with torch.no_grad():
            centre = walk(run.prior, x, levels, DDIM(0.0)) / levels[-1].alpha
        share = step / (len(run.levels) - (self.decay == "derived"))
        rate = self.rate * (1 + share * (self.rate_end - 1))
        sample = centre
        for turn in range(self.langevin_steps):
            gradient, _ = slope(run, sample, self.fidelity, report=False)
            drift = (centre - sample) / t.ratio**2 - self._inverse(run) * gradient
            fresh = run.noise(step, x, turn + 1)
            sample = sample + rate * drift + math.sqrt(2 * rate) * fresh
        with torch.no_grad():
            cost = run.value(centre)
        if s.sigma == 0:
            return s.alpha * sample, cost
        return s.alpha * sample + s.sigma * run.joined(step, sample), cost

    def _inverse(self, run: Run) -> float:
        """What the data term is multiplied by, 1/τ² or 2/τ²."""
        noise = self.noise
        if noise is None:
            assert run.measurement is not None
            noise = float(run.measurement.noise)
        return (2 if self.likelihood == "released" else 1) / noise**2
