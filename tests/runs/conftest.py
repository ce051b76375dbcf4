"""Plans and jobs that workers can import, and how two runs are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.methods.result import Result
from ctrlgen.runs.spec import same
from ctrlgen.runs.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for the processes that import `points` by name


@pytest.fixture
def plan() -> Callable[..., Any]:
    """Builds a plan of `points`."""
    from points import Points

    return Points


def timeless(store: Store) -> list[dict[str, Any]]:
    """All records but for their seconds."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in store.records()]


@pytest.fixture
def identical() -> Callable[[Store, Store], None]:
    """Asserts that two runs hold the same, bit for bit."""

    def compare(one: Store, other: Store) -> None:
        first, second = one.result(), other.result()
        for name in (*Result.per_sample, "history", "network", "method"):
            assert same(getattr(first, name), getattr(second, name)), name
        assert timeless(one) == timeless(other)

    return compare


def litter(folder: Path) -> list[str]:
    """What no run may leave: half files and locks."""
    return [str(f) for f in folder.rglob(".*") if f.name not in (".", "..")]


@pytest.fixture
def tidy() -> Callable[[Path], None]:
    """Asserts that nothing half written, and no lock, is left."""

    def check(folder: Path) -> None:
        assert litter(folder) == []

    return check


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The uninterrupted run of `Points()`."""
    from points import Points

    from ctrlgen.runs.runner import begin, execute

    job = Points().job()
    store = begin(job, tmp_path_factory.mktemp("whole"))
    execute(job, store)
    yield store
