"""A run of a stepped method as its updates see it: the problem, the levels, and what they give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from ctrlgen.methods.base import CostLike
from ctrlgen.operators.base import Measurement
from ctrlgen.priors.flows import Prediction, bounded
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.fresh import Mix, fresh_noise, joined, step_noise
from ctrlgen.sampling.grids import Level
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["Run"]

S = TypeVar("S")


@dataclass
class Run(Generic[S]):
    """One run of a stepped method: all that an update may use.

    Attributes:
        prior: read on the method's clock.
        cost: of signals, one value per sample.
        measurement: of the cost, if it has one.
        seeds: (B,), int64, where the states are.
        levels: n + 1 of them; step k goes from levels[k] to levels[k + 1].
        rule: of the steps, where the method has one.
        clip: bound of |x̂|, where the method has one.
        state: what the method keeps between its steps, e.g. a kernel that it estimates: what its
            `begin` returned.
        objective_calls: how often signals were decoded, each time for the objective.
    """

    prior: Prior
    cost: CostLike
    measurement: Measurement | None
    seeds: Tensor
    levels: list[Level]
    rule: StepRule = field(default_factory=DDIM)
    clip: float | None = None
    state: S = field(init=False, repr=False)
    objective_calls: int = 0

    def at(self, step: int) -> tuple[Level, Level]:
        """The levels (t, s) between which a step goes."""
        return self.levels[step], self.levels[step + 1]

    def predict(self, x: Tensor, t: Level) -> Prediction:
        """All that the prior knows of states x at a level; one evaluation, differentiable in x."""
        return self.prior.predict(x, t.time)

    def clipped(self, data: Tensor) -> Tensor:
        """x̂ within the bound, if there is one; a gradient ends where it is cut."""
        return data if self.clip is None else bounded(data, self.clip)

    def project(self, x: Tensor) -> Tensor:
        """The nearest states on the source's subspace (masks, centre of mass), shape of x."""
        return self.prior.source.project(x)

    def decode(self, state: Tensor) -> Tensor:
        """The signals of states, differentiable; an objective call, for which they are decoded."""
        self.objective_calls += 1
        return self.prior.codec.decode(state)

    def value(self, state: Tensor) -> Tensor:
        """The cost of the signals of states, shape (B,), differentiable."""
        return self.judge(self.decode(state))

    def judge(self, signal: Tensor) -> Tensor:
        """The cost of signals in their own dtype, whatever it computes in; shape (B,)."""
        return self.cost(signal).to(signal.dtype)

    def noise(self, step: int, like: Tensor, draw: int = 0) -> Tensor:
        """Standard normal noise of a step, shape of `like`; each draw is another."""
        return step_noise(self.prior.source, self.seeds, step, like, draw)

    def joined(self, step: int, data: Tensor, draw: int = 0) -> Tensor:
        """Noise of a step as the training would have joined it with data, for a whole state."""
        return joined(self.prior, self.noise(step, data, draw), data)

    def fresh(self, mix: Mix, step: int, data: Tensor, draw: int = 0) -> Tensor:
        """What a step mixes in beside the noise that is predicted, shape of data."""
        return fresh_noise(self.prior, mix, data, lambda k: self.noise(step, data, draw + k))

    def move(self, data: Tensor, noise: Tensor, step: int, draw: int = 0) -> Tensor:
        """x_s by the rule, from x̂ and ε̂, with the step's fresh noise where the rule takes it."""
        t, s = self.at(step)
        mix = self.rule.mix(t, s)
        z = self.fresh(mix, step, data, draw) if mix.fresh else None
        return self.rule(data, noise, t, s, z)
