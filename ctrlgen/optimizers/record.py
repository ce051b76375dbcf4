"""What an optimizer remembers of each row, its best point and its history, and tells of a round."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Event
from ctrlgen.optimizers.linesearch import rounding_of
from ctrlgen.optimizers.points import Point
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.status import Status

__all__ = ["Record", "Round"]


class Record:
    """The best point of every row, and the history of all of them.

    Args:
        first: the initial points of all B rows.

    Attributes:
        best: best points of the running rows, by field, shape (b, *).
        final: best points of all rows by field, shape (B, *); a row is written when it leaves.
    """

    def __init__(self, first: Point) -> None:
        self.best = {name: field.clone() for name, field in first.reported().items()}
        self.final = {name: torch.empty_like(field) for name, field in self.best.items()}
        self._writes = 0
        self._history = {
            "value": first.value[None].clone(),
            "monitor": first.monitor[None].clone(),
            "calls": torch.ones_like(first.value, dtype=torch.int64)[None],
        }

    def better(self, point: Point, status: Tensor) -> Tensor:
        """Rows whose point is better than their best: lower, or as low and flatter, shape (b,).

        Where the gradient ends a row, status (b,), a lower value before it is rounding.
        """
        best = self.best["value"]
        flatter = point.gradient_norm < self.best["gradient_norm"]
        better = (point.value < best) | ((point.value == best) & flatter)
        ended = status == Status.CONVERGED_GRADIENT
        level = point.value - best <= rounding_of(point.value)
        return better | (ended & level & flatter)

    def improve(self, better: Tensor, point: Point) -> None:
        """Replace the best points in the rows of a mask, shape (b,)."""
        for name, field in point.reported().items():
            self.best[name] = torch.where(expand_like(better, field), field, self.best[name])

    def write(self, moved: Tensor, entry: Tensor, rows: Tensor, news: dict[str, Tensor]) -> None:
        """Write history entries.

        Args:
            moved: which of the running rows have news, bool of shape (b,).
            entry: iteration number of each running row, int64 of shape (b,).
            rows: original number of each running row, int64 of shape (b,).
            news: "value", "monitor" and "calls", each of shape (b,).
        """
        self._writes += 1  # no row has more iterations than that
        for name, new in news.items():
            table = self._history[name]
            if self._writes > len(table):
                table = self._history[name] = torch.cat([table, torch.zeros_like(table)])
            table[entry, rows] = torch.where(moved, new, table[entry, rows])

    def leave(self, gone: Tensor, kept: Tensor, rows: Tensor) -> None:
        """File the rows at positions `gone` for good and go on with those at `kept`.

        Args:
            gone: positions among the running rows, int64 of shape (b - b',).
            kept: the other positions, int64 of shape (b',).
            rows: original numbers of the running rows, int64 of shape (b,).
        """
        for name, field in self.best.items():
            self.final[name][rows[gone]] = field[gone]
            self.best[name] = field[kept]

    def event(
        self, round: int, rows: Tensor, iterations: Tensor, calls: Tensor, status: Tensor
    ) -> Event:
        """The news of a round for an observer, who may keep it: nothing in it changes later."""
        value, monitor = (
            self.final[name].index_copy(0, rows, self.best[name]) for name in ("value", "monitor")
        )
        counts = iterations.clone(), calls.clone(), status.clone()
        return Event(round, rows, value, monitor, *counts)

    def history(self, iterations: Tensor) -> dict[str, Tensor]:
        """The history up to each row's last iteration, (B,), repeated from there: (R, B) each."""
        last = int(iterations.max())
        entry = torch.arange(last + 1, device=iterations.device)[:, None].minimum(iterations)
        return {name: table.gather(0, entry) for name, table in self._history.items()}


class Round(NamedTuple):
    """What a round has changed, for the rows that go on.

    Attributes:
        kept: positions of these rows in the round's batch, or None where nobody has left.
        fresh: rows that start an iteration: they have moved or restart, bool of shape (b,).
        restarted: rows that must forget their past, bool of shape (b,).
        starting: how many rows are `fresh`, known to the host.
        watched: the largest entry of the tensor that the method asked about.
    """

    kept: Tensor | None
    fresh: Tensor
    restarted: Tensor
    starting: int
    watched: int
