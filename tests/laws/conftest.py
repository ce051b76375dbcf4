"""Fixtures of the laws: the cases of all components (`tests.laws.cases`), and what there is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

import ctrlgen
import ctrlgen.costs
import ctrlgen.domains
from tests.laws.cases import CASES, select
from tests.laws.cases.base import SEEDS, Case, staying
from tests.laws.cases.methods import method_cost
from tests.laws.cases.operators import REGISTERED
from tests.laws.cases.priors import conditional_prior


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` is every case in turn; the others are selections."""
    select(metafunc)


@pytest.fixture
def registered_operators() -> dict[str, Case]:
    """The cases of the operators that the image domain registers, by their names."""
    return REGISTERED


@pytest.fixture
def all_cases() -> dict[str, Case]:
    """All cases by name."""
    return CASES


@pytest.fixture
def linear_problem() -> SimpleNamespace:
    """The problem of the method cases: `prior(dtype)`, `cost(dtype)` and `seeds`."""
    return SimpleNamespace(prior=conditional_prior, cost=method_cost, seeds=SEEDS)


@pytest.fixture(name="staying")
def staying_fixture() -> Callable[[], Any]:
    """A context in which components stay where they are."""
    return staying


@pytest.fixture
def seeds() -> Tensor:
    """Of the four samples."""
    return SEEDS


# ------------------------------------------------------------------ what there is


def modules() -> Iterator[ModuleType]:
    """Every module of the core, the costs and the domains."""
    for package in (ctrlgen, ctrlgen.costs, ctrlgen.domains):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


@pytest.fixture(scope="session")
def public_classes() -> set[type]:
    """Every public class that these packages define."""
    return {
        value
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and not name.startswith("_")
        and value.__module__.startswith("ctrlgen")
    }
