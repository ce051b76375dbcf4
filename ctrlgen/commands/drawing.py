"""The plan of a command that draws from a prior, with or without a score that steers: what images
and sounds share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ctrlgen.commands import console
from ctrlgen.commands.scoring import Scoring
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.job import Batch, Job
from ctrlgen.runs.store import Store
from ctrlgen.runs.unsteered import Unsteered, lost
from ctrlgen.solvers.failures import lost_text

__all__ = ["PriorDrawing"]


@dataclass(frozen=True)
class PriorDrawing:
    """One sample per seed, of the prior alone or by a score; see `ctrlgen.runs.job.Plan`.

    Subclasses write `bound`, `cost`, `finish` and `show`, and say `what` they draw.

    Attributes:
        prior: name, or path of a card.
        first_seed: seeds count up from here.
        number: of samples.
        steps: midpoint steps.
        device: of the run.
        batch: samples of a unit.
        scoring: how a score steers; None where nothing is asked.
    """

    prior: str
    first_seed: int = 0
    number: int = 64
    steps: int = 50
    device: str = "cpu"
    batch: Batch = 64
    scoring: Scoring | None = None

    what: ClassVar[str] = "samples"

    @abstractmethod
    def bound(self) -> Prior:
        """The prior, bound to what is asked of all samples.

        Raises:
            ValueError: for a prior of something else, or conditions that it does not know.
        """

    @abstractmethod
    def cost(self, scoring: Scoring) -> Any:
        """The score as a cost of signals."""

    def job(self) -> Job:
        """The job; raises as `bound`."""
        prior, cost = self.bound(), None
        seeds = range(self.first_seed, self.first_seed + self.number)
        method: Any = Unsteered(prior.solver(self.steps))
        if self.scoring is not None:
            cost, method = self.cost(self.scoring), self.scoring.method(prior, self.steps)
        return Job(prior, cost, method, seeds, self.batch)

    def files(self) -> list[Path]:
        """The card and the score's file, where they are the user's."""
        own = [Path(self.prior)] if self.prior.endswith(".json") else []
        return [*own, *self.code]

    @property
    def code(self) -> list[Path]:
        """The user's own file, which the run executes."""
        return [] if self.scoring is None else self.scoring.code

    def scores(self, store: Store) -> list[dict[str, Any]] | None:
        """The score of every sample that is there, None where it has none; None without a score."""
        if self.scoring is None:
            return None
        return [
            {"seed": r["seed"], "score": r["cost"] if isinstance(r["cost"], float) else None}
            for r in store.records()
        ]

    def lost(self, job: Job, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Samples that are no numbers; of those that nothing steers, the step at which they ceased
        to be."""
        if self.scoring is None:
            return lost(job, ids)
        return [{"seed": int(job.seeds[i]), "step": None} for i in ids]

    def progress(self, job: Job) -> dict[str, Any]:
        """Costs of nothing are not shown."""
        return {} if self.scoring is not None else {"shown": lambda _: float("inf")}

    def put(self, job: Job, store: Store) -> None:
        """Samples of a prior share nothing."""

    def refuse(self, lost: Sequence[dict[str, Any]], good: int, store: Store) -> None:
        """Raise ValueError for samples that are no numbers, after the good ones were written.

        Args:
            lost: as `ctrlgen.runs.unsteered.lost` tells of them.
            good: samples that were written.
            store: of the run.
        """
        if not lost:
            return
        if good:
            console.warn(f"{good} of {len(store)} {self.what} are in {store.folder}")
        if self.scoring is not None:
            names = ", ".join(str(item["seed"]) for item in lost[:8])
            raise ValueError(f"prior: no candidate is a number; seeds {names}")
        raise ValueError(f"prior: {lost_text(lost, self.steps)}")
