"""Units on a local Ray cluster, of whose actors one is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.rows.errors import MissingExtra
from ctrlgen.runs.cluster import Ray
from ctrlgen.runs.executors import Slice
from ctrlgen.runs.runner import begin, execute
from ctrlgen.runs.store import Store


def test_actors_compute_the_same(
    plan: Callable[..., Any], tmp_path: Path, whole: Store,
    identical: Callable[[Store, Store], None],
) -> None:  # fmt: skip
    ray = pytest.importorskip("ray", reason="the ray package is not installed")
    executor = Ray(workers=2)
    dying = plan(dies=(9, str(tmp_path / "deaths")))
    store = begin(dying.job(), tmp_path / "run", executor)
    execute(dying, store, executor)
    assert (tmp_path / "deaths").read_text() == "x"
    assert not ray.is_initialized()
    identical(store, whole)


def test_without_the_package_it_is_named(
    plan: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    store = begin(plan().job(), tmp_path)
    with pytest.raises(MissingExtra, match=r"ctrlgen\[ray\]"):
        execute(plan(), store, Slice(1, 2, Ray()))
