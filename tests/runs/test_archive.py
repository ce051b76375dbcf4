"""Results on disk: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctrlgen.methods import DFlow
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import LBFGS
from ctrlgen.rows.errors import ResultError
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Midpoint


@pytest.fixture(scope="module")
def result() -> Result:
    """Of a real run: two samples, one of them at its target, with a history."""
    from ctrlgen.priors.prior import Prior
    from ctrlgen.priors.sources import Gaussian
    from tests.conftest import random_mixture

    law = random_mixture(2, 3)
    method = DFlow(
        solver=Midpoint(2), optimizer=LBFGS(max_iterations=3), dtype=torch.float64, target=0.5
    )
    prior = Prior(law.flow(None), Gaussian(law.shape))
    return method(prior, lambda x: x.square().sum(1), seeds=[1, 2**62])


def test_what_is_saved_is_what_is_loaded(result: Result, tmp_path: Path) -> None:
    file = result.save(tmp_path / "runs" / "first.v1")
    assert file == tmp_path / "runs" / "first.v1.json"
    assert sorted(f.name for f in file.parent.iterdir()) == [
        "first.v1.json",
        "first.v1.safetensors",
    ]
    again = Result.load(file)
    for name in Result.per_sample:
        one, other = getattr(result, name), getattr(again, name)
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert set(again.history) == set(result.history) and result.history
    for name, value in result.history.items():
        assert torch.equal(again.history[name], value)
    assert (again.method, again.network) == (result.method, result.network)
    assert again.summary() == result.summary()
    assert torch.equal(Result.load(tmp_path / "runs" / "first.v1").seeds, result.seeds)


def test_numbers_that_are_not_finite_survive(result: Result, tmp_path: Path) -> None:
    odd = result.take(torch.tensor([1, 0]))
    odd.costs = torch.tensor([torch.nan, torch.inf])
    again = Result.load(odd.save(tmp_path / "odd"))
    assert bool(again.costs[0].isnan()) and bool(again.costs[1].isinf())


def test_nothing_is_replaced_unasked(result: Result, tmp_path: Path) -> None:
    file = result.save(tmp_path / "first")
    with pytest.raises(ResultError, match=r"first\.json is there already; overwrite=True"):
        result.take(torch.tensor([0])).save(file)
    assert len(Result.load(file)) == 2
    result.take(torch.tensor([0])).save(file, overwrite=True)
    assert len(Result.load(file)) == 1


@pytest.mark.parametrize("file", ["", "..", "a\0b", 3, None, "a/.hidden"])
def test_files_without_a_name(result: Result, file: Any) -> None:
    with pytest.raises(ResultError, match="file: expected the path of a result, got"):
        result.save(file)
    with pytest.raises(ResultError, match="file: expected the path of a result, got"):
        Result.load(file)


def test_a_failed_write_leaves_what_was_there(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = result.save(tmp_path / "first")
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        result.save(file, overwrite=True)
    monkeypatch.undo()
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def edited(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content[key] = value
        if value is ...:
            del content[key]
    file.write_text(json.dumps(content))


def renumbered(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the tensors, with the hash that fits."""
    numbers = file.with_suffix(".safetensors")
    tensors = load_file(numbers)
    change(tensors)
    save_file(tensors, numbers)
    edited(file, sha256=hashlib.sha256(numbers.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "expected a result of format_version 1, got 2"),
        ({"format_version": ...}, "expected a result of format_version 1, got None"),
        ({"kind": "card"}, "expected a result"),
        ({"mood": "good"}, "mood: is no field of a result"),
        ({"method": ...}, "method: is missing"),
        ({"method": 3}, "method: expected text, got 3"),
        ({"sha256": "0" * 64}, "expected sha256 '0+'.* has another: it is damaged"),
        ({"network": {}}, "network: expected counts"),
        ({"network": 3}, "network: expected counts, got 3"),
        ({"rounds": {"cost": -1}}, "rounds: expected counts"),
        ({"rounds": {"nothing": 3}}, "history.cost: is no field|history.*: is"),
    ],
    ids=str,
)
def test_damaged_json(result: Result, tmp_path: Path, changes: Any, message: str) -> None:
    file = result.save(tmp_path / "first")
    edited(file, **changes)
    with pytest.raises(ResultError, match=f"result .*first.json: {message}"):
        Result.load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("costs"), "costs: is missing"),
        (lambda t: t.update(more=torch.zeros(2)), "more: is no field of a result"),
        (lambda t: t.update(costs=torch.zeros(3)), "costs: expected numbers, one row per seed"),
        (lambda t: t.update(samples=torch.zeros(1, 3)), "samples: expected numbers, one row per"),
        (lambda t: t.update(status=torch.tensor([1, 77])), "status: expected codes of Status"),
        (lambda t: t.update(seeds=torch.zeros(2)), "seeds: expected integers, one row per seed"),
        (lambda t: t.update(seeds=torch.tensor(1)), "expected"),
        (lambda t: t.update({"history.cost": torch.zeros(1, 1)}), "history: 'cost': expected"),
    ],
)
def test_damaged_numbers(result: Result, tmp_path: Path, change: Any, message: str) -> None:
    file = result.save(tmp_path / "first")
    renumbered(file, change)
    with pytest.raises(ResultError, match=message):
        Result.load(file)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', "[" * 100_000, "\xff"])
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultError, match=r"result .*x\.json: expected a"):
        Result.load(tmp_path / "x.json")
    with pytest.raises(ResultError, match=r"absent\.json: expected a JSON file"):
        Result.load(tmp_path / "absent")


def test_missing_and_truncated_numbers(result: Result, tmp_path: Path) -> None:
    file = result.save(tmp_path / "first")
    numbers = file.with_suffix(".safetensors")
    numbers.write_bytes(numbers.read_bytes()[:-3])
    with pytest.raises(ResultError, match="has another: it is damaged"):
        Result.load(file)
    numbers.unlink()
    with pytest.raises(ResultError, match="cannot read"):
        Result.load(file)


def test_a_result_says_itself_in_a_line(result: Result) -> None:
    text = repr(result)
    assert text.startswith("Result(2 samples of 3; ") and len(text) < 300 and "\n" not in text
    assert "best cost" in text and "DFlow" in text


def test_every_status_is_documented() -> None:
    assert Status.__doc__ is not None
    for code in Status:
        assert f"{code.name}: " in Status.__doc__
