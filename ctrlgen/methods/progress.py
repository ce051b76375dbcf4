"""What a walk over the noise levels remembers of each row: its cost, its counts, how it ended."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Event
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.status import Status

__all__ = ["History"]


class History:
    """Costs and counts, step by step; rows that have ended repeat their last entry."""

    def __init__(self, x: Tensor, meter: Meter) -> None:
        self._meter = meter
        self.iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        none = torch.zeros_like(self.iterations)
        self.counts = {"evaluations": none, "backward_passes": none, "objective_calls": none}
        self.cost = x.new_full((len(x),), torch.inf)
        self._tables: dict[str, list[Tensor]] = {
            "cost": [],
            "evaluations": [],
            "objective_calls": [],
        }

    def write(self, alive: Tensor, cost: Tensor, calls: int, last: bool = False) -> None:
        """Note a step: its costs (B,), and the run's objective calls up to here."""
        self.cost = torch.where(alive & cost.isfinite(), cost.to(self.cost), self.cost)
        self.iterations = self.iterations + (0 if last else alive.long())
        now = {
            "evaluations": self._meter.evaluations,
            "backward_passes": self._meter.backward_passes,
            "objective_calls": torch.full_like(self.iterations, calls),
        }
        self.counts = {k: torch.where(alive, now[k], old) for k, old in self.counts.items()}
        self._tables["cost"].append(self.cost)
        for name in ("evaluations", "objective_calls"):
            self._tables[name].append(self.counts[name])

    def status(self, alive: Tensor, finished: bool = False) -> Tensor:
        """`Status` of each row."""
        well = Status.FINISHED if finished else Status.RUNNING
        return torch.where(alive, int(well), int(Status.DIVERGED))

    def event(self, alive: Tensor) -> Event:
        """What the observer hears after a step."""
        rows = alive.nonzero().squeeze(1)
        return Event(
            round=len(self._tables["cost"]),
            rows=rows,
            value=self.cost,
            monitor=self.cost,
            iterations=self.iterations,
            calls=self.counts["objective_calls"],
            status=self.status(alive),
            evaluations=self.counts["evaluations"],
        )

    def tables(self) -> dict[str, Tensor]:
        """Per step and at the end, shape (n + 1, B) each; `value` is the cost."""
        none = {"cost": self.cost, **self.counts}  # where no step has ended yet
        tables = {
            name: torch.stack(rows) if rows else none[name][None][:0]
            for name, rows in self._tables.items()
        }
        return {"value": tables["cost"], **tables}
