"""What an optimizer remembers of each row: the points themselves, the best one, the history."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.batching import expand_like, take

__all__ = ["Point", "Record"]


class Point(NamedTuple):
    """A point per row with all that is known there.

    Attributes:
        x: shape (b, d).
        value: shape (b,).
        monitor: shape (b,).
        aux: shape (b, *), or None.
        gradient: of value in x, shape (b, d).
        gradient_norm: its max-norm, shape (b,).
    """

    x: Tensor
    value: Tensor
    monitor: Tensor
    aux: Tensor | None
    gradient: Tensor
    gradient_norm: Tensor

    @property
    def finite(self) -> Tensor:
        """Rows whose value and gradient are finite, shape (b,)."""
        return self.value.isfinite() & self.gradient_norm.isfinite()

    def take(self, index: Tensor) -> Point:
        """The rows `index`."""
        return Point(*(take(field, index) for field in self))

    def where(self, mask: Tensor, other: Point) -> Point:
        """This point, replaced by `other` in the rows of `mask`, shape (b,)."""
        return Point(
            *(
                old if old is None else torch.where(expand_like(mask, old), new, old)
                for old, new in zip(self, other, strict=True)
            )
        )

    def reported(self) -> dict[str, Tensor]:
        """The fields that a solution reports: all but the gradient, and aux where there is one."""
        fields = self._asdict()
        return {k: v for k, v in fields.items() if k != "gradient" and v is not None}


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
        count = torch.zeros_like(first.value, dtype=torch.int64)
        self._history = {
            name: like.new_zeros(16, len(like))
            for name, like in (
                ("value", first.value),
                ("monitor", first.monitor),
                ("evaluations", count),
            )
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
            news: "value", "monitor" and "evaluations", each of shape (b,).
        """
        for name, new in news.items():
            table = self._history[name]
            table[entry, rows] = torch.where(moved, new, table[entry, rows])

    def make_room(self, entries: int) -> None:
        """Let the history hold at least so many entries per row."""
        while len(self._history["value"]) < entries:
            for name, table in self._history.items():
                self._history[name] = torch.cat([table, torch.zeros_like(table)])

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

    def best_of_all(self, name: str, rows: Tensor) -> Tensor:
        """One field at the best points so far of all rows, shape (B, *)."""
        return self.final[name].index_copy(0, rows, self.best[name])

    def history(self, iterations: Tensor) -> dict[str, Tensor]:
        """The history up to each row's last iteration, (B,), repeated from there: (R, B) each."""
        last = int(iterations.max())
        entry = torch.arange(last + 1, device=iterations.device)[:, None].minimum(iterations)
        return {name: table.gather(0, entry) for name, table in self._history.items()}
