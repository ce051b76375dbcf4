r"""DMPlug: the reverse process as a function, its input optimised (Wang et al., arXiv 2405.16749).

    z* = argmin_z C(R(z)),      R: a few deterministic steps of a sampler, z at the first level,

by Adam: D-Flow's problem (`ctrlgen.methods.source.dflow`) with a step rule in the place of the
solver, so that the two objectives are one where rule and solver are. The paper takes three DDIM
steps on the indices 666, 333 and 0, with x̂ clipped to the range of the data in every step, ε̂
computed from the clipped x̂, and the result clipped again. Adam does not see the scale of C: a sum
of squares is as good as their mean.

What is fitted to the end fits the noise. A row stops early by the windowed variance of its signals
(`ctrlgen.optimizers.early`), whose lowest point is its result. No ground truth plays a part.

Evaluations of the network and vjps: as many as R has steps, per iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_clip,
    check_clock,
    check_dtype,
    check_levels,
    check_parts,
    first_points,
    try_cost,
)
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.dflow import (
    MeteredObjective,
    metered_observer,
    source_result,
)
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.optimizers import Adam, Observer, Optimizer, WindowedVariance
from ctrlgen.optimizers.base import Solution, check_target
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import bounded
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.grids import DDPMUniform, Grid, Level, ddpm
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["DMPlug", "Reverse"]


def _adam(iterations: int) -> Adam:
    return Adam(learning_rate=1e-2, max_iterations=iterations, early=WindowedVariance())


@dataclass(frozen=True)
class Reverse:
    """R: source points z to states at the end of the levels; called in the place of a solver.

    Args:
        levels: of a grid.
        rule: deterministic, of one evaluation a step.
        clip: bound of |x̂| and of the result, or None.
    """

    levels: list[Level]
    rule: StepRule
    clip: float | None = None

    def __call__(self, velocity: BoundVelocity, z: Tensor) -> Tensor:
        """R(z), shape of z (B, *), differentiable."""
        first = self.levels[0]
        x = (first.alpha**2 + first.sigma**2) ** 0.5 * z
        for t, s in pairwise(self.levels):
            x = self.rule.advance(velocity.prior, x, t, s, None, self.clip)
        return x if self.clip is None else bounded(x, self.clip)


@dataclass(frozen=True, kw_only=True)
class DMPlug(Method):
    """Optimises the input of a short deterministic sampler.

    Args:
        grid: noise levels of the sampler.
        clock: path on which the prior is read; None for its own.
        rule: of the sampler's steps, deterministic.
        clip: bound of |x̂| in every step, 1 for images in [−1, 1]; None for none.
        optimizer: per-sample optimiser, with its early stopping.
        target: a sample stops when its cost is at most this; None for no target.
        dtype: of states and optimiser.
        device: of states; the network's by default.

    Raises:
        TypeError: if a part is of another kind than its name says.
        ValueError: for a bound that is not positive, a rule of more than one evaluation, or a dtype
            that is no floating point one.
    """

    control: ClassVar[str] = "source point"
    needs: ClassVar[str] = "a gradient"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sr4": {"clip": 1.0},
        "inpaint": {"clip": 1.0},
        "nonlinear-deblur": {"clip": 1.0, "optimizer": _adam(10_000)},
    }

    grid: Grid = field(default_factory=lambda: DDPMUniform(3, 999))
    clock: Path | None = field(default_factory=ddpm)
    rule: StepRule = field(default_factory=DDIM)
    clip: float | None = None
    optimizer: Optimizer = field(default_factory=lambda: _adam(5000))
    target: float | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, grid=Grid, rule=StepRule, optimizer=Optimizer)
        check_clock(self.clock)
        if self.rule.evaluations != 1:
            raise ValueError(f"rule: expected one evaluation a step, got {self.rule!r}")
        check_dtype(self.dtype)
        check_clip(self.clip)

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`."""
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        check_target(self.target, z)
        prior = prior.on(self.clock)
        levels = self.grid(prior.flow.path)
        if any(level.sigma == 0 for level in levels[:-1]):
            raise ValueError("grid: DMPlug needs some noise, σ > 0, at every evaluation")
        if any(self.rule.draws(t, s) for t, s in pairwise(levels)):
            raise ValueError(f"rule: expected a deterministic one, got {self.rule!r}")
        check_levels(prior, levels)
        try_cost(prior, cost, z, self.target)
        prior, meter = prior.metered(rows)
        reverse: Any = Reverse(levels, self.rule, self.clip)
        objective = MeteredObjective(SourceObjective(prior, cost, reverse, None, rows, z), meter)

        def result(found: Solution) -> Result:
            found = replace(found, x=prior.source.project(found.x))
            return source_result(
                found, rows, objective, repr(self), lambda: prior.codec.decode(found.x)
            )

        with carrying(result):
            found = self.optimizer.minimize(
                objective, z, target=self.target, observer=metered_observer(observer, meter)
            )
        return result(found)
