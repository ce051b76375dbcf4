r"""Controlled trajectories of a sampler: x_{k+1} = h_k(x_k + u_k) or h_k(x_k) + u_k.

h_k is a step of the sampler from one noise level to the next. Fresh noise of stochastic steps is a
function of the sample's seed and the step, so it is frozen: every rollout and every linearisation
see the same map.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ctrlgen.methods.trajectory.riccati import Side
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat, take
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import Level
from ctrlgen.sampling.steps import StepRule

__all__ = ["Dynamics", "Link", "Trajectory", "last_finite"]


@dataclass
class Link:
    """One step with its graph: the point at which it was taken, and where it led.

    Attributes:
        point: what entered the network, a leaf, shape (B, *).
        after: h(point), shape (B, *).
        rows: the b rows of the graph that are still of interest; None for all.
    """

    point: Tensor
    after: Tensor
    rows: Tensor | None = None

    def take(self, index: Tensor) -> Link:
        """The rows `index`, with the graph of all: none is evaluated again."""
        return Link(self.point, self.after, index if self.rows is None else self.rows[index])

    def pull(self, columns: Tensor, vectorized: bool) -> Tensor:
        """h_x^T times columns, shape (b, d, m).

        Args:
            columns: cotangents, shape (b, d, m).
            vectorized: all columns in one call under vmap; else one call a column.
        """
        rows = self.rows
        if rows is not None:
            columns = columns.new_zeros(len(self.after), *columns.shape[1:]).index_copy(
                0, rows, columns
            )
        vectors = columns.movedim(2, 0).reshape(-1, *self.after.shape)

        def one(vector: Tensor) -> Tensor:
            return torch.autograd.grad(self.after, self.point, vector, retain_graph=True)[0]

        if vectorized and len(vectors) > 1:
            pulled = torch.func.vmap(one)(vectors)
        else:
            pulled = torch.stack([one(vector) for vector in vectors])
        pulled = pulled.flatten(2).movedim(0, 2)
        return pulled if rows is None else pulled[rows]


@dataclass
class Trajectory:
    """A rollout.

    Attributes:
        states: n + 1 states (B, *), detached.
        controls: n controls (B, *), detached.
        links: the steps with their graphs; None where they were not kept.
    """

    states: list[Tensor]
    controls: list[Tensor]
    links: list[Link] | None = None

    def take(self, index: Tensor) -> Trajectory:
        """The rows `index`."""
        return Trajectory(
            [take(x, index) for x in self.states],
            [take(u, index) for u in self.controls],
            None if self.links is None else [link.take(index) for link in self.links],
        )

    def replaced(self, where: Tensor, other: Trajectory) -> Trajectory:
        """This trajectory, without graphs, with the rows `where` taken from `other`."""
        pairs = (zip(self.states, other.states, strict=True),
                 zip(self.controls, other.controls, strict=True))  # fmt: skip
        states, controls = ([a.index_copy(0, where, b) for a, b in pair] for pair in pairs)
        return Trajectory(states, controls)


@dataclass
class Dynamics:
    """The steps of a sampler under control.

    Attributes:
        prior: read on the clock of the levels.
        levels: n + 1 of them.
        rule: of the steps.
        seeds: (B,), of the frozen noise.
        side: where the control enters.
        clip: bound of |x̂| in every step, with the ε̂ that belongs to it; or None.
    """

    prior: Prior
    levels: list[Level]
    rule: StepRule
    seeds: Tensor
    side: Side
    clip: float | None = None

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def take(self, index: Tensor) -> Dynamics:
        """The same of the rows `index`."""
        taken = copy.copy(self)
        taken.prior, taken.seeds = self.prior.take(index), take(self.seeds, index)
        return taken

    def advance(self, x: Tensor, step: int) -> Tensor:
        """h_k(x), differentiable in x; what lies off the source's subspace is left out."""
        t, s = self.levels[step], self.levels[step + 1]
        x = self.prior.source.project(x)
        draw = partial(step_noise, self.prior.source, self.seeds, step, x)
        return self.rule.advance(self.prior, x, t, s, draw, self.clip)

    def decode(self, x: Tensor) -> Tensor:
        """The signals of final states, differentiable."""
        return self.prior.codec.decode(self.prior.source.project(x))

    def enter(self, x: Tensor, u: Tensor) -> Tensor:
        """What the network sees of a state and its control."""
        return x + u if self.side == "input" else x

    def leave(self, after: Tensor, u: Tensor) -> Tensor:
        """The next state."""
        return after if self.side == "input" else after + u

    def link(self, x: Tensor, u: Tensor, step: int) -> Link:
        """A step with its graph; one evaluation of the rule."""
        with torch.enable_grad():
            point = self.enter(x, u).detach().requires_grad_()
            return Link(point, self.advance(point, step))

    def move(self, x: Tensor, u: Tensor, step: int) -> Tensor:
        """A step without a graph."""
        with torch.no_grad():
            return self.leave(self.advance(self.enter(x, u), step), u)


def last_finite(trajectory: Trajectory) -> Tensor:
    """The last state of every row that is finite, shape (B, *); the first where none is."""
    found = trajectory.states[0]
    for x in trajectory.states[1:]:
        finite = flat(x).isfinite().all(1)
        found = torch.where(finite.reshape(-1, *(1,) * (x.ndim - 1)), x, found)
    return found
