"""One part of a comparison: a method on some problems, as a run folder, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.comparison.judges import Criterion, judges, present
from ctrlgen.comparison.posed import Posed, Rows
from ctrlgen.comparison.verdicts import means
from ctrlgen.methods.base import Method
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.job import Job
from ctrlgen.runs.locks import Held
from ctrlgen.runs.runner import RunObserver, begin, execute
from ctrlgen.runs.schema import RESULT, TENSORS
from ctrlgen.runs.store import Store

__all__ = ["Part", "outcome", "run_part"]


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


def run_part(
    part: Part,
    folder: Path,
    prior: Prior,
    problem: Posed,
    asked: Criterion,
    sigma: float,
    batch: int,
    observer: RunObserver | None = None,
) -> Store | str:
    """Compute what of a part is missing in its run folder.

    Args:
        part: what to compute.
        folder: of the run.
        prior: bound to a row of conditions per problem, or to none.
        problem: all problems.
        asked: what methods are ranked by.
        sigma: of the noise of all problems, or what stands for it (`judges.tolerance`).
        batch: samples of a unit.
        observer: of the run.

    Returns:
        Its store; or, where every sample raises, the reason.

    Raises:
        OSError: if nothing can be written there.
        OtherRun, Held: as of every run.
    """
    if (folder / RESULT).is_file():  # of this key, since the comparison's own is checked
        with suppress(ResultError):
            store = Store.open(folder)
            if not store.pending():
                return store
    try:
        index = part.rows.index
        own, own_prior = problem.take(index), prior.take(index)
        seeds = part.rows.seeds
        metrics = judges(asked, own, own_prior, seeds, sigma)
        job = Job(own_prior, own.cost(part.method), part.method, seeds, batch, metrics)
        domain = None if prior.card is None else prior.card.domain
        store = begin(job, folder, title=part.title, domain=domain)
        if not (folder / TENSORS).exists():
            store.put(measurement=own.y, truth=own.truth)
        execute(job, store, observer=observer)
        if not (folder / RESULT).exists():
            store.write_result()
    except (ResultError, Held):
        raise
    except Exception as error:
        if isinstance(error, OSError) and str(error).startswith("out: "):
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return store


def outcome(store: Store, rows: Rows, asked: Criterion, prior: Prior) -> dict[str, Any]:
    """What a part came to, in numbers.

    Args:
        store: of it.
        rows: its samples.
        asked: what is ranked by.
        prior: bound to a row of conditions per problem, or to none.

    Returns:
        `values` of the criterion per problem, means over the draws, None where one failed; means
        over the samples of `evaluations`, `backward_passes`, `objective_calls` and the `metrics`;
        `most`, the evaluations of the dearest sample; `failed`, samples with a flag; `diversity`,
        the root mean square distance of an entry between two draws of a problem over √2; `seconds`.
    """
    records = list(store.records())
    counts = ("evaluations", "backward_passes", "objective_calls")
    values = [None if r["flags"] else asked.value(r["metrics"]) for r in records]
    names = dict.fromkeys(name for r in records for name in r["metrics"])
    spent: dict[str, list[int]] = {k: [r[k] for r in records] for k in counts}  # type: ignore[literal-required]
    return {
        "values": means(rows.by_problem(values)),
        **{name: sum(spent[name]) / len(records) for name in counts},
        "most": max(spent["evaluations"]),
        "failed": sum(bool(r["flags"]) for r in records),
        "metrics": {name: _mean([r["metrics"].get(name) for r in records]) for name in names},
        "diversity": _diversity(store, rows, prior) if rows.draws > 1 else None,
        "seconds": round(sum(r["seconds"] for r in records), 3),
    }


def _mean(values: Sequence[Any]) -> float | None:
    finite = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else None


def _diversity(store: Store, rows: Rows, prior: Prior) -> float | None:
    """Standard deviation of an entry among the draws of a problem, root mean square."""
    samples: Tensor = store.result().samples
    there = flat(present(prior.take(rows.index), samples))[: len(rows.problems)]
    draws = flat(samples).double().reshape(rows.draws, len(rows.problems), -1)
    variance = torch.where(there, draws.var(0), 0).sum(1) / there.sum(1)
    value = float(variance.mean().sqrt())
    return value if math.isfinite(value) else None
