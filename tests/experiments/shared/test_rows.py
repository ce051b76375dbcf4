"""Rows of experiments on disk: kept, computed again, damaged, cut off, wanted by two processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.experiments.shared.rows import Rows, publish
from ctrlgen.runs.locks import Held, lock_folder

Compute = Callable[[], tuple[dict[str, Any], Tensor]]


@pytest.fixture
def calls() -> list[int]:
    """How often a row was computed."""
    return []


@pytest.fixture
def compute(calls: list[int]) -> Compute:
    """A row whose numbers and images say how often it was computed."""

    def count() -> tuple[dict[str, Any], Tensor]:
        calls.append(1)
        return {"count": len(calls), "worst": float("inf")}, torch.full((1, 2), float(len(calls)))

    return count


def test_rows_of_another_key_are_computed_again(
    tmp_path: Path, compute: Compute, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Rows(tmp_path, {"images": 1}).get("a", compute).tolist() == [[1, 1]]
    again = Rows(tmp_path, {"images": 1})
    assert again.get("a", compute).tolist() == [[1, 1]]
    assert again.rows["a"] == {"key": {"images": 1}, "count": 1, "worst": float("inf")}
    other = Rows(tmp_path, {"images": 2})
    assert other.get("a", compute).tolist() == [[2, 2]]
    assert other.rows["a"] == {"key": {"images": 2}, "count": 2, "worst": float("inf")}
    assert "a: computed again (images: 1 there, 2 now)" in capsys.readouterr().out


def test_a_key_is_published_once(tmp_path: Path) -> None:
    """A row keeps its own where the results do not say all of it."""
    rows = {"a": {"key": {"images": 2}, "psnr": [1 / 3]}, "b": {"key": {"images": 3}}}
    results = {"images": 2, "rows": {"of": rows}}
    publish(tmp_path, results, "a table")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["rows"]["of"] == {"a": {"psnr": [0.333333]}, "b": {"key": {"images": 3}}}
    assert results["rows"]["of"]["a"]["key"] == {"images": 2}  # type: ignore[index]


def test_rows_without_a_schema_are_read(tmp_path: Path, compute: Compute) -> None:
    Rows(tmp_path, {"images": 1}).get("a", compute)
    row = json.loads((tmp_path / "a.json").read_text())
    del row["schema"], row["sha256"]
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert Rows(tmp_path, {"images": 1}).get("a", compute).tolist() == [[1, 1]]


@pytest.mark.parametrize("file", ["a.json", "a.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_row_is_computed_again(
    tmp_path: Path, compute: Compute, calls: list[int], file: str, damage: str
) -> None:
    Rows(tmp_path, {}).get("a", compute)
    content = (tmp_path / file).read_bytes()
    if damage == "gone":
        (tmp_path / file).unlink()
    elif damage == "cut":
        (tmp_path / file).write_bytes(content[:-9])
    else:
        (tmp_path / file).write_bytes(content[:-2] + bytes([content[-2] ^ 255]) + content[-1:])
    rows = Rows(tmp_path, {})
    assert rows.get("a", compute).tolist() == [[2, 2]] and rows.rows["a"]["count"] == 2
    assert Rows(tmp_path, {}).get("a", compute).tolist() == [[2, 2]] and len(calls) == 2


@pytest.mark.parametrize("fatal", [1, 2, 3, 4])
def test_an_experiment_that_is_killed_goes_on(
    tmp_path: Path, compute: Compute, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """At any write, two a row: what is finished is kept, and nothing half is read."""
    child = os.fork()
    if child == 0:
        writes, synchronise = list[int](), os.fsync

        def fsync(handle: int) -> None:
            synchronise(handle)
            writes.append(handle)
            if len(writes) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(os, "fsync", fsync)
        for name in "ab":
            Rows(tmp_path, {}).get(name, compute)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    done = list[str]()
    for name in "ab":
        Rows(tmp_path, {}).get(name, lambda name=name: (done.append(name), compute())[1])  # type: ignore[misc]
    assert done == (["b"] if fatal > 2 else ["a", "b"])
    assert not list(tmp_path.glob(".lock*"))


def test_a_row_that_another_process_computes_is_refused(tmp_path: Path, compute: Compute) -> None:
    with lock_folder(tmp_path, "a"):
        rows = Rows(tmp_path, {})
        rows.get("b", compute)  # another row is not its
        with pytest.raises(Held, match="writes"):
            rows.get("a", compute)
