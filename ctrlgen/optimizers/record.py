"""What an optimizer remembers of each row: its best point and its history."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Event
from ctrlgen.optimizers.points import Point
from ctrlgen.rows.batching import expand_like

__all__ = ["Record"]


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
