"""The best of several starts of every molecule, counted for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ctrlgen.domains.molecules.molecule_batches import Generated, gather
from ctrlgen.rows.counts import Evaluations

__all__ = ["Best"]

_COURSES = {
    "cost": "costs",
    "evaluations": "evaluations",
    "objective_calls": "objective_calls",
    "starts": "starts",
}
"""Names in the history, and the fields of `Generated` that they follow."""


class Best:
    """The best start of each molecule so far, counted for all of them, and the course of that."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts: dict[int, tuple[Generated, float]] = {}
        self.courses: dict[str, list[Tensor]] = {name: [] for name in _COURSES}

    def satisfied(self, row: int) -> bool:
        """Whether a molecule has what was asked."""
        return bool(self.starts[row][0].satisfied)

    def add(self, rows: Sequence[int], found: Generated, scores: Sequence[float]) -> None:
        """Compare a start of some molecules with the best one of each."""
        for place, (row, score) in enumerate(zip(rows, scores, strict=True)):
            one = found.take(torch.tensor([place]))
            self.starts[row] = _better(self.starts.get(row), one, score)

    def round(self) -> None:
        """All that were to start have done so."""
        found = gather([self.starts[row][0] for row in range(self.number)])
        for name, course in self.courses.items():
            course.append(getattr(found, _COURSES[name]))

    def molecules(
        self, network: Evaluations, cut: tuple[Sequence[int], Generated] | None = None
    ) -> Generated | None:
        """All of them; None while one has not begun.

        Args:
            network: passes of the whole run.
            cut: rows and molecules of a start that was cut off, for those that have no other.
        """
        best = {row: found for row, (found, _) in self.starts.items()}
        for place, row in enumerate(cut[0] if cut else ()):
            best.setdefault(row, cut[1].take(torch.tensor([place])))  # type: ignore[index]
        if len(best) < self.number:
            return None
        found = gather([best[row] for row in range(self.number)])
        courses = {
            name: course or [getattr(found, _COURSES[name])]
            for name, course in self.courses.items()
        }
        found.network = network
        found.history = {name: torch.stack(course) for name, course in courses.items()}
        return found


def _better(
    old: tuple[Generated, float] | None, new: Generated, score: float
) -> tuple[Generated, float]:
    """The better of two starts, with the counts of both."""
    if old is None:
        return new, score
    best, kept = (new, score) if score < old[1] else old
    best = copy.copy(best)
    for name in ("evaluations", "backward_passes", "objective_calls", "starts"):
        setattr(best, name, getattr(new, name) + getattr(old[0], name))
    return best, kept
