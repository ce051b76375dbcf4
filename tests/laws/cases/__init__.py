"""Every component of the library, as a case on which the laws are tried.

A case knows how to compute what its component makes of some rows of four samples: the component is
built for all four and restricted with `take`, its input is sliced. The laws themselves are in the
test modules; whoever adds a component adds a case here (`test_completeness` says so).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.laws.cases.base import Case
from tests.laws.cases.costs import COSTS, REGULARIZERS
from tests.laws.cases.methods import METHODS
from tests.laws.cases.operators import LOOSE, REGISTERED
from tests.laws.cases.priors import CODECS, INITIALIZERS, PINS, PRIORS, SOURCES
from tests.laws.cases.rows import PROJECTIONS, ROW_HOLDERS
from tests.laws.cases.solving import OPTIMIZER_CASES, PATH_CASES, SOLVER_CASES

__all__ = ["CASES", "TABLES", "select"]

TABLES: dict[str, dict[str, Case]] = {
    "path": PATH_CASES,
    "solver": SOLVER_CASES,
    "optimizer": OPTIMIZER_CASES,
    "operator": {**REGISTERED, **LOOSE},
    "cost": COSTS,
    "regularizer": REGULARIZERS,
    "initializer": INITIALIZERS,
    "source": SOURCES,
    "codec": CODECS,
    "projection": PROJECTIONS,
    "rows": ROW_HOLDERS,
    "prior": PRIORS,
    "pins": PINS,
    "method": METHODS,
}

CASES = {f"{base}:{name}": case for base, table in TABLES.items() for name, case in table.items()}

FOLLOWING = ("operator:", "cost:", "codec:", "regularizer:", "projection:")
"""What follows its input without being moved; sources, priors and rows say where they are."""

TRANSPOSED = ("cost:spectra", "cost:mel", "cost:chroma")
"""The pretended device loses the transpose of a short-time Fourier transform on the way back."""


def select(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test: `case` is every case in turn; the others are selections."""
    selections: dict[str, Callable[[str, Case], bool]] = {
        "case": lambda name, case: True,
        "light_case": lambda name, case: not case.heavy,
        "heavy_case": lambda name, case: case.heavy,
        "gradient_case": lambda name, case: case.gradient is not None,
        "value_case": lambda name, case: name.startswith(("cost:", "regularizer:")),
        # The gradients of the others are those of something else, as their documentation says.
        "exact_case": lambda name, case: (
            case.gradient is not None and case.rounding is not None and "adjoint" not in name
        ),
        "smooth_case": lambda name, case: case.rounding is not None,
        "part_case": lambda name, case: case.part is not None,
        "method_case": lambda name, case: case.method is not None,
        "problem_case": lambda name, case: case.problem is not None,
        # The pretended device knows no forward-mode derivatives, of which that path is made.
        # Whole runs of methods are compared where their waiting is counted (`problem_case`).
        "device_case": lambda name, case: name != "path:schedule" and case.problem is None,
        "following_case": lambda name, case: name.startswith(FOLLOWING) and not case.heavy,
        "gradient_device_case": lambda name, case: (
            case.gradient is not None and name not in ("path:schedule", *TRANSPOSED)
        ),
    }
    for fixture, chosen in selections.items():
        if fixture in metafunc.fixturenames:
            names = [name for name, case in CASES.items() if chosen(name, case)]
            metafunc.parametrize(fixture, [CASES[name] for name in names], ids=names)
