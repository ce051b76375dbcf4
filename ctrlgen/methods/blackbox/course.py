"""The course of a search by values: what it remembers of its rounds and tells its observer."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, differentiable
from ctrlgen.optimizers.base import Event, Observer
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.status import Status

__all__ = ["Course", "lowest", "unscored"]


class Course:
    """Costs and counts of B samples, round by round.

    Args:
        seeds: of the samples, shape (B,).
        meter: of their network evaluations.
        observer: of the run, if there is one.

    Attributes:
        iterations: of each sample, int64, shape (B,).
    """

    def __init__(self, seeds: Tensor, meter: Meter, observer: Observer | None) -> None:
        self.meter, self._observer = meter, observer
        self.iterations = torch.zeros_like(seeds)
        self._tables: dict[str, list[Tensor]] = {}

    def note(
        self,
        rows: Tensor,
        costs: Tensor,
        calls: Tensor,
        status: Tensor,
        *,
        finished: bool,
        **more: Tensor,
    ) -> None:
        """End a round: remember costs and counts, tell the observer.

        Args:
            rows: numbers of the samples at work, int64, shape (b,).
            costs: the best of every sample so far, shape (B,).
            calls: of the objective, int64, shape (B,).
            status: `Status` of every sample, shape (B,).
            finished: whether the round is one of the method's iterations.
            **more: of all samples (B,), by name, for the history.
        """
        if finished:
            self.iterations = self.iterations.index_add(0, rows, torch.ones_like(rows))
        evaluations = self.meter.evaluations
        entry = {
            "value": costs,
            "cost": costs,
            "evaluations": evaluations,
            "objective_calls": calls,
            **more,
        }
        for name, value in entry.items():
            self._tables.setdefault(name, []).append(value)
        if self._observer is not None:
            self._observer(
                Event(
                    round=len(self._tables["cost"]),
                    rows=rows,
                    value=costs,
                    monitor=costs,
                    iterations=self.iterations,
                    calls=calls,
                    status=status,
                    evaluations=evaluations,
                )
            )

    def tables(self) -> dict[str, Tensor]:
        """What was noted, shape (rounds, B) each."""
        return {name: torch.stack(rows) for name, rows in self._tables.items()}


def lowest(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The least of costs (B, J) of each sample and the place of the first that has it, (B,)."""
    value = costs.min(1).values
    number = torch.arange(costs.shape[1], device=costs.device)
    place = torch.where(costs == value.unsqueeze(1), number, costs.shape[1]).min(1).values
    return value, place


def unscored(seen: Tensor, cost: CostLike) -> Tensor:
    """How samples end of which nothing has a cost, `Status` of shape (B,).

    FAILED where a signal was finite (`seen`, bool) and a black box had nothing to say of it.
    """
    opaque = not differentiable(cost)
    return torch.where(seen & opaque, int(Status.FAILED), int(Status.DIVERGED))
