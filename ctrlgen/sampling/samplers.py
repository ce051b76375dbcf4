r"""Samples by the steps of a rule, stochastic ones for the most part.

The steps of an ODE carry every error to the end. A stochastic step draws a part of the noise anew
and pulls the state back to where data of that noise are: a Langevin step on the way (Song et al.,
arXiv 2011.13456, section 4; `ctrlgen.sampling.fresh` where noise was joined with data).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.checks import check_kind, check_sizes
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.sampling.grids import Grid, Level, level_at
from ctrlgen.sampling.steps import Ancestral, StepRule, walk

__all__ = ["Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Draws of a prior by a rule, one evaluation of the network a step.

        samples = Sampler(100)(prior, seeds)

    Args:
        steps: n.
        rule: of a step; `Ancestral(1.0)` draws as much noise anew as DDPM does.
        grid: of the levels, with `steps` among its arguments; the prior's by default.

    Raises:
        ValueError: for no step.
        TypeError: for what is no rule.
    """

    steps: int = 100
    rule: StepRule = field(default_factory=lambda: Ancestral(2.0))
    grid: Grid | None = None

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        check_kind(StepRule, rule=self.rule)

    def __call__(
        self,
        prior: Prior,
        seeds: Seeds,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Signals, one per seed, detached; as of `Prior.sample`."""
        rows = as_seeds(seeds)
        return self.generate(prior, prior.start(rows, dtype=dtype, device=device), rows)

    @torch.no_grad()
    def generate(self, prior: Prior, x0: Tensor, seeds: Tensor) -> Tensor:
        """Signals from source points.

        Args:
            prior: bound to the conditions of the samples.
            x0: source points, shape (B, *shape).
            seeds: of the noise in the steps, shape (B,).
        """
        return prior.codec.decode(self.finish(prior, x0, seeds))

    def levels(self, prior: Prior, start: float = 0.0) -> list[Level]:
        """The levels of a walk from a time in [0, 1), the first of them there if it is above zero.

        Of the steps of a whole walk those that lie beyond; less than half of one joins the next.
        """
        grid = replace(self.grid or prior.grid, steps=self.steps)  # type: ignore[call-arg]
        levels: list[Level] = grid(prior.flow.path)
        if start == 0:
            return levels
        place = next(k for k in range(1, len(levels)) if levels[k].time > start)
        left = (levels[place].time - start) / (levels[place].time - levels[place - 1].time)
        if left < 0.5 and place < len(levels) - 1:
            place += 1
        return [level_at(prior.flow.path, start), *levels[place:]]

    def evaluations(self, prior: Prior, start: float = 0.0) -> int:
        """Of the network of a prior, from a time on."""
        levels = self.levels(prior, start)
        last = 1 if levels[-1].sigma == 0 and self.rule.evaluations > 1 else 0
        return self.rule.evaluations * (len(levels) - 1) - last

    def finish(self, prior: Prior, x: Tensor, seeds: Tensor, start: float = 0.0) -> Tensor:
        """Final states, shape of x.

        Args:
            prior: bound to the conditions of the samples.
            x: states at a time, or source points where it is zero, shape (B, *shape).
            seeds: of the noise in the steps, shape (B,).
            start: the time.
        """
        levels = self.levels(prior, start)
        if start == 0:
            x = (levels[0].alpha ** 2 + levels[0].sigma ** 2) ** 0.5 * x
        end = walk(prior, x, levels, self.rule, seeds.to(x.device))
        return prior.source.project(end)
