"""Nothing is left out: every public component has a case, every registered operator is tried."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from ctrlgen.domains.images.operators import OPERATORS
from ctrlgen.methods import Method
from ctrlgen.methods.source.dflow import PRESETS
from ctrlgen.methods.starts import Initializer
from ctrlgen.optimizers import Optimizer
from ctrlgen.priors.paths import Path
from ctrlgen.rows.batching import PerSample
from ctrlgen.solvers import FixedStep, Solver

BASES = (Path, Solver, Optimizer, Method, Initializer, PerSample)
NOT_BY_THEMSELVES = {PerSample, FixedStep}  # bases without an abstract method


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_every_component_is_under_the_laws(
    base: type, public_classes: set[type], all_cases: dict[str, Any]
) -> None:
    covered = {kind for case in all_cases.values() for kind in case.kinds}
    missing = {
        f"{kind.__module__}.{kind.__name__}"
        for kind in public_classes
        if issubclass(kind, base) and not inspect.isabstract(kind)
    } - {f"{kind.__module__}.{kind.__name__}" for kind in covered | NOT_BY_THEMSELVES}
    assert not missing, f"add a case to tests/laws/cases for {sorted(missing)}"


def test_every_registered_operator_is_under_the_laws(registered_operators: dict[str, Any]) -> None:
    assert registered_operators.keys() == OPERATORS.keys()


def test_cases_are_of_what_they_say(public_classes: set[type], all_cases: dict[str, Any]) -> None:
    for name, case in all_cases.items():
        for kind in case.kinds:
            own = kind.__module__.startswith("ctrlgen")
            assert not own or kind in public_classes, name


def test_there_is_a_preset_for_every_task_of_the_paper() -> None:
    tasks = {"inpaint", "sr2", "deblur", "denoise", "latent-inpaint", "audio", "molecule-property"}
    assert tasks <= PRESETS.keys()
