"""A run: the units that are missing are computed, by whomever, and written as they come.

    result = run(job, "runs/mine")                          # the same call goes on after a kill
    result = run(job, "runs/mine", Processes(8), observer)

A finished unit is never computed again. A failure of single samples is theirs
(`ctrlgen.runs.units`); one that befalls every sample before any has come through is the run's, and
raised.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors

from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event
from ctrlgen.priors.documents import write_whole
from ctrlgen.priors.trust import Trust
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.executors import Executor, Local
from ctrlgen.runs.job import Job, Plan, Work
from ctrlgen.runs.manifest import check_key, manifest_of, read
from ctrlgen.runs.memory import fitting
from ctrlgen.runs.schema import RESULT, Record
from ctrlgen.runs.shards import Shard, packed
from ctrlgen.runs.spec import SpecError, Tensors, describe, rebuild
from ctrlgen.runs.store import Store

__all__ = ["Begun", "Finished", "Note", "Round", "RunObserver", "begin", "execute", "resume", "run"]

_PLAN = "plan.safetensors"
_HOPELESS = 8
"""Samples that fail, before any has come through, until the run ends with their error."""


@dataclass(frozen=True)
class Begun:
    """A run begins, or goes on.

    Attributes:
        title: of the run.
        units: to be computed now.
        samples: in these.
        finished: samples that are there already.
    """

    title: str
    units: int
    samples: int
    finished: int


@dataclass(frozen=True)
class Round:
    """A method's event, of samples that run in this process."""

    seeds: tuple[int, ...]
    event: Event


@dataclass(frozen=True)
class Finished:
    """A unit is written."""

    unit: int
    records: list[Record]
    seconds: float


@dataclass(frozen=True)
class Note:
    """Something that a person should know."""

    text: str


RunObserver = Callable[[Begun | Round | Finished | Note], None]


def begin(
    job: Job,
    folder: Path | str,
    executor: Executor | None = None,
    *,
    plan: Plan | None = None,
    files: Mapping[str, str] | None = None,
    **about: Any,
) -> Store:
    """The folder of a run, new or to go on with; nothing is computed but what "auto" needs.

    Args:
        job: to run.
        folder: made where there is none.
        executor: whose number of threads a new run gets.
        plan: of the job, for `resume`; without one the job itself, where it has a spec.
        files: sha256 of files that the job was made of, by name.
        **about: `command`, `domain`, `title` and `about` of the manifest.

    Raises:
        OtherRun: if the folder holds another run.
    """
    place = Path(folder)
    threads = (executor or Local()).threads()
    with suppress(ResultError):
        there, _ = read(place)
        threads = there["threads"]
        if job.batch == "auto":
            return _opened(job, place, there["unit"], threads, plan, files, about)
    unit = fitting(job) if job.batch == "auto" else job.batch
    return _opened(job, place, int(unit), threads, plan, files, about)


def _opened(
    job: Job,
    folder: Path,
    unit: int,
    threads: int,
    plan: Plan | None,
    files: Mapping[str, str] | None,
    about: Mapping[str, Any],
) -> Store:
    tensors: Tensors = {}
    spec: Any = None
    with suppress(SpecError):
        spec = describe(job if plan is None else plan, tensors)
    key = job.key(unit) | ({"files": dict(files)} if files else {})
    manifest = manifest_of(
        seeds=list(job.seeds),
        unit=unit,
        key=key,
        device=str(job.prior.device),
        threads=threads,
        plan=spec,
        metrics={
            name: {"unit": getattr(m, "unit", None), "better": getattr(m, "better", None)}
            for name, m in job.metrics.items()
        },
        **about,
    )
    store = Store.create(folder, manifest)
    if tensors and not (folder / _PLAN).exists():
        write_whole(folder / _PLAN, packed(tensors))
    return store


