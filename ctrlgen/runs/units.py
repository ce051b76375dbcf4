"""One unit of a run, computed: every sample ends with a record, whatever is raised for it.

A batch in which something is raised is halved until the sample stands alone for which it is: that
one is marked with the reason, and holds what it had; its mates finish. A batch that does not fit
into memory is halved too, and so are all that follow. What every sample of a run would raise is
nobody's failure but the run's, and is raised (`ctrlgen.runs.runner`); who knows that it would
raises `HopelessError`, and no batch is halved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.base import cost_rows
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.rows.batching import take
from ctrlgen.rows.errors import HopelessError, partial_of
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Work
from ctrlgen.runs.joining import failed, join
from ctrlgen.runs.limits import TimedOut, out_of_memory, within
from ctrlgen.runs.shards import Shard, records_of

__all__ = ["Units"]

Watch = Callable[[Sequence[int]], Observer | None]


class Units:
    """Computes units of a job; made once by every worker, which keeps the prior loaded.

    Args:
        work: what to compute.
    """

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        self.job, self.work, self.chunk = work.job(), work, work.chunk
        self._error: Exception | None = None

    def __call__(self, unit: int, watch: Watch | None = None) -> Shard:
        """The shard of a unit.

        Args:
            unit: its number.
            watch: gives the observer of a batch, from the seeds of its samples.

        Raises:
            BaseException: an interruption; it carries the shard of what was done as `shard`.
        """
        first = unit * self.work.unit
        ids = range(first, min(first + self.work.unit, len(self.job)))
        begun, done = time.perf_counter(), list[tuple[Result, list[str | None], float]]()
        some, left = ids, list(_cut(ids, self.chunk))
        try:
            while left:
                some, *left = left
                start = time.perf_counter()
                try:
                    result, reasons = self._rows(some, watch)
                except Exception as error:
                    if not out_of_memory(error) or len(some) == 1:
                        raise
                    self.chunk = -(-len(some) // 2)
                    left = list(_cut(range(some.start, ids.stop), self.chunk))
                    _empty_cache(self.job.prior.device)
                    continue
                done.append((result, reasons, time.perf_counter() - start))
        except BaseException as error:
            partial = partial_of(error)
            if isinstance(partial, Result) and len(partial) == len(some):
                done.append((partial, [None] * len(partial), time.perf_counter() - begun))
            if done:
                error.shard = self._shard(unit, first, done, begun)  # type: ignore[attr-defined]
            raise
        shard = self._shard(unit, first, done, begun)
        lost = all(reason is not None for _, reasons, _ in done for reason in reasons)
        return replace(shard, error=self._error if lost else None)

    def _rows(self, ids: range, watch: Watch | None) -> tuple[Result, list[str | None]]:
        """Result of some samples, and what was raised for each."""
        index, seeds = torch.tensor(ids), [int(self.job.seeds[i]) for i in ids]
        try:
            observer = watch(seeds) if watch is not None else None
            result = self.job.method(
                self.job.prior.take(index),
                cost_rows(self.job.cost, index),
                seeds=seeds,
                observer=observer,
            )
        except Exception as error:
            if out_of_memory(error) or isinstance(error, HopelessError):
                raise
            if len(ids) > 1:
                middle = ids.start + len(ids) // 2
                halves = [range(ids.start, middle), range(middle, ids.stop)]
                parts = [self._rows(half, watch) for half in halves]
                return join([p[0] for p in parts]), [r for p in parts for r in p[1]]
            self._error = error
            return self._failed(index, seeds, error), [_words(error)]
        return result, [None] * len(result)

    def _failed(self, index: Tensor, seeds: list[int], error: Exception) -> Result:
        """A sample with what it had when something was raised: its last state, or its start."""
        partial = partial_of(error)
        if isinstance(partial, Result) and len(partial) == 1:
            partial.status = torch.full_like(partial.status, int(Status.FAILED))
            return partial
        prior = self.job.prior.take(index)
        try:
            start = prior.start(seeds, dtype=getattr(self.job.method, "dtype", torch.float32))
            with torch.no_grad():
                signals = prior.codec.decode(start)
        except Exception:  # the first error is the one that matters
            raise error from None
        return failed(signals, start, torch.tensor(seeds, device=start.device))

    def _shard(
        self,
        unit: int,
        first: int,
        done: list[tuple[Result, list[str | None], float]],
        begun: float,
    ) -> Shard:
        records, place = [], first
        for result, reasons, seconds in done:
            flags: list[list[str]] = [[] for _ in range(len(result))]
            metrics: list[dict[str, Any]] = [{} for _ in range(len(result))]
            for name in self.job.metrics:
                listed = self._metric(name, result, place, flags)
                for own, value in zip(metrics, listed, strict=True):
                    own |= value if isinstance(value, Mapping) else {name: value}
            records += records_of(result, place, seconds, metrics, flags, reasons)
            place += len(result)
        return Shard.of(
            join([result for result, _, _ in done]),
            records,
            unit=unit,
            first=first,
            key=self.work.key,
            seconds=time.perf_counter() - begun,
            chunk=self.chunk,
        )

    def _metric(self, name: str, result: Result, first: int, flags: list[list[str]]) -> list[Any]:
        """A metric of some samples; where it fails, of one after the other."""
        metric = self.job.metrics[name]

        def values(rows: range) -> list[Any]:
            index = torch.tensor(rows)
            own = take(metric, index + first) if hasattr(metric, "take") else metric
            signals = result.samples[rows.start : rows.stop]

            def compute() -> list[Any]:
                with torch.no_grad():
                    value = own(signals)
                listed = value.tolist() if isinstance(value, Tensor) else list(value)
                if len(listed) != len(rows):
                    raise ValueError(
                        f"{name}: expected {len(rows)} values, one per sample, got {len(listed)}"
                    )
                return listed

            return within(self.job.patience, compute)

        try:
            return values(range(len(result)))
        except (Exception, TimedOut):
            listed = list[Any]()
        for row in range(len(result)):
            value = None
            try:
                (value,) = values(range(row, row + 1))
            except TimedOut:
                flags[row].append(f"timed out: {name}")
            except Exception as error:
                flags[row].append(f"failed: {name}: {_words(error)}")
            listed.append(value)
        return listed


def _cut(ids: range, size: int) -> list[range]:
    return [range(i, min(i + size, ids.stop)) for i in range(ids.start, ids.stop, size)]


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
