"""The working set: which rows are still running, where they are, and how they ended.

Every optimizer here runs in *rounds*. A round is one objective call on all rows that are still
running, each at a trial point of its own:

    while work.active:
        trial = work.evaluate(...)                      # one objective call
        ...                                             # the method judges the trial, row by row
        round = work.close(accepted, point, failure)    # move, record, stop, let rows leave

The working set does all that is not the method itself: it counts objective calls, moves the
iterates, keeps the best one and the history, tests the stopping rules, applies projections, and
compacts the batch as soon as a row has finished. Everything stays on the device but for one
transfer of a few integers a row at the end of each round, from which the host learns who has left.

Rows never influence each other: all tests are masks, all reductions run along a single row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.optimizers.base import (
    Objective,
    Observer,
    Optimizer,
    Projection,
    Solution,
    check_start,
    check_target,
)
from ctrlgen.optimizers.early import Windows
from ctrlgen.optimizers.points import Point, evaluate
from ctrlgen.optimizers.record import Record, Round
from ctrlgen.optimizers.stopping import Stopping
from ctrlgen.rows.batching import flat, partition
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.status import Status

__all__ = ["Round", "WorkingSet"]


class WorkingSet:
    """The running rows of one minimisation. Creating it evaluates the initial point.

    Args:
        rules: the optimizer, for its stopping rules.
        objective, x0, target, observer, projection: as in `Optimizer.minimize`.

    Attributes:
        rows: original numbers of the running rows, int64 of shape (b,).
        at: their current iterates, flattened to (b, d).
        returning: rows whose next evaluation is the projection of their iterate, whatever the
            method proposes for them; bool of shape (b,).
        iterations, calls, status: of all rows, int64 of shape (B,).
    """

    def __init__(
        self,
        rules: Optimizer,
        objective: Objective,
        x0: Tensor,
        *,
        target: float | Tensor | None,
        observer: Observer | None,
        projection: Projection | None,
    ) -> None:
        check_start(rules, objective, x0, projection)
        start = flat(x0.detach())
        self.rules = rules
        self.shape = x0.shape
        self.rows = torch.arange(len(x0), device=x0.device)
        self.rounds = 0
        self._whole = objective, projection
        self._objective, self._projection = objective, projection
        self._target = check_target(target, x0)
        self._observer = observer
        self.status = torch.zeros_like(self.rows)
        self.iterations = torch.zeros_like(self.rows)
        self.calls = torch.zeros_like(self.rows)
        self._reason = torch.zeros_like(self.rows)  # why a row leaves once it is projected
        # The initial point is reached the way a projected point is: from outside the method.
        everyone = torch.ones_like(self.rows, dtype=torch.bool)
        self.returning, self._any_returning = ~everyone, False
        self._admissible = everyone
        self.at = self.evaluate(start, project=everyone)
        keep_start = ~self.at.finite
        self.at = self.at._replace(x=torch.where(keep_start[:, None], start, self.at.x))
        self.record = Record(self.at)
        self._stopping = Stopping(rules, self.at)
        self._windows = None if rules.early is None else Windows(rules.early, self._watched)
        self.returning = everyone
        self.close(~everyone, self.at, self._reason)

    @property
    def active(self) -> int:
        """Number of running rows."""
        return len(self.rows)

    @property
    def objective(self) -> Objective:
        """The functions of the running rows."""
        return self._objective

    @property
    def clock(self) -> Tensor:
        """Iterations of the running rows, int64 of shape (b,)."""
        return self.iterations[self.rows]

    @property
    def spent(self) -> Tensor:
        """Running rows that have no objective call left, shape (b,)."""
        if self.rules.max_evaluations is None:
            return torch.zeros_like(self.returning)
        reserve = 0 if self._projection is None else 1
        return self.calls[self.rows] >= self.rules.max_evaluations - reserve

    @property
    def due(self) -> Tensor:
        """Running rows that are to be projected when they next complete an iteration, (b,)."""
        following = self.clock + 1
        return self._ends_cycle(following) | (following >= self.rules.max_iterations)

    def reached(self, point: Point) -> Tensor:
        """Rows whose monitor meets the target at an unprojected point that may be returned."""
        if self._projection is not None:
            return torch.zeros_like(self.returning)
        return self._on_target(point)

    def evaluate(self, trial: Tensor, project: Tensor | None = None) -> Point:
        """One objective call on the running rows.

        Args:
            trial: the point that the method proposes, shape (b, d).
            project: rows whose trial is projected before it is evaluated, shape (b,).
        """
        projected = self.returning if project is None else self.returning | project
        self._projected = projected
        if self._any_returning:
            trial = torch.where(self.returning[:, None], self.at.x, trial)
        if self._projection is not None and (self._any_returning or project is not None):
            image = flat(self._projection(trial.reshape(-1, *self.shape[1:])).detach())
            trial = torch.where(projected[:, None], image.to(trial), trial)
        self.rounds += 1
        self.calls[self.rows] += 1
        with carrying(self._partial):
            self._trial = evaluate(self._objective, trial.reshape(-1, *self.shape[1:]))
        return self._trial

    def close(
        self,
        accepted: Tensor,
        point: Point,
        failure: Tensor,
        *,
        restart: Tensor | None = None,
        watch: Tensor | None = None,
        edge: Tensor | None = None,
    ) -> Round:
        """End the round: move the rows, record, test the stopping rules, let rows leave.

        Args:
            accepted: rows that complete an iteration by moving to `point`, shape (b,).
            point: where they go.
            failure: `Status` of rows on which the method gives up, RUNNING elsewhere, shape (b,).
            restart: rows that stay where they are and forget their past, shape (b,).
            watch: integers of shape (b,) whose maximum the method wants to know on the host.
            edge: rows that what is not finite keeps from moving further, shape (b,); where they
                hardly move at all they have diverged, not converged.
        """
        previous, returning = self.at, self.returning
        arrived = returning & self._trial.finite
        if self._any_returning:
            point = point.where(returning, self._trial)
        failure = failure.masked_fill(returning, Status.RUNNING)
        failure = failure.masked_fill(returning & ~arrived, Status.DIVERGED)
        accepted = accepted & ~returning
        moved = accepted | arrived
        self.at = previous.where(moved, point)
        self.iterations[self.rows] += accepted
        cycle = accepted & self._ends_cycle(self.clock)
        if self._projection is None:
            restarted = arrived | cycle
        else:
            restarted = moved & self._projected
            self._admissible = torch.where(moved, self._projected, self._admissible)

        if self._windows is not None:
            self._windows.see(moved, self._watched)
        status = self._stopping.judge(
            previous,
            self.at,
            accepted=accepted,
            moved=moved,
            met=moved & self._admissible & self._on_target(self.at),
            failure=failure,
            reason=self._reason,
            clock=self.clock,
            spent=self.spent,
            steady=None if self._windows is None else self._windows.spent,
            edge=edge,
        )
        self._write(moved, status)
        self.returning = torch.zeros_like(returning)
        if self._projection is not None:
            # A row that wants to leave from an unprojected point is projected first.
            outside = (status != Status.RUNNING) & (status != Status.DIVERGED) & ~self._admissible
            self._reason = torch.where(outside, status, Status.RUNNING)
            status = status.masked_fill(outside, Status.RUNNING)
            self.returning = outside | (cycle & ~self._admissible)
        self.status[self.rows] = status

        if restart is not None:
            restarted = restarted | restart
        fresh = moved | restarted
        flags = (status, self.returning, fresh, fresh if watch is None else watch)
        host = torch.stack([flag.long() for flag in flags]).cpu()  # the round's one transfer
        running = host[0] == Status.RUNNING
        kept = None
        if not running.all():
            kept = self._compact(status == Status.RUNNING, int(running.sum()))
            fresh, restarted, host = fresh[kept], restarted[kept], host[:, running]
        self._any_returning = bool(host[1].any())
        if self._observer is not None:
            counts = self.iterations, self.calls, self.status
            with carrying(self._partial):
                self._observer(self.record.event(self.rounds, self.rows, *counts))
        watched = int(host[3].max()) if self.active else 0
        return Round(kept, fresh, restarted, int(host[2].sum()), watched)

    def solution(self) -> Solution:
        """The outcome, rows in their original order."""
        final = self.record.final
        return Solution(
            x=final["x"].reshape(self.shape),
            value=final["value"],
            monitor=final["monitor"],
            aux=final.get("aux"),
            gradient_norm=final["gradient_norm"],
            status=self.status,
            iterations=self.iterations,
            calls=self.calls,
            rounds=self.rounds,
            history=self.record.history(self.iterations),
        )

    def _partial(self, _: object) -> Solution | None:
        """The outcome as it stands, for an error that ends the run."""
        if not hasattr(self, "record"):
            return None
        for name, field in self.record.best.items():
            self.record.final[name][self.rows] = field
        return self.solution()

    @property
    def _watched(self) -> Tensor:
        """What early stopping looks at, shape (b, *)."""
        return self.at.x if self.at.aux is None else self.at.aux

    def _ends_cycle(self, iterations: Tensor) -> Tensor:
        every = self.rules.restart_every
        if every is None:
            return torch.zeros_like(self.returning)
        return iterations % every == 0

    def _on_target(self, point: Point) -> Tensor:
        if self._target is None:
            return torch.zeros_like(self.returning)
        return point.monitor <= self._target[self.rows]

    def _write(self, moved: Tensor, status: Tensor) -> None:
        at, record = self.at, self.record
        better = record.better(at, status)
        if self._windows is not None:
            better = torch.where(self._windows.full, self._windows.lower, better)
        better = moved & self._admissible & better
        record.improve(better | (status == Status.TARGET), at)
        news = {"value": at.value, "monitor": at.monitor, "calls": self.calls[self.rows]}
        record.write(moved, self.clock, self.rows, news)

    def _compact(self, running: Tensor, count: int) -> Tensor:
        """Keep the rows of a mask of shape (b,), so many, and return their positions."""
        kept, gone = partition(running, count)
        self.record.leave(gone, kept, self.rows)
        self.rows, self.at = self.rows[kept], self.at.take(kept)
        self.returning, self._admissible = self.returning[kept], self._admissible[kept]
        self._reason = self._reason[kept]
        self._stopping.keep(kept)
        if self._windows is not None:
            self._windows.keep(kept)
        if self.active:
            objective, projection = self._whole
            self._objective = objective.take(self.rows)
            if projection is not None and hasattr(projection, "take"):
                self._projection = projection.take(self.rows)
        return kept
