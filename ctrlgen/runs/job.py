"""What is to be run: a table of independent samples, cut into units by their ids.

    job = Job(prior, cost, method, seeds=range(1000), batch=50, metrics={"loudness": loudness})
    result = run(job, "runs/loud")

Ids are the places of the samples in the table. A unit is `batch` consecutive ids, whoever computes
it and whenever, so that nothing about a sample depends on how the work was shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import rows_of
from ctrlgen.rows.checks import check_kind, check_sizes
from ctrlgen.rows.errors import short
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.runs.fingerprint import fingerprint

__all__ = ["Batch", "Job", "Metric", "Plan", "Work"]

Batch = int | Literal["auto"]
Metric = Callable[[Tensor], Tensor | Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Job:
    """Independent samples of one method.

    Attributes:
        prior: bound to one row of conditions per sample, or to none.
        cost: of all samples: what the method takes.
        method: called as `method(prior, cost, seeds=..., observer=...)`; a `Method`, or anything
            that makes a `Result` of some samples.
        seeds: one per sample.
        batch: samples of a unit, computed together; "auto" for as many as the memory of the device
            holds by a probe (64 on the CPU).
        metrics: by name, of signals (b, *) to one number or text each, or to one mapping each of
            several by their own names; one that holds data of samples has `take`. Their attributes
            `unit` and `better` ("higher", "lower") are remembered for reports.
        patience: seconds after which a metric is given up, sample by sample; None for never.

    Raises:
        TypeError: a part of another kind.
        ValueError: seeds, batch or patience out of range, or a cost of another number of samples.
    """

    prior: Prior
    cost: Any
    method: Callable[..., Result]
    seeds: Seeds
    batch: Batch = 64
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    patience: float | None = 60.0

    def __post_init__(self) -> None:
        check_kind(Prior, prior=self.prior)
        check_kind(Mapping, metrics=self.metrics)
        for name, part in {"method": self.method, **self.metrics}.items():
            if not callable(part):
                raise TypeError(f"{name}: expected a function, got {short(part)}")
        if self.batch != "auto":
            check_sizes(batch=self.batch)
        if self.patience is not None and not self.patience > 0:
            raise ValueError(f"patience: expected seconds > 0 or None, got {self.patience}")
        names = as_seeds(self.seeds).tolist()
        object.__setattr__(self, "seeds", names)
        held = rows_of(self.cost)
        if held is not None and held != len(names):
            raise ValueError(f"cost: holds data of {held} samples, expected {len(names)}")
        self.prior.check_rows(len(names), "seeds")

    def __len__(self) -> int:
        return len(self.seeds)

    def key(self, unit: int) -> dict[str, Any]:
        """What the numbers depend on.

        Args:
            unit: samples of a unit.
        """
        return {
            "unit": unit,
            "device": self.prior.device.type,
            "seeds": fingerprint(torch.tensor(self.seeds)),
            "method": fingerprint(self.method),
            "metrics": fingerprint(dict(self.metrics)),
            "cost": fingerprint(self.cost),
            "prior": fingerprint(self.prior),
        }


class Plan(Protocol):
    """A job by the words of a command: a frozen dataclass of JSON-able fields (`runs.spec`).

    A plan is what a manifest holds, and what workers are sent: each makes the job for itself.
    """

    def job(self) -> Job:
        """The job; reads the files that the plan names."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to compute units of a run.

    Attributes:
        source: the job, or a plan of it, sent as it is.
        key: digest of the run's key.
        unit: samples of a unit.
        chunk: samples at a time within a unit.
        threads: of the arithmetic.
    """

    source: Job | Plan
    key: str
    unit: int
    chunk: int
    threads: int

    def job(self) -> Job:
        """The job itself."""
        return self.source if isinstance(self.source, Job) else self.source.job()
