"""What ends a run, or hurts it: nothing finished is lost, nothing half is left, it can go on."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.methods.result import Result
from ctrlgen.rows.errors import CostError, ResultError
from ctrlgen.rows.status import Status
from ctrlgen.runs.executors import Processes, Slice, WorkerLost
from ctrlgen.runs.interrupts import Terminated, terminable
from ctrlgen.runs.locks import Held, holder
from ctrlgen.runs.runner import Note, Round, begin, execute, run
from ctrlgen.runs.store import Store

Plans = Callable[..., Any]
Compare = Callable[[Store, Store], None]
Tidy = Callable[[Path], None]

DRAWN = {"samples": 24, "batch": 2, "steered": False}
"""A run of 12 units of a millisecond each, so that most of its time goes into writing."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The uninterrupted one."""
    from points import Points

    job = Points(**DRAWN).job()
    store = begin(job, tmp_path_factory.mktemp("drawn"))
    execute(job, store)
    return store


def in_a_child(work: Callable[[], None]) -> int:
    """The process id of a copy of this one that does it and ends."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every synchronisation takes its time, and so does every write before it."""
    synchronise = os.fsync

    def fsync(handle: int) -> None:
        time.sleep(seconds)
        synchronise(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("place", ["anywhere", "in the middle of writing"])
def test_killed_at_any_instant(
    plan: Plans, tmp_path: Path, drawn: Store, identical: Compare, tidy: Tidy,
    monkeypatch: pytest.MonkeyPatch, place: str,
) -> None:  # fmt: skip
    """12 trials each: killed, then gone on with, and what was finished was not computed again."""
    job, chance = plan(**DRAWN).job(), random.Random(place)
    if place != "anywhere":
        slowly(monkeypatch, 0.002)
    start = time.perf_counter()
    execute(job, begin(job, tmp_path / "timed"))
    span = time.perf_counter() - start
    inside = 0
    for trial in range(12):
        folder = tmp_path / str(trial)
        child = in_a_child(lambda f=folder: execute(job, begin(job, f)))  # type: ignore[misc]
        time.sleep(chance.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        finished = set()
        if (folder / "manifest.json").exists():
            finished = set(range(12)) - set(Store.open(folder).pending())
        inside += 0 < len(finished) < 12
        computed: list[int] = []

        def noting(*parts: Any, seeds: Any, observer: Any = None) -> Result:
            computed.append(seeds[0] // 2)  # noqa: B023
            return job.method(*parts, seeds=seeds, observer=observer)

        store = begin(job, folder)
        monkeypatch.setattr("ctrlgen.runs.units.Work.job", lambda _: replace(job, method=noting))
        execute(job, store)
        monkeypatch.undo()
        assert not finished & set(computed) and finished | set(computed) == set(range(12))
        assert not store.damaged
        tidy(folder)
        identical(store, drawn)
        if place != "anywhere":
            slowly(monkeypatch, 0.002)
    assert inside >= 4  # the kill came in the middle often enough to mean something


@pytest.fixture
def heard() -> Iterator[None]:
    """A shell that runs the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(
    plan: Plans, tmp_path: Path, whole: Store, identical: Compare, tidy: Tidy, number: int
) -> None:
    """An interrupted unit leaves what its samples had, beside what is finished."""
    job = plan().job()
    seen: list[Any] = []

    def interrupting(event: Any) -> None:
        seen.append(event)
        if sum(isinstance(each, Round) for each in seen) == 6:
            os.kill(os.getpid(), number)

    store = begin(job, tmp_path)
    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with terminable(), pytest.raises(expected):
        execute(job, store, observer=interrupting)
    finished = set(range(6)) - set(store.pending())
    assert finished and store.partial is not None
    cut = [r for r in store.records() if "cut off" in r["flags"]]
    assert 0 < len(cut) <= 4 and cut[0]["status"] == Status.RUNNING.label
    tidy(tmp_path)
    execute(job, Store.open(tmp_path))
    identical(Store.open(tmp_path), whole)


def test_a_full_disk(
    plan: Plans, tmp_path: Path, drawn: Store, identical: Compare, tidy: Tidy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = plan(**DRAWN).job()
    left, synchronise = [9], os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronise(handle)

    store = begin(job, tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*4 of 12 units.*make room.*ctrlgen resume"):
        execute(job, store)
    monkeypatch.undo()
    tidy(tmp_path)
    assert len(store.pending()) == 8
    shards = list((tmp_path / "shards").iterdir())
    assert len(shards) == 8  # no tensors without their lines
    execute(job, store)
    identical(store, drawn)


def test_a_file_that_may_not_grow(plan: Plans, tmp_path: Path, tidy: Tidy) -> None:
    """The system itself refuses, in the middle of a file."""
    job = plan(**DRAWN).job()
    store = begin(job, tmp_path)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
        try:
            execute(job, store)
        except OSError as error:
            os._exit(7 if "0 of 12 units are finished" in str(error) else 8)

    _, status = os.waitpid(in_a_child(limited), 0)
    assert os.waitstatus_to_exitcode(status) == 7
    tidy(tmp_path)
    assert len(Store.open(tmp_path).pending()) == 12


def test_a_folder_that_cannot_be_written(plan: Plans, tmp_path: Path) -> None:
    job = plan(**DRAWN).job()

    def refused(folder: Path) -> Callable[[], None]:
        def work() -> None:
            if os.getuid() == 0:
                os.setuid(65534)  # nothing is read-only to root
            try:
                execute(job, begin(job, folder))
            except PermissionError as error:
                os._exit(7 if str(folder) in str(error) else 8)

        return work

    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o555)
    _, status = os.waitpid(in_a_child(refused(tmp_path / "locked")), 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert not list((tmp_path / "locked").iterdir())


@pytest.mark.parametrize("what", ["lines", "tensors", "changed", "empty", "other"])
def test_a_damaged_shard_is_computed_again(
    plan: Plans, tmp_path: Path, drawn: Store, identical: Compare, what: str
) -> None:
    job = plan(**DRAWN).job()
    store = begin(job, tmp_path)
    execute(job, store)
    lines = tmp_path / "shards" / "000003.jsonl"
    numbers = lines.with_suffix(".safetensors")
    text = lines.read_bytes()
    if what == "lines":
        lines.write_bytes(text[:-20])
    elif what == "tensors":
        numbers.write_bytes(numbers.read_bytes()[:-4])
    elif what == "changed":
        lines.write_bytes(text.replace(b'"seed": 7', b'"seed": 8'))
    elif what == "empty":
        lines.write_bytes(b"")
    else:
        lines.write_bytes((tmp_path / "shards" / "000004.jsonl").read_bytes())
    notes: list[str] = []
    again = Store.open(tmp_path)
    assert again.pending() == [3]
    execute(job, again, observer=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert len(notes) == 1 and "000003.jsonl" in notes[0] and "computed again" in notes[0]
    identical(again, drawn)


def test_a_flipped_bit_shows_when_it_is_read(plan: Plans, tmp_path: Path) -> None:
    job = plan(**DRAWN).job()
    store = begin(job, tmp_path)
    execute(job, store)
    numbers = tmp_path / "shards" / "000003.safetensors"
    payload = bytearray(numbers.read_bytes())
    payload[-1] ^= 1
    numbers.write_bytes(payload)
    with pytest.raises(ResultError, match=r"000003\.safetensors is damaged.*delete 000003\.jsonl"):
        store.result()


def test_a_damaged_manifest(plan: Plans, tmp_path: Path, drawn: Store, identical: Compare) -> None:
    job = plan(**DRAWN).job()
    execute(job, begin(job, tmp_path), Slice(1, 2))
    text = (tmp_path / "manifest.json").read_text()
    for content in (text[:100], "", text.replace('"unit": 2', '"unit": 0')):
        (tmp_path / "manifest.json").write_text(content)
        store = Store.open(tmp_path)
        assert "manifest.json" in store.warnings[0] and "backup serves" in store.warnings[0]
    begin(job, tmp_path)  # which mends it
    assert (tmp_path / "manifest.json").read_text() == text
    for name in ("manifest.json", "manifest.backup.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(ResultError, match="shards are intact: start the same run"):
        Store.open(tmp_path)
    store = begin(job, tmp_path)
    assert len(store.pending()) == 6
    execute(job, store)
    identical(store, drawn)
    with pytest.raises(ResultError, match="holds no run"):
        Store.open(tmp_path / "shards")


def test_two_processes_on_one_folder(plan: Plans, tmp_path: Path, tidy: Tidy) -> None:
    job = plan(**DRAWN).job()
    store = begin(job, tmp_path)
    reads, writes = os.pipe()

    def hold() -> None:
        with store.writing():
            os.write(writes, b"x")
            time.sleep(30)

    child = in_a_child(hold)
    os.read(reads, 1)
    for executor in (None, Slice(1, 2)):
        with pytest.raises(Held, match=rf"out: process {child} on .* since .* writes"):
            execute(job, store, executor)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lock = tmp_path / ".lock"
    assert holder(lock)["pid"] == child  # stale, and taken over
    execute(job, store)
    tidy(tmp_path)
    with store.writing("1-of-2"), store.writing("2-of-2"):  # these do not exclude each other
        for executor in (None, Slice(1, 2)):
            with pytest.raises(Held):
                execute(job, store, executor)


def test_a_lock_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has none, the words in the file decide."""
    from ctrlgen.runs import locks

    monkeypatch.setattr(locks, "fcntl", None)
    lock = tmp_path / ".lock"
    child = in_a_child(lambda: None)
    os.waitpid(child, 0)
    me = {"host": os.uname().nodename, "since": "now"}
    for who, free in (
        (me | {"pid": child}, True), (me | {"pid": os.getpid()}, False),
        (me | {"host": "elsewhere", "pid": child}, False),
    ):  # fmt: skip
        lock.write_text(json.dumps(who))
        if free:
            with locks.lock_folder(tmp_path):
                assert holder(lock)["pid"] == os.getpid()
        else:
            with pytest.raises(Held, match="if it is certainly gone"), locks.lock_folder(tmp_path):
                pass


def test_a_cost_that_raises_for_one_sample(plan: Plans, tmp_path: Path, whole: Store) -> None:
    job = plan(raises=(5, 6)).job()
    result = run(job, tmp_path)
    records = list(Store.open(tmp_path).records())
    for id, record in enumerate(records):
        if id in (5, 6):
            assert record["flags"] == ["failed"] and record["cost"] is None
            assert record["reason"] == "ArithmeticError: no root of this one"
            assert record["status"] == Status.FAILED.label
        else:
            assert record["flags"] == [] and record["reason"] is None
    others = [i for i in range(24) if i not in (5, 6)]
    reference = whole.result()
    assert torch.allclose(result.samples[others], reference.samples[others], atol=1e-6)
    assert torch.equal(result.status[others], reference.status[others])
    assert bool(result.samples[[5, 6]].isfinite().all())
    assert len(result) == 24


def test_what_every_sample_raises_is_the_error_of_the_run(plan: Plans, tmp_path: Path) -> None:
    job = plan(raises=tuple(range(24))).job()
    store = begin(job, tmp_path)
    with pytest.raises(ArithmeticError, match="no root"):
        execute(job, store)
    assert len(store.pending()) == 6
    wrong = replace(plan().job(), cost=lambda x: x.sum())
    with pytest.raises(CostError, match="one value per sample"):
        run(wrong, tmp_path / "wrong")
    # a first unit that fails is not the run's
    assert len(run(plan(samples=4, batch=1, raises=(0, 1)).job())) == 4


def test_a_sample_whose_data_is_no_number(plan: Plans, whole: Store) -> None:
    result, reference = run(plan(nan=(5,)).job()), whole.result()
    assert int(result.status[5]) == Status.DIVERGED
    others = [i for i in range(24) if i != 5]
    assert torch.allclose(result.samples[others], reference.samples[others], atol=1e-6)


@pytest.mark.parametrize("threaded", [False, True])
def test_a_metric_that_hangs(
    plan: Plans, tmp_path: Path, whole: Store, monkeypatch: pytest.MonkeyPatch, threaded: bool
) -> None:
    if threaded:
        monkeypatch.delattr("signal.SIGALRM")
    job = plan(samples=4, steered=False, metrics=("hanging", "distance"), patience=0.1).job()
    result = run(job, tmp_path)
    right = (result.samples[:, 0] > 0.5).tolist()
    assert any(right) and not all(right)
    for record, hangs in zip(Store.open(tmp_path).records(), right, strict=True):
        assert record["flags"] == (["timed out: hanging"] if hangs else [])
        assert (record["metrics"]["hanging"] is None) == hangs
        assert record["metrics"]["distance"] > 0


def test_a_metric_that_raises(plan: Plans, tmp_path: Path) -> None:
    job = plan(samples=4, steered=False, metrics=("raising",)).job()
    right = (run(job, tmp_path).samples[:, 0] > 0.5).tolist()
    for record, raises in zip(Store.open(tmp_path).records(), right, strict=True):
        words = ["failed: raising: LookupError: off the map"]
        assert record["flags"] == (words if raises else [])


def test_memory_that_runs_out(plan: Plans, tmp_path: Path, whole: Store) -> None:
    """Batches are halved until they fit, and the manifest remembers; units stay what they are."""
    job, sizes = plan(samples=16, batch=8).job(), list[int]()

    def greedy(*parts: Any, seeds: Any, observer: Any = None) -> Result:
        sizes.append(len(seeds))
        if len(seeds) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return job.method(*parts, seeds=seeds, observer=observer)

    result = run(replace(job, method=greedy), tmp_path)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    store = Store.open(tmp_path)
    assert store.manifest["chunk"] == 2 and store.units == 2
    assert torch.allclose(result.samples, whole.result().samples[:16], atol=1e-6)

    def hopeless(*parts: Any, seeds: Any, observer: Any = None) -> Result:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run(replace(job, method=hopeless))


def test_a_unit_that_kills_every_worker(
    plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrlgen.runs.executors.ATTEMPTS", 1)
    dying = plan(samples=8, dies=(5, str(tmp_path / "deaths")), times=9)
    store = begin(dying.job(), tmp_path / "run", Processes(1))
    with pytest.raises(WorkerLost, match=r"unit 1 has ended 1 of them .killed by SIGKILL"):
        execute(dying, store, Processes(1))
    assert store.pending() == [1]
