"""What a walk over the noise levels remembers of each row: its cost, its counts, how it ended."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Event
from ctrlgen.results import Status

__all__ = ["History"]


class History:
    """Costs and counts, step by step; rows that have ended repeat their last entry."""

    def __init__(self, x: Tensor, spent: int) -> None:
        self._first = spent
        self.iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.evaluations = torch.zeros_like(self.iterations)
        self._cost = x.new_full((len(x),), torch.inf)
        self._tables: dict[str, list[Tensor]] = {"cost": [], "evaluations": []}

    def write(self, alive: Tensor, cost: Tensor, spent: int, last: bool = False) -> None:
        """Note a step: its costs (B,), and the network's evaluations of the run up to here."""
        self._cost = torch.where(alive & cost.isfinite(), cost.to(self._cost), self._cost)
        self.iterations = self.iterations + (0 if last else alive.long())
        now = torch.full_like(self.evaluations, spent - self._first)
        self.evaluations = torch.where(alive, now, self.evaluations)
        self._tables["cost"].append(self._cost)
        self._tables["evaluations"].append(self.evaluations)

    def status(self, alive: Tensor, finished: bool = False) -> Tensor:
        """`Status` of each row."""
        well = Status.FINISHED if finished else Status.RUNNING
        return torch.where(alive, int(well), int(Status.DIVERGED))

    def event(self, alive: Tensor) -> Event:
        """What the observer hears after a step."""
        rows = alive.nonzero().squeeze(1)
        counts = self.iterations, self.evaluations, self.status(alive)
        return Event(len(self._tables["cost"]), rows, self._cost, self._cost, *counts)

    def tables(self) -> dict[str, Tensor]:
        """Per step and at the end, shape (n + 1, B) each; `value` is the cost."""
        tables = {name: torch.stack(rows) for name, rows in self._tables.items()}
        return {"value": tables["cost"], **tables}
