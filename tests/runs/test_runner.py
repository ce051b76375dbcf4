"""Runs and their folders: nothing twice, the same whoever computes it, other runs refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.methods.result import Result
from ctrlgen.rows.errors import MissingExtra, ResultError
from ctrlgen.rows.status import Status
from ctrlgen.runs.executors import Local, Processes, Slice
from ctrlgen.runs.manifest import OtherRun
from ctrlgen.runs.runner import Begun, Finished, Note, Round, begin, execute, resume, run
from ctrlgen.runs.spec import SpecError, same
from ctrlgen.runs.store import Store

Plans = Callable[..., Any]
Compare = Callable[[Store, Store], None]


def test_a_run_is_the_method_alone(plan: Plans, whole: Store) -> None:
    """Units in a folder and one call of the method make the same samples."""
    job = plan().job()
    direct = job.method(job.prior, job.cost, seeds=job.seeds)
    result = whole.result()
    assert torch.allclose(result.samples, direct.samples, atol=1e-6)
    assert torch.equal(result.seeds, direct.seeds) and torch.equal(result.status, direct.status)
    assert torch.equal(result.evaluations, direct.evaluations)
    assert result.network.forward_rows == direct.network.forward_rows
    values, unit = result.history["cost"], direct.history["cost"]
    assert torch.allclose(values[: len(unit)], unit, atol=1e-5)


def test_a_finished_unit_is_never_computed_again(
    plan: Plans, tmp_path: Path, whole: Store, identical: Compare
) -> None:
    calls: list[list[int]] = []
    job = plan().job()

    def counting(prior: Any, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
        calls.append(list(seeds))
        return job.method(prior, cost, seeds=seeds, observer=observer)

    counted = replace(job, method=counting)
    store = begin(counted, tmp_path)
    for unit in (1, 4):
        execute(counted, store, Slice(unit + 1, store.units))
    assert calls == [[4, 5, 6, 7], [16, 17, 18, 19]]
    calls.clear()
    execute(counted, Store.open(tmp_path))
    assert [seeds[0] for seeds in calls] == [0, 8, 12, 20]
    calls.clear()
    run(counted, tmp_path)
    assert calls == []
    identical(store, whole)


def test_whoever_computes(plan: Plans, tmp_path: Path, whole: Store, identical: Compare) -> None:
    """Two processes, of which one is killed: its unit is computed by another."""
    executor = Slice(1, 1, Processes(2))
    dying = plan(dies=(9, str(tmp_path / "deaths")))
    store = begin(dying.job(), tmp_path / "run", executor)
    execute(dying, store, executor)
    assert (tmp_path / "deaths").read_text() == "x"
    identical(store, whole)


def test_slices_share_a_folder(
    plan: Plans, tmp_path: Path, whole: Store, identical: Compare
) -> None:
    job = plan().job()
    for index in (3, 1, 2):
        store = begin(job, tmp_path)
        assert not store.summary()["samples"] or store.missing
        with store.writing(f"{index % 3 + 1}-of-3"):  # another share is at work
            execute(job, store, Slice(index, 3))
    assert not store.missing
    identical(store, whole)


def test_resume_rebuilds_the_job(
    plan: Plans, tmp_path: Path, whole: Store, identical: Compare
) -> None:
    execute(plan(), begin(plan().job(), tmp_path, plan=plan()), Slice(2, 2))
    with pytest.raises(SpecError, match="trust"):
        resume(tmp_path)
    source, store = resume(tmp_path, trust="points")
    assert source == plan()
    execute(source, store)
    identical(store, whole)


def test_resume_rebuilds_a_job_of_parts(plan: Plans, tmp_path: Path) -> None:
    """Without a plan the job itself is in the manifest, its tensors beside it."""
    import ctrlgen
    from ctrlgen.costs import SquaredError
    from ctrlgen.domains.images.operators import SuperResolution
    from ctrlgen.methods import DDRM
    from ctrlgen.runs.job import Job
    from ctrlgen.sampling.grids import Uniform

    prior = ctrlgen.load("mnist").bind(label=[1, 2, 3])
    cost = SquaredError(SuperResolution(2), torch.zeros(3, 1, 14, 14))
    job = Job(prior, cost, DDRM(grid=Uniform(2)), [5, 6, 7], 1)
    execute(job, begin(job, tmp_path), Slice(1, 3))
    again, store = resume(tmp_path)
    assert same(again.method, job.method) and again.seeds == [5, 6, 7]
    execute(again, store)
    assert same(store.result().samples, run(job).samples)


def test_a_job_without_a_spec_needs_its_script(plan: Plans, tmp_path: Path) -> None:
    job = plan().job()
    odd = replace(job, method=lambda *a, **k: job.method(*a, **k))
    execute(odd, begin(odd, tmp_path), Slice(1, 2))
    with pytest.raises(ResultError, match="run that script again"):
        resume(tmp_path)
    assert len(run(odd, tmp_path)) == 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 5}, r"unit: 4 there, 5 now"),
        ({"samples": 25}, r"seeds"),
        ({"steered": False}, r"method"),
        ({"nan": (3,)}, r"cost\.radius\.sha256"),
        ({"metrics": ()}, r"metrics\.distance"),
    ],
)
def test_another_run_is_refused_with_what_differs(
    plan: Plans, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    begin(plan().job(), tmp_path)
    with pytest.raises(OtherRun, match=words):
        begin(plan(**change).job(), tmp_path)
    if "batch" not in change:  # the folder's own decides, where it is opened first
        with pytest.raises(OtherRun, match="name another folder"):
            run(plan(**change).job(), Store.open(tmp_path))


def test_events(plan: Plans, tmp_path: Path) -> None:
    events: list[Any] = []
    job = plan(samples=8).job()
    execute(job, begin(job, tmp_path, title="points"), observer=events.append)
    assert events[0] == Begun("points", 2, 8, 0)
    rounds = [event for event in events if isinstance(event, Round)]
    assert {event.seeds for event in rounds} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    done = [event for event in events if isinstance(event, Finished)]
    assert [event.unit for event in done] == [0, 1] and done[1].records[0]["id"] == 4
    events.clear()
    execute(job, Store.open(tmp_path), observer=events.append)
    assert events == [Begun("points", 0, 0, 8)]


def test_records_and_result(plan: Plans, tmp_path: Path, whole: Store) -> None:
    job = plan().job()
    result = run(job, tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["schema"] == 1 and content["kind"] == "ctrlgen-result"
    assert content["complete"] and content["missing"] == []
    assert content["samples"] == list(Store.open(tmp_path).records())
    first = content["samples"][3]
    assert first["id"] == 3 and first["seed"] == 3 and first["reason"] is None
    assert first["cost"] == pytest.approx(float(result.costs[3]))
    assert first["metrics"]["distance"] == pytest.approx(float(result.samples[3].norm()))
    assert first["evaluations"] == int(result.evaluations[3])
    summary = content["summary"]
    assert summary["cost"]["worst"] == pytest.approx(float(result.costs.max()))
    assert summary["evaluations"]["total"] == int(result.evaluations.sum())
    assert whole.manifest["metrics"] == {"distance": {"unit": "m", "better": "lower"}}


def test_a_table(plan: Plans, whole: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = whole.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 24
    assert frame.loc[3, "distance"] == pytest.approx(2, abs=0.5)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"ctrlgen\[tables\]"):
        whole.to_pandas()


def test_shared_tensors(whole: Store, tmp_path: Path, plan: Plans) -> None:
    store = begin(plan().job(), tmp_path)
    assert store.tensors == {}
    store.put(measurement=torch.ones(1, 3), truth=None)
    assert Store.open(tmp_path).tensors.keys() == {"measurement"}


def test_threads_are_those_of_the_manifest(plan: Plans, tmp_path: Path) -> None:
    seen: list[int] = []
    job = plan(samples=1).job()

    def spy(*parts: Any, **options: Any) -> Result:
        seen.append(torch.get_num_threads())
        return job.method(*parts, **options)

    odd = replace(job, method=spy)
    store = begin(odd, tmp_path, Processes(2))
    assert store.manifest["threads"] == 1
    torch.set_num_threads(2)
    execute(odd, store, Local())
    assert seen == [1] and torch.get_num_threads() == 2


def test_failed_samples_have_their_own_status() -> None:
    assert Status.FAILED.label == "failed: an error was raised" and not Status.FAILED.converged


@pytest.mark.parametrize(
    ("text", "words"), [("3/2", "1/2 to 2/2"), ("0/2", "index"), ("2", "I/N"), ("a/b", "I/N")]
)
def test_slices_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Slice.parse(text)


def test_what_cannot_be_sent_is_said(plan: Plans, tmp_path: Path) -> None:
    job = plan().job()
    odd = replace(job, method=lambda *a, **k: job.method(*a, **k))
    with pytest.raises(TypeError, match="cannot be sent to other processes"):
        run(odd, tmp_path, Processes(2))


def test_notes_are_told(plan: Plans, tmp_path: Path) -> None:
    job = plan().job()
    run(job, tmp_path)
    (tmp_path / "shards" / "000002.safetensors").write_bytes(b"")
    events: list[Any] = []
    execute(job, Store.open(tmp_path), observer=events.append)
    assert isinstance(events[0], Note) and "000002" in events[0].text
    assert "computed again" in events[0].text
