"""What remains of the samples of a run of sweeps: how they ended, the best of each, what it spent.

Rows of the working set are given by their places among all samples, (b,); whatever is not theirs
stays as it is, so that a sample that has left keeps what it had.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event, Observer
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.status import Status

__all__ = ["Record"]


class Record:
    """Of B samples.

    Args:
        best: value, cost, final state and controls of every sample to begin with, (B, *).
        meter: of the run's network.
        observer: hears of every round, or None.

    Attributes:
        best: as given, and what `improve` has put in its place.
        status: (B,), RUNNING at first.
        iterations: (B,), that have lowered a sample's value.
        calls: (B,), objective calls so far.
    """

    def __init__(self, best: dict[str, Tensor], meter: Meter, observer: Observer | None) -> None:
        self.best, self._meter, self._observer = best, meter, observer
        none = torch.zeros_like(best["value"], dtype=torch.int64)
        self.status, self.iterations, self.calls = none, none.clone(), none.clone()
        self._counts = {
            name: none.clone() for name in ("evaluations", "backward_passes", "objective_calls")
        }
        self._tables: dict[str, list[Tensor]] = {
            name: [] for name in ("value", "cost", "evaluations", "objective_calls")
        }

    def close(self, rows: Tensor, which: Tensor, status: Status) -> None:
        """Give rows of a mask (b,) a status, unless they have one."""
        now = self.status[rows]
        self.status[rows] = torch.where(which & (now == Status.RUNNING), int(status), now)

    def improve(self, rows: Tensor, which: Tensor, news: dict[str, Tensor]) -> None:
        """Take what is new, (b, *) each, for the rows of a mask (b,)."""
        for name, new in news.items():
            old = self.best[name][rows]
            self.best[name][rows] = torch.where(expand_like(which, new), new, old)

    def count(self, rows: Tensor) -> None:
        """What was spent on the rows that run; what a row has spent when it leaves stays."""
        spent = {
            "evaluations": self._meter.evaluations,
            "backward_passes": self._meter.backward_passes,
            "objective_calls": self.calls,
        }
        for name, count in spent.items():
            self._counts[name][rows] = count[rows]

    def note(self, rows: Tensor) -> None:
        """Enter a round in the tables, and tell the observer."""
        self.count(rows)
        news = {**self.best, **self._counts}
        for name, table in self._tables.items():
            table.append(news[name].clone())
        if self._observer is None:
            return
        latest = {name: table[-1] for name, table in self._tables.items()}
        event = Event(
            round=len(self._tables["value"]),
            rows=(self.status == Status.RUNNING).nonzero().squeeze(1),
            value=latest["value"],
            monitor=latest["cost"],
            iterations=self.iterations.clone(),
            calls=latest["objective_calls"],
            status=self.status.clone(),
            evaluations=latest["evaluations"],
        )
        self._observer(event)

    def result(self, samples: Tensor, costs: Tensor, seeds: Tensor) -> Result:
        """All of it; the method's name is the caller's."""
        return Result(
            samples=samples,
            controls=self.best["controls"],
            costs=costs,
            status=self.status,
            seeds=seeds,
            iterations=self.iterations,
            evaluations=self._counts["evaluations"],
            backward_passes=self._counts["backward_passes"],
            objective_calls=self._counts["objective_calls"],
            network=self._meter.total,
            history={name: torch.stack(table) for name, table in self._tables.items()},
        )