def resume(folder: Path | str, trust: Trust = None) -> tuple[Plan | Job, Store]:
    """What a folder's manifest says was to be run, and its store.

    Args:
        folder: of the run.
        trust: packages that the manifest may name beside ctrlgen and installed domains.

    Raises:
        ResultError: if it holds no run, or one that only its script can go on with.
        SpecError: if it names what is not trusted.
    """
    store = Store.open(folder)
    if store.manifest["plan"] is None:
        raise ResultError(
            f"{folder} was begun by a Python script, with parts that have no spec; run that script "
            "again with this folder: what is finished is kept"
        )
    file = store.folder / _PLAN
    tensors = load_tensors(file.read_bytes()) if file.is_file() else {}
    return rebuild(store.manifest["plan"], tensors, trust=trust), store


def execute(
    source: Job | Plan,
    store: Store,
    executor: Executor | None = None,
    observer: RunObserver | None = None,
) -> None:
    """Compute the units of a folder that are missing, as far as they are the executor's.

    Args:
        source: the job of the folder, or the plan of it, which workers are sent.
        store: the folder; an interrupted unit is left in its `partial`.
        executor: this process by default.
        observer: receives what happens.

    Raises:
        OtherRun: if the folder is that of another job.
        Held: if another process writes there.
        OSError: if nothing can be written; the message says what is there and what to do.
        Exception: what every sample raises, if none has come through.
    """
    executor = executor or Local()
    tell: RunObserver = observer or (lambda _: None)
    store.partial = None
    with store.writing(executor.part):
        pending = store.pending()
        units = executor.select(pending)
        for text in (*store.warnings, *(f"{r}; computed again" for r in store.damaged.values())):
            tell(Note(text))
        samples = sum(len(store.ids(unit)) for unit in units)
        finished = len(store) - sum(len(store.ids(unit)) for unit in pending)
        tell(Begun(store.manifest["title"], len(units), samples, finished))
        work = Work(
            source,
            store.key,
            store.manifest["unit"],
            store.manifest["chunk"],
            store.manifest["threads"],
        )
        hopeless, good = list[Shard](), len(pending) < store.units
        shards = executor.map(work, units, _watching(observer))
        try:
            for shard in shards:
                if not good and all(r["reason"] is not None for r in shard.records):
                    hopeless.append(shard)
                    if sum(len(s.lines) for s in hopeless) >= _HOPELESS:
                        raise _reason(hopeless[0])
                    continue
                good = True
                for each in (*hopeless, shard):
                    _write(store, each, tell)
                hopeless.clear()
        except BaseException as error:
            store.partial = getattr(error, "shard", None)
            raise
        finally:
            close = getattr(shards, "close", None)
            if close is not None:
                close()
        if hopeless:
            raise _reason(hopeless[0])


def _watching(observer: RunObserver | None) -> Any:
    if observer is None:
        return None
    return lambda seeds: lambda event: observer(Round(tuple(seeds), event))


def _write(store: Store, shard: Shard, tell: RunObserver) -> None:
    try:
        store.write(shard)
    except OSError as error:
        there = store.units - len(store.pending())
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise OSError(
            f"out: cannot write {store.folder}: {error.strerror or error}; {there} of "
            f"{store.units} units are finished and kept: {remedy}, then ctrlgen resume "
            f"{store.folder}"
        ) from error
    tell(Finished(shard.header["unit"], shard.records, shard.header["seconds"]))


def _reason(shard: Shard) -> Exception:
    """What was raised for every sample."""
    if shard.error is not None:
        return shard.error
    return ValueError(str(shard.records[0]["reason"]).partition(": ")[2])


def run(
    job: Job,
    store: Store | Path | str | None = None,
    executor: Executor | None = None,
    observer: RunObserver | None = None,
) -> Result:
    """Run a job into a folder, or what of it is missing there, and read its result.

    Args:
        job: to run.
        store: its folder; None for one that is gone afterwards.
        executor: this process by default.
        observer: receives `Begun`, `Round`, `Finished` and `Note`.

    Raises:
        OtherRun: if the folder holds another run.
        Exception: as `execute`.
    """
    if store is None:
        with tempfile.TemporaryDirectory(prefix="ctrlgen-run-") as folder:
            return run(job, folder, executor, observer)
    if not isinstance(store, Store):
        store = begin(job, store, executor)
    check_key(store.manifest["key"], job.key(store.manifest["unit"]), store.folder)
    execute(job, store, executor, observer)
    if not store.pending() and not (store.folder / RESULT).exists():
        store.write_result()
    return store.result()
