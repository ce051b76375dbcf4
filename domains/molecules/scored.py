"""Molecules of a file, scored: a run without a method, whose records are those of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.inputs import check_records
from ctrlgen.domains.molecules.options import Score
from ctrlgen.domains.molecules.plans import METRIC, Molecules
from ctrlgen.domains.molecules.readers import Record, read_records
from ctrlgen.domains.molecules.reports import finish
from ctrlgen.domains.molecules.sampling import evaluator_of
from ctrlgen.domains.molecules.states import Atoms
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job
from ctrlgen.runs.store import Store

__all__ = ["Given", "Scoring"]


@dataclass(frozen=True)
class Given:
    """A method that does nothing: its samples are those of the metric."""

    def __call__(
        self,
        prior: Prior,
        cost: Any = None,
        *,
        seeds: Sequence[int],
        observer: Observer | None = None,
    ) -> Result:
        """Nothing, for each of some seeds."""
        rows = torch.tensor(seeds)
        zero = torch.zeros_like(rows)
        nothing = torch.zeros(len(rows), 1)
        return Result(
            samples=nothing, controls=nothing.clone(), costs=nothing.flatten(),
            status=zero + int(Status.FINISHED), seeds=rows, iterations=zero, evaluations=zero,
            backward_passes=zero, objective_calls=zero, method="Given()",
        )  # fmt: skip


class Still(torch.nn.Module):
    """The velocity of what does not move."""

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(x)


@dataclass(frozen=True)
class Filed:
    """Columns of the records of a file, as a metric of samples by their places.

    Attributes:
        columns: of molecules.
        records: of the file, which the key of a run has by its sha256.
    """

    columns: Columns
    records: Sequence[Record] = field(compare=False, repr=False)

    def take(self, index: Tensor) -> Filed:
        """Those of some records."""
        return replace(self, records=[self.records[i] for i in index.tolist()])

    def __call__(self, samples: Tensor) -> list[dict[str, Any]]:
        """One mapping per record."""
        return self.columns.given(self.records)


@dataclass(frozen=True)
class Scoring(Molecules):
    """The molecules of a file.

    Attributes:
        file: with the molecules.
    """

    options: Score
    file: Path = Path()

    def records(self) -> list[Record]:
        """Those of the file.

        Raises:
            ValueError: if it cannot be read, or with --strict for the first record that cannot be
                scored.
        """
        records = read_records(self.file, "file", self.options.embed)
        if self.options.strict:
            check_records(records, self.file)
        return records

    @property
    def count(self) -> int:
        return len(self.records())

    def job(self) -> Job:
        """The job."""
        options, records = self.options, self.records()
        columns = Columns(
            "qm9", evaluator=evaluator_of(options.evaluator), xtb=options.xtb,
            posebusters=options.posebusters,
        )  # fmt: skip
        none = Prior(Flow(Still(), CondOT()), Atoms(2, 8))
        seeds, unit = [record.number for record in records], options.size(len(records))
        metrics = {METRIC: Filed(columns, records)}
        return Job(none, None, Given(), seeds, unit, metrics, patience=None)

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """SDF, XYZ, CSV, JSON and figure."""
        return finish(store, self.out, None)
