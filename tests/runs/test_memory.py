"""Batches "auto": what two samples take says how many fit; on the CPU there is a fixed number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.runs import memory
from ctrlgen.runs.job import Job
from ctrlgen.runs.runner import begin, run
from ctrlgen.runs.store import Store


def test_between_one_and_two() -> None:
    assert memory.between(100, 150, 1000, 999) == 15  # 0.8 * 1000 = 100 + 14 * 50
    assert memory.between(100, 150, 1000, 7) == 7
    assert memory.between(1000, 2000, 500, 9) == 1
    assert memory.between(640, 640, 10_000, 10_000) > 1  # a second sample that seems to be free


def test_auto_on_the_host(plan: Callable[..., Any], tmp_path: Path) -> None:
    job = replace(plan(samples=70, steered=False).job(), batch="auto")
    store = begin(job, tmp_path)
    assert store.manifest["unit"] == memory.ON_HOST and store.units == 2
    assert len(run(job, tmp_path)) == 70
    smaller = plan(samples=70, steered=False, batch=5).job()
    begin(smaller, tmp_path / "five")
    again = begin(replace(smaller, batch="auto"), tmp_path / "five")  # the folder's own holds
    assert again.manifest["unit"] == 5 and isinstance(again, Store)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch"),
        ({"patience": 0.0}, "patience"),
        ({"seeds": []}, "seeds"),
        ({"metrics": {"m": 3}}, "m: expected a function"),
        ({"method": None}, "method: expected a function"),
        ({"seeds": [1, 2]}, "cost: holds data of 24 samples, expected 2"),
        ({"prior": "mnist"}, "prior: expected a Prior"),
    ],
)
def test_jobs_that_are_none(plan: Callable[..., Any], change: dict[str, Any], words: str) -> None:
    job = plan().job()
    with pytest.raises((TypeError, ValueError), match=words):
        Job(**{**vars(job), **change})
