"""Who computes the units of a run: this process, several of them, or a share of a job array.

Every executor maps units to shards, in any order; what a shard holds does not depend on which.
`ctrlgen.runs.cluster` has that of Ray.
"""

from __future__ import annotations

import builtins
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from ctrlgen.rows import errors
from ctrlgen.rows.checks import check_sizes
from ctrlgen.runs.job import Work
from ctrlgen.runs.shards import Shard
from ctrlgen.runs.units import Units, Watch

__all__ = ["Executor", "Local", "Processes", "Slice", "WorkerLost"]

ATTEMPTS = 3
"""Workers that a unit may end before the run ends."""


class WorkerLost(RuntimeError):
    """A unit has ended its worker again and again."""


class Executor(Protocol):
    """Computes units.

    Attributes:
        workers: how many compute at a time; None where a cluster decides.
        part: of a job array, "2-of-4"; "" for the whole.
    """

    @property
    def workers(self) -> int | None: ...

    @property
    def part(self) -> str: ...

    def threads(self) -> int:
        """Threads of the arithmetic of a new run."""

    def select(self, units: Sequence[int]) -> list[int]:
        """Those that are this executor's to compute."""

    def map(self, work: Work, units: Sequence[int], watch: Watch | None = None) -> Iterator[Shard]:
        """Their shards, as they are finished.

        Args:
            work: what is computed.
            units: their numbers.
            watch: gives observers of batches; asked only where they run in this process.
        """


class _Whole:
    """An executor of all units that it is given."""

    part = ""

    def select(self, units: Sequence[int]) -> list[int]:
        return list(units)


@dataclass(frozen=True)
class Local(_Whole):
    """This process, unit after unit."""

    workers = 1

    def threads(self) -> int:
        return torch.get_num_threads()

    def map(self, work: Work, units: Sequence[int], watch: Watch | None = None) -> Iterator[Shard]:
        before = torch.get_num_threads()
        try:
            compute = Units(work) if units else None
            for unit in units:
                assert compute is not None
                yield compute(unit, watch)
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class Processes(_Whole):
    """Processes of this machine, one thread each; every one keeps its prior loaded.

    A process that ends in the middle of a unit is replaced, and the unit computed again. In a
    script, what starts them stands under `if __name__ == "__main__":`.

    Attributes:
        workers: how many, at least 1.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        check_sizes(workers=self.workers)

    def threads(self) -> int:
        return 1

    def map(self, work: Work, units: Sequence[int], watch: Watch | None = None) -> Iterator[Shard]:
        left, losses = list(reversed(units)), dict[int, int]()
        team = [_Worker(work) for _ in range(min(self.workers, len(units)))]
        try:
            while left or any(worker.unit is not None for worker in team):
                for worker in team:
                    if left and worker.unit is None:
                        worker.begin(left.pop())
                busy = {w.connection: w for w in team if w.unit is not None}
                for ready in wait(list(busy)):
                    worker = busy[ready]  # type: ignore[index]
                    unit, shard = worker.unit, worker.end()
                    assert unit is not None
                    if shard is not None:
                        yield shard
                        continue
                    losses[unit] = losses.get(unit, 0) + 1
                    if losses[unit] == ATTEMPTS:
                        raise worker.lost(unit)
                    left.append(unit)
                    team[team.index(worker)] = _Worker(work)
        finally:
            for worker in team:
                worker.kill()


class _Worker:
    """A process that computes units, as its driver sees it."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        try:
            self.process.start()
        except Exception as error:  # pickle raises several kinds, by what it was given
            raise TypeError(
                f"job: cannot be sent to other processes ({error}); functions and classes must "
                "stand at the top of a module, or run without workers"
            ) from error
        finally:
            theirs.close()
        self.unit: int | None = None
        self.finished = 0

    def begin(self, unit: int) -> None:
        self.unit = unit
        with suppress(OSError):  # it is gone, which shows when it is waited for
            self.connection.send(unit)

    def end(self) -> Shard | None:
        """Its shard; None if the process is gone."""
        self.unit = None
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.kill()
            return None
        self.finished += 1
        if isinstance(answer, Shard):
            return answer
        raise _raised(*answer)

    def lost(self, unit: int) -> WorkerLost:
        code = self.process.exitcode
        why = f"exit code {code}"
        if code is not None and code < 0:
            why = f"killed by {signal.Signals(-code).name}, as a machine without memory does"
        return WorkerLost(
            f"workers: unit {unit} has ended {ATTEMPTS} of them ({why}); what was finished is kept"
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _raised(name: str, text: str) -> Exception:
    """An error of a worker, of its kind where that takes a text."""
    kind: Any = getattr(errors, name, None) or getattr(builtins, name, RuntimeError)
    try:
        return kind(text)
    except TypeError:
        return RuntimeError(text)


def _serve(connection: Connection, work: Work) -> None:
    """Compute units until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    compute: Units | None = None
    with suppress(EOFError, OSError):
        while True:
            unit = connection.recv()
            try:
                compute = compute or Units(work)
                answer: Any = replace(compute(unit), error=None)
            except Exception as error:
                answer = (type(error).__name__, str(error))
            connection.send(answer)


@dataclass(frozen=True)
class Slice:
    """One share of a run among n, for job arrays: units i, i + n, ... in a folder that they share.

    Attributes:
        index: from 1 to `count`.
        count: n.
        inner: who computes them.
    """

    index: int
    count: int
    inner: Executor = field(default_factory=Local)

    def __post_init__(self) -> None:
        check_sizes(index=self.index, count=self.count)
        if self.index > self.count:
            raise ValueError(f"shard: expected 1/{self.count} to {self.count}/{self.count}, "
                             f"got {self.index}/{self.count}")  # fmt: skip

    @classmethod
    def parse(cls, text: str, inner: Executor | None = None) -> Slice:
        """The slice that "i/n" says.

        Raises:
            ValueError: if it says none.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit()):
            raise ValueError(f"shard: expected I/N as in 2/8, got {text!r}")
        return cls(int(index), int(count), inner or Local())

    @property
    def workers(self) -> int | None:
        return self.inner.workers

    @property
    def part(self) -> str:
        return f"{self.index}-of-{self.count}"

    def threads(self) -> int:
        return self.inner.threads()

    def select(self, units: Sequence[int]) -> list[int]:
        return self.inner.select([u for u in units if u % self.count == self.index - 1])

    def map(self, work: Work, units: Sequence[int], watch: Watch | None = None) -> Iterator[Shard]:
        return self.inner.map(work, units, watch)
