r"""Searches for a source point by the values of a cost: what they share.

    x_0* = argmin C(decode(Φ(x_0)))      over candidates x_0^1, x_0^2, ...  of every sample,

where C may be anything that gives a number. A candidate costs one solve without a gradient and one
objective call. Every sample has candidates of its own, all of a round in one batch, and keeps its
incumbent: the best candidate so far.

A candidate whose cost is not finite (a scorer that failed, a network that diverged) is worse than
all others and does no harm beyond. A sample is lost where no candidate of a round has a cost: it
ends DIVERGED, or FAILED where its signals are finite and a black box had nothing to say of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_dtype,
    check_parts,
    cost_rows,
    first_points,
    try_cost,
)
from ctrlgen.methods.blackbox.course import Course, lowest, unscored
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer, check_target
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, flat, partition
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, further
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Solver

__all__ = ["STEPS", "Search", "SearchMethod"]

STEPS = 3
"""Of the prior's own solver, where a search is given none; as `DFlow` has."""


@dataclass(frozen=True, kw_only=True)
class SearchMethod(Method):
    """Base of the searches: implement `search`.

    Args:
        solver: Φ; `STEPS` midpoint steps on the prior's grid by default.
        target: a sample stops when its cost is at most this; None for no target.
        chunk: candidates of a sample that are solved at once, which bounds the memory.
        dtype: of states.
        device: of states; the network's by default.
    """

    needs: ClassVar[str] = "values alone"

    solver: Solver | None = None
    target: float | None = None
    chunk: int = 8
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_sizes(chunk=self.chunk)
        if self.solver is not None:
            check_parts(self, solver=Solver)
        check_dtype(self.dtype)

    @abstractmethod
    def search(self, search: Search, z: Tensor) -> None:
        """Try candidates; what `search` then holds is the result.

        Args:
            search: the samples that are still at work, and what was found.
            z: source points of all samples, shape (B, *).
        """

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`. No gradient is taken of the network or the cost."""
        solver = self.solver or prior.solver(STEPS)
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        goal = check_target(self.target, z)
        try_cost(prior, cost, z, self.target, gradient=False)
        prior, meter = prior.metered(rows)
        search = Search(prior, cost, solver, rows, z, goal, self.chunk, observer, meter)
        text = repr(replace(self, solver=solver))
        with torch.no_grad(), carrying(lambda _: search.result(text)):
            self.search(search, z)
            search.end(Status.FINISHED)
        return search.result(text)


class Search:
    """The candidates of B samples: solved, scored, counted, and the best of each remembered.

    Attributes:
        rows: numbers of the samples that are still at work, int64, shape (b,).
        prior, cost, seeds: theirs.
        target: of all samples, shape (B,), or None.
        incumbents: "points" x_0, "signals" and "costs" of the best candidates, (B, *) each.
        draws: number of the draw that the incumbent is, int64, shape (B,).
    """

    def __init__(
        self,
        prior: Prior,
        cost: CostLike,
        solver: Solver,
        seeds: Tensor,
        z: Tensor,
        target: Tensor | None,
        chunk: int,
        observer: Observer | None,
        meter: Meter,
    ) -> None:
        self._whole = prior, cost, seeds
        self.prior, self.cost, self.seeds = prior, cost, seeds
        self.solver, self.target, self.chunk = solver, target, chunk
        self._meter, self._course = meter, Course(seeds, meter, observer)
        self.rows = torch.arange(len(z), device=z.device)
        self.status = torch.zeros_like(self.rows)
        self.calls = torch.zeros_like(self.rows)
        self.draws = torch.zeros_like(self.rows)
        self._seen = torch.zeros_like(self.rows, dtype=torch.bool)  # a finite signal, at least
        self._bar = z.new_full((len(z),), torch.inf)  # the cost to beat
        self.incumbents = {"points": z, "costs": self._bar}
        self._signals: Tensor | None = None

    def draw(self, draws: Tensor) -> Tensor:
        """Source points of some draws (b, J) of the samples at work, shape (b, J, *)."""
        seeds = further(self.seeds.unsqueeze(1), draws).flatten()
        source = self.prior.take(self.wide(draws.shape[1])).source
        like = self.incumbents["points"]
        points = source.sample(seeds, dtype=like.dtype, device=like.device)
        return points.unflatten(0, draws.shape)

    def wide(self, count: int) -> Tensor:
        """The place of each of `count` candidates' sample among those at work."""
        return torch.arange(len(self.rows), device=self.rows.device).repeat_interleave(count)

    def score(
        self, points: Tensor, draws: Tensor | None = None, solver: Solver | None = None
    ) -> Tensor:
        """Costs (b, J) of candidates (b, J, *), infinite where there is none; in one batch.

        Args:
            points: source points of the samples at work.
            draws: their numbers (b, J), where they are draws.
            solver: in place of the search's own.
        """
        return self.judged(points, self.solved(points, solver), draws)

    def solved(self, x: Tensor, solver: Solver | None = None, start: float = 0.0) -> Tensor:
        """Final states (b, J, *) of states x (b, J, *) at a time, in one batch."""
        prior = self.prior.take(self.wide(x.shape[1]))
        ends = (solver or self.solver)(BoundVelocity(prior), x.flatten(0, 1), start, 1.0)
        return ends.unflatten(0, x.shape[:2])

    def judged(self, points: Tensor, ends: Tensor, draws: Tensor | None = None) -> Tensor:
        """Costs (b, J) of final states (b, J, *), infinite where there is none; in one batch.

        Args:
            points: what is remembered of each as its point, shape (b, J, *).
            ends: states at t = 1.
            draws: see `score`.
        """
        shape, wide = points.shape[:2], self.wide(points.shape[1])
        prior, cost = self.prior.take(wide), cost_rows(self.cost, wide)
        signals = prior.codec.decode(ends.flatten(0, 1))
        whole = flat(signals).isfinite().all(1)
        costs = cost(signals).detach().to(points.dtype)
        costs = torch.where(whole & costs.isfinite(), costs, torch.inf).unflatten(0, shape)
        self.calls = self.calls.index_add(0, self.rows, torch.full_like(self.rows, shape[1]))
        seen = self._seen[self.rows] | whole.unflatten(0, shape).any(1)
        self._seen = self._seen.index_copy(0, self.rows, seen)
        self._improve(points, signals.unflatten(0, shape), costs, draws)
        return costs

    def _improve(
        self, points: Tensor, signals: Tensor, costs: Tensor, draws: Tensor | None
    ) -> None:
        """The first of the lowest costs becomes the incumbent where it is below the bar."""
        if self._signals is None:
            self._signals = signals.new_zeros(len(self._bar), *signals.shape[2:])
        value, place = lowest(costs)
        better = value < self._bar[self.rows]
        each = torch.arange(len(value), device=value.device)

        def improved(old: Tensor, new: Tensor) -> Tensor:
            new = torch.where(expand_like(better, new), new, old[self.rows])
            return old.index_copy(0, self.rows, new)

        self._bar = improved(self._bar, value)
        self.incumbents = {
            "points": improved(self.incumbents["points"], points[each, place]),
            "costs": improved(self.incumbents["costs"], value),
        }
        self._signals = improved(self._signals, signals[each, place])
        if draws is not None:
            self.draws = improved(self.draws, draws[each, place])

    def renew(self) -> None:
        """From here on every cost beats the incumbents', which were of a coarser solve."""
        self._bar = torch.full_like(self._bar, torch.inf)

    @property
    def reached(self) -> Tensor:
        """Samples at work whose incumbent meets the target, bool, shape (b,)."""
        bar = self._bar[self.rows]
        if self.target is None:
            return torch.zeros_like(bar, dtype=torch.bool)
        return bar <= self.target[self.rows]

    def lost(self, scored: Tensor) -> Tensor:
        """`Status` (b,) of samples: RUNNING where a candidate was scored, else how they end.

        Args:
            scored: whether one was, bool, shape (b,).
        """
        code = unscored(self._seen[self.rows], self._whole[1])
        return torch.where(scored, int(Status.RUNNING), code)

    def note(self, finished: bool = True, **more: Tensor) -> None:
        """End a round: remember costs and counts, tell the observer.

        Args:
            finished: whether it is one of the method's iterations.
            **more: of all samples (B,), by name, for the history.
        """
        self._course.note(
            self.rows, self.incumbents["costs"], self.calls, self.status, finished=finished, **more
        )

    def leave(self, status: Tensor) -> Tensor | None:
        """Let samples go; the host reads how many stay.

        Args:
            status: `Status` of those at work, (b,); all but RUNNING leave.

        Returns:
            Places of those that stay; None where nobody leaves.
        """
        self.status = self.status.index_copy(0, self.rows, status)
        running = status == Status.RUNNING
        count = int(running.sum())
        if count == len(self.rows):
            return None
        kept, _ = partition(running, count)
        self.rows = self.rows[kept]
        prior, cost, seeds = self._whole
        self.prior, self.cost = prior.take(self.rows), cost_rows(cost, self.rows)
        self.seeds = seeds[self.rows]
        return kept

    def end(self, status: Status) -> None:
        """Samples that are running still end so."""
        self.status = torch.where(self.status == Status.RUNNING, int(status), self.status)

    def result(self, method: str) -> Result:
        """Of all samples, as it stands."""
        prior, _, seeds = self._whole
        points, costs = self.incumbents["points"], self.incumbents["costs"]
        with torch.no_grad():
            start = prior.codec.decode(points)
        none = costs == torch.inf  # what was never scored is what its start decodes to
        samples = start if self._signals is None else torch.where(
            expand_like(none, start), start, self._signals
        )  # fmt: skip
        return Result(
            samples=samples,
            controls=points,
            costs=costs,
            status=self.status,
            seeds=seeds,
            iterations=self._course.iterations,
            evaluations=self._meter.evaluations,
            backward_passes=self._meter.backward_passes,
            objective_calls=self.calls,
            network=self._meter.total,
            history=self._course.tables(),
            method=method,
        )
