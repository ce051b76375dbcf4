"""The search for molecules as a method: what a run (`ctrlgen.runs`) calls, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.molecule_batches import Generated
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event, Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Course", "Steering"]


@dataclass(frozen=True)
class Steering:
    """The search of a designer as a method: molecules of some seeds, by themselves.

    Attributes:
        designer: networks and wish.
        settings: how.
        lead: molecule to begin with.
        radius: of the ball around its source points; see `Designer.lead_task`.
        rank: see `generation.generate`.
    """

    designer: Designer
    settings: Settings
    lead: Mol | None = None
    radius: float = 0.0
    rank: Callable[[Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        return f"Steering({self.designer!r}, {self.settings!r})"

    def task(self) -> Task:
        """What is wanted; raises ValueError for a lead or a radius that cannot be."""
        if self.lead is None:
            return self.designer.task()
        return self.designer.lead_task(self.lead, self.radius, self.settings)

    def __call__(
        self, prior: Prior, cost: Any = None, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """The best start of each molecule; the designer's wish is the cost.

        Args:
            prior: that of the designer.
            cost: not looked at.
            seeds: one per molecule.
            observer: receives the events of every batch, of all molecules each.
        """
        watch = None if observer is None else Course(observer, len(seeds)).part

        def result(generated: Generated | None) -> Result | None:
            return generated and generated.plain(repr(self))

        with carrying(result):
            return generate(
                prior, self.task(), seeds, self.settings, rank=self.rank, watch=watch
            ).plain(repr(self))


class Course:
    """Events of batches of a search, told as those of all its molecules."""

    def __init__(self, observer: Observer, number: int) -> None:
        value, count = torch.full((number,), torch.nan), torch.zeros(number, dtype=torch.int64)
        self.observer = observer
        self.event = Event(0, count, value, value, count, count, count, count)

    def part(self, turn: int, rows: Tensor, seeds: Tensor) -> Observer:
        """The observer of a batch of some rows."""

        def observe(event: Event) -> None:
            own = event._asdict() | {"rows": rows[event.rows.to(rows.device)]}
            for name in ("value", "monitor", "iterations", "calls", "status", "evaluations"):
                value, place = getattr(self.event, name), rows.to(event.status.device)
                value = value.to(event.value) if value.is_floating_point() else value.to(place)
                if own[name] is not None:
                    own[name] = value.index_copy(0, place, own[name])
            self.event = Event(**own)
            self.observer(self.event)

        return observe
