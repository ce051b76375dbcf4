"""The plan of a command that draws from a prior: what images and sounds share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ctrlgen.commands import console
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.job import Batch, Job
from ctrlgen.runs.store import Store
from ctrlgen.runs.unsteered import Unsteered
from ctrlgen.solvers.failures import lost_text

__all__ = ["PriorDrawing"]


@dataclass(frozen=True)
class PriorDrawing:
    """One sample per seed, which nothing is asked of; see `ctrlgen.runs.job.Plan`.

    Subclasses write `bound`, `finish` and `show`, and say `what` they draw.

    Attributes:
        prior: name, or path of a card.
        first_seed: seeds count up from here.
        number: of samples.
        steps: midpoint steps.
        device: of the run.
        batch: samples of a unit.
    """

    prior: str
    first_seed: int = 0
    number: int = 64
    steps: int = 50
    device: str = "cpu"
    batch: Batch = 64

    what: ClassVar[str] = "samples"

    @abstractmethod
    def bound(self) -> Prior:
        """The prior, bound to what is asked of all samples.

        Raises:
            ValueError: for a prior of something else, or conditions that it does not know.
        """

    def job(self) -> Job:
        """The job; raises as `bound`."""
        prior = self.bound()
        seeds = range(self.first_seed, self.first_seed + self.number)
        return Job(prior, None, Unsteered(prior.solver(self.steps)), seeds, self.batch)

    def files(self) -> list[Path]:
        """The card, where it is a file of the user's."""
        return [Path(self.prior)] if self.prior.endswith(".json") else []

    def progress(self, job: Job) -> dict[str, Any]:
        """Costs of nothing are not shown."""
        return {"shown": lambda _: float("inf")}

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
        raise ValueError(f"prior: {lost_text(lost, self.steps)}")
