"""The candidates of samples as a search tries them: solved, scored, counted, the best remembered.

Samples may have variants: conditions of the prior and data of the cost under which their candidates
are tried, another number of points for one. Prior and cost then hold V rows for each sample, row
bV + v for variant v of sample b, and every candidate says which variant it is of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows
from ctrlgen.methods.blackbox.course import Course, lowest, unscored
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, flat, partition
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.seeds import further
from ctrlgen.rows.status import Status
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Solver

__all__ = ["Search"]


class Search:
    """The candidates of B samples: solved, scored, counted, and the best of each remembered.

    Attributes:
        rows: numbers of the samples that are still at work, int64, shape (b,).
        prior, cost, seeds: theirs; prior and cost those of their first variants.
        target: of all samples, shape (B,), or None.
        incumbents: "points" x_0, "signals" and "costs" of the best candidates, (B, *) each.
        draws: number of the draw that the incumbent is, int64, shape (B,).
        kinds: variant that it is of, int64, shape (B,).
    """

    def __init__(
        self,
        prior: Prior,
        cost: CostLike,
        solver: Solver | Sampler,
        seeds: Tensor,
        z: Tensor,
        target: Tensor | None,
        chunk: int,
        observer: Observer | None,
        meter: Meter,
        variants: int = 1,
    ) -> None:
        self._whole, self.variants = (prior, cost, seeds), variants
        self.seeds = seeds
        self.solver, self.target, self.chunk = solver, target, chunk
        self._meter, self._course = meter, Course(seeds, meter, observer)
        self.rows = torch.arange(len(z), device=z.device)
        self.prior, self.cost = prior, cost
        if variants > 1:
            self.prior, self.cost = self._of(self.rows)
        self.status = torch.zeros_like(self.rows)
        self.calls = torch.zeros_like(self.rows)
        self.draws, self.kinds = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self._seen = torch.zeros_like(self.rows, dtype=torch.bool)  # a finite signal, at least
        self._bar = z.new_full((len(z),), torch.inf)  # the cost to beat
        self.incumbents = {"points": z, "costs": self._bar}
        self._signals: Tensor | None = None

    def _of(self, rows: Tensor, kinds: Tensor | int = 0) -> tuple[Prior, CostLike]:
        """Prior and cost of samples by their numbers, of some of their variants."""
        index = rows * self.variants + kinds
        return self._whole[0].take(index), cost_rows(self._whole[1], index)

    def candidates(self, count: int, kinds: Tensor | None = None) -> tuple[Prior, CostLike]:
        """Prior and cost of `count` candidates of each sample at work, of variants (b, count)."""
        wide = self.wide(count)
        if kinds is None:
            return self.prior.take(wide), cost_rows(self.cost, wide)
        return self._of(self.rows[wide], kinds.flatten())

    def draw(self, draws: Tensor, kinds: Tensor | None = None) -> Tensor:
        """Source points of some draws (b, J) of the samples at work, shape (b, J, *).

        Args:
            draws: their numbers.
            kinds: variants that they are of (b, J); the first by default.
        """
        seeds = further(self.seeds.unsqueeze(1), draws).flatten()
        source = self.candidates(draws.shape[1], kinds)[0].source
        like = self.incumbents["points"]
        points = source.sample(seeds, dtype=like.dtype, device=like.device)
        return points.unflatten(0, draws.shape)

    def wide(self, count: int) -> Tensor:
        """The place of each of `count` candidates' sample among those at work."""
        return torch.arange(len(self.rows), device=self.rows.device).repeat_interleave(count)

    def score(
        self,
        points: Tensor,
        draws: Tensor | None = None,
        solver: Solver | Sampler | None = None,
    ) -> Tensor:
        """Costs (b, J) of candidates (b, J, *), infinite where there is none; in one batch.

        Args:
            points: source points of the samples at work.
            draws: their numbers (b, J), where they are draws.
            solver: in place of the search's own.
        """
        return self.judged(points, self.solved(points, solver, draws=draws), draws)

    def solved(
        self,
        x: Tensor,
        solver: Solver | Sampler | None = None,
        start: float = 0.0,
        kinds: Tensor | None = None,
        draws: Tensor | None = None,
    ) -> Tensor:
        """Final states (b, J, *) of states x (b, J, *) at a time, in one batch.

        Args:
            x: states of the samples at work.
            solver: in place of the search's own.
            start: the time.
            kinds: variants that they are of (b, J); the first by default.
            draws: numbers (b, J) that tell the noise in a sampler's steps apart.
        """
        prior, solver = self.candidates(x.shape[1], kinds)[0], solver or self.solver
        points = x.flatten(0, 1)
        if isinstance(solver, Sampler):
            assert draws is not None
            seeds = further(self.seeds.unsqueeze(1), draws).flatten()
            ends = solver.finish(prior, points, seeds, start)
        else:
            ends = solver(BoundVelocity(prior), points, start, 1.0)
        return ends.unflatten(0, x.shape[:2])

    def judged(
        self,
        points: Tensor,
        ends: Tensor,
        draws: Tensor | None = None,
        kinds: Tensor | None = None,
    ) -> Tensor:
        """Costs (b, J) of final states (b, J, *), infinite where there is none; in one batch.

        Args:
            points: what is remembered of each as its point, shape (b, J, *).
            ends: states at t = 1.
            draws: see `score`.
            kinds: variants that they are of (b, J); the first by default.
        """
        shape = points.shape[:2]
        prior, cost = self.candidates(shape[1], kinds)
        signals = prior.codec.decode(ends.flatten(0, 1))
        whole = flat(signals).isfinite().all(1)
        costs = cost(signals).detach().to(points.dtype)
        costs = torch.where(whole & costs.isfinite(), costs, torch.inf).unflatten(0, shape)
        self.calls = self.calls.index_add(0, self.rows, torch.full_like(self.rows, shape[1]))
        seen = self._seen[self.rows] | whole.unflatten(0, shape).any(1)
        self._seen = self._seen.index_copy(0, self.rows, seen)
        self._improve(points, signals.unflatten(0, shape), costs, draws, kinds)
        return costs

    def _improve(
        self,
        points: Tensor,
        signals: Tensor,
        costs: Tensor,
        draws: Tensor | None,
        kinds: Tensor | None,
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
        if kinds is not None:
            self.kinds = improved(self.kinds, kinds[each, place])

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
        self.prior, self.cost = self._of(self.rows)
        self.seeds = self._whole[2][self.rows]
        return kept

    def end(self, status: Status) -> None:
        """Samples that are running still end so."""
        self.status = torch.where(self.status == Status.RUNNING, int(status), self.status)

    def result(self, method: str) -> Result:
        """Of all samples, as it stands."""
        prior, _, seeds = self._whole
        if self.variants > 1:
            prior = self._of(torch.arange(len(seeds), device=seeds.device), self.kinds)[0]
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
