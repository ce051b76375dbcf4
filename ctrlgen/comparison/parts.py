"""One part of a comparison: a method on some problems, as a run folder, and what it came to.

A part is computed in blocks of problems, as far as its race takes it; one that is left behind is a
run that is not whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.comparison import calibration
from ctrlgen.comparison.judges import judges, present
from ctrlgen.comparison.posed import Rows
from ctrlgen.comparison.racing import looks
from ctrlgen.comparison.verdicts import means
from ctrlgen.methods.base import Method
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.executors import Local
from ctrlgen.runs.job import Job
from ctrlgen.runs.locks import Held
from ctrlgen.runs.runner import RunObserver, begin, execute
from ctrlgen.runs.schema import RESULT, TENSORS
from ctrlgen.runs.store import Store

if TYPE_CHECKING:
    from ctrlgen.comparison.study import Study

__all__ = ["Part", "PartRun"]


@dataclass(frozen=True)
class Part:
    """A method on some problems.

    Attributes:
        title: a line for people.
        method: with its settings.
        rows: the samples.
    """

    title: str
    method: Method
    rows: Rows


@dataclass(frozen=True)
class _First(Local):
    """This process, the first so many units."""

    count: int = 0

    def select(self, units: Sequence[int]) -> list[int]:
        return [unit for unit in units if unit < self.count]


class PartRun:
    """A part in its run folder.

    Args:
        part: what is computed.
        budget: evaluations that a sample may take.
        folder: of the run.
        study: the comparison.
        sigma: of the noise of all problems, or what stands for it (`judges.tolerance`).
        observer: of the run.

    Attributes:
        problems: that are computed, the first so many.
        reason: why it goes no further; None while it does.
    """

    def __init__(
        self,
        part: Part,
        budget: int,
        folder: Path,
        study: Study,
        sigma: float,
        observer: RunObserver | None = None,
    ) -> None:
        self.part, self.budget, self.folder, self.study = part, budget, folder, study
        self.sigma, self.observer = sigma, observer
        self.problems = 0
        self.reason: str | None = None
        self._work: tuple[Job, Store] | None = None

    def __call__(self, problems: int) -> list[float | None] | None:
        """Values of the criterion of the first so many problems, computed where they are missing.

        None with a `reason` where every sample raises, or one takes more than the budget.

        Raises:
            OSError: if nothing can be written there.
            OtherRun, Held: as of every run.
        """
        try:
            self._advance(problems)
        except (ResultError, Held):
            raise
        except Exception as error:
            if isinstance(error, OSError) and str(error).startswith("out: "):
                raise
            self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return None
        self.problems = problems
        made = self.outcome()
        if made["most"] > self.budget:
            self.reason = f"it spent {made['most']} evaluations, more than the budget"
            return None
        return list(made["values"])

    def _advance(self, problems: int) -> None:
        unit = self._unit()
        count = -(-problems * self.part.rows.draws // unit)
        if self._work is None and (self.folder / RESULT).is_file():
            with suppress(ResultError):  # of this key, since the comparison's own is checked
                if min(Store.open(self.folder).pending(), default=count) >= count:
                    return
        if self._work is None:
            self._work = self._begin(unit)
        job, store = self._work
        (self.folder / RESULT).unlink(missing_ok=True)
        execute(job, store, _First(count), self.observer)

    def _unit(self) -> int:
        """Samples that are computed together: those of the first look, or the study's batch."""
        rows = self.part.rows
        return min(self.study.batch, looks(len(rows.problems))[0] * rows.draws)

    def _begin(self, unit: int) -> tuple[Job, Store]:
        study, rows = self.study, self.part.rows
        own, prior = study.problem.take(rows.index), study.prior.take(rows.index)
        metrics = judges(study.criterion, own, prior, rows.seeds, self.sigma)
        method = self.part.method
        job = Job(prior, own.cost(method), method, rows.seeds, unit, metrics)
        domain = None if prior.card is None else prior.card.domain
        store = begin(job, self.folder, title=self.part.title, domain=domain)
        if not (self.folder / TENSORS).exists():
            store.put(measurement=own.y, truth=own.truth)
        return job, store

    def finish(self) -> None:
        """Write its `result.json`, of whatever is there."""
        if self.problems and not (self.folder / RESULT).exists():
            Store.open(self.folder).write_result()

    def outcome(self) -> dict[str, Any]:
        """What the first `problems` came to, in numbers.

        Returns:
            `problems`; `values` of the criterion per problem, means over the draws, None where one
            failed; means over the samples of `evaluations`, `backward_passes`, `objective_calls`
            and the `metrics`; `most`, the evaluations of the dearest sample; `failed`, samples with
            a flag; `diversity`, the root mean square distance of an entry between two draws of a
            problem over √2; `calibration`; `seconds`.
        """
        rows, asked = self.part.rows.first(self.problems), self.study.criterion
        store = Store.open(self.folder)
        records = list(store.records())[: len(rows)]
        counts = ("evaluations", "backward_passes", "objective_calls")
        values = [None if r["flags"] else asked.value(r["metrics"]) for r in records]
        names = dict.fromkeys(name for r in records for name in r["metrics"])
        spent: dict[str, list[int]] = {k: [r[k] for r in records] for k in counts}  # type: ignore[literal-required]
        return {
            "problems": self.problems,
            "values": means(rows.by_problem(values)),
            **{name: sum(spent[name]) / len(records) for name in counts},
            "most": max(spent["evaluations"]),
            "failed": sum(bool(r["flags"]) for r in records),
            "metrics": {name: _mean([r["metrics"].get(name) for r in records]) for name in names},
            "seconds": round(sum(r["seconds"] for r in records), 3),
        }

    def spread(self) -> dict[str, float | None]:
        """`diversity` and `calibration` of the first `problems`; see `outcome`."""
        study, rows = self.study, self.part.rows.first(self.problems)
        known = calibration.is_known(study.prior, study.problem)
        made: dict[str, float | None] = {"diversity": None, "calibration": None}
        if known or rows.draws > 1:
            samples = Store.open(self.folder).result().samples[: len(rows)]
            if rows.draws > 1:
                made["diversity"] = _diversity(samples, rows, study.prior)
            if known:
                made["calibration"] = calibration.distance(
                    study.prior, study.problem, samples, rows
                )
        return made


def _mean(values: Sequence[Any]) -> float | None:
    finite = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else None


def _diversity(samples: Tensor, rows: Rows, prior: Prior) -> float | None:
    """Standard deviation of an entry among the draws of a problem, root mean square."""
    there = flat(present(prior.take(rows.index), samples))[:: rows.draws]
    draws = flat(samples).double().reshape(len(rows.problems), rows.draws, -1)
    variance = torch.where(there, draws.var(1), 0).sum(1) / there.sum(1)
    value = float(variance.mean().sqrt())
    return value if math.isfinite(value) else None
