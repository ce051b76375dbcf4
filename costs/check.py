r"""Does a cost keep its promises? What `ctrlgen check` runs, and a call for a user's own tests.

A cost C maps signals (B, *) to values (B,). On signals x of a prior (decoded noise, and samples) it
is asked for

    one value per sample       C(x) of shape (B,), floating point, also for B = 1
    a gradient                 that exists, and is not zero everywhere
    repeatable                 C(x) = C(x)
    finite                     C(x) and ∇C(x)
    a usable scale             ‖∇C(x)‖ neither overflows nor drowns when it is squared
    no sample sees another     C_i(x_i) = C(x)_i,   C_π(x_π) = C(x)_π,   ∂C_i/∂x_j = 0
    gradient = differences     ⟨∇C, v⟩ = (C(x + hv) − C(x − hv)) / 2h

where C_i is the cost restricted by `take`. The last is tried in float64, row by row, along the
gradient itself and along random directions; networks held by the cost are copied to float64.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ctrlgen.costs.base import Cost, FunctionCost, as_cost
from ctrlgen.costs.promises import Check, Trial, value_and_gradient
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat, rows_of
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.solvers import Solver

__all__ = ["Check", "Report", "Scale", "check_cost"]


@dataclass(frozen=True)
class Scale:
    """The scale at which a cost lives: medians over signals of one kind.

    Attributes:
        signals: which signals.
        value: median cost.
        low: least cost.
        high: greatest cost.
        gradient: median Euclidean norm of the gradient with respect to the signal.
        change: first-order change of the cost for a step down the gradient by 1 % of the signal's
            norm, median.
    """

    signals: str
    value: float
    low: float
    high: float
    gradient: float
    change: float


@dataclass(frozen=True)
class Report:
    """What came out.

    Attributes:
        cost: the cost in words.
        prior: name of the prior whose signals were used.
        samples: number of signals B.
        shape: of one signal.
        checks: every promise, in order.
        scales: on noise and on samples of the prior; none for a cost without a gradient.
        milliseconds: of one evaluation with gradient, per sample.
    """

    cost: str
    prior: str
    samples: int
    shape: tuple[int, ...]
    checks: tuple[Check, ...]
    scales: tuple[Scale, ...]
    milliseconds: float

    @property
    def passed(self) -> bool:
        """Whether no promise is broken."""
        return all(check.passed is not False for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, **asdict(self)}


def check_cost(
    cost: Callable[..., Any],
    prior: Prior,
    *,
    arguments: dict[str, Any] | None = None,
    seeds: Seeds | None = None,
    solver: Solver | None = None,
    directions: int = 3,
) -> Report:
    """Try a cost on the signals of a prior.

    Args:
        cost: a `Cost`, a class of them, or a function of the signal.
        prior: whose signals are used.
        arguments: of the constructor, or keyword arguments of the function.
        seeds: of the signals; as many as the cost holds data for, 4 for one that holds none.
        solver: of the samples; 10 midpoint steps by default.
        directions: random directions per sample, beside the gradient's own.

    Raises:
        TypeError: if the cost cannot be called, or not be built from the arguments.
        ValueError: for no directions, or another number of seeds than the cost has rows.
    """
    if directions < 1:
        raise ValueError(f"directions: expected at least 1, got {directions}")
    made = _build(cost, arguments or {})
    held = rows_of(made)
    rows = as_seeds(range(held or 4) if seeds is None else seeds)
    if held is not None and len(rows) != held:
        raise ValueError(f"seeds: expected {held}, one per row of the cost's data, got {len(rows)}")
    noise = prior.codec.decode(prior.start(rows)).detach()
    trial, scales, milliseconds = Trial(made, noise, rows, directions), [], math.nan
    trial.run()
    if trial.sound:
        samples = prior.sample(rows, solver or prior.solver(10)).to(noise)
        trial.finite(samples, "samples of the prior")
        trial.scaled(samples, "samples of the prior")
        scales = [_scale(made, noise, "decoded noise"), _scale(made, samples, "samples")]
        milliseconds = _milliseconds(made, samples)
    return Report(
        cost=repr(made),
        prior=prior.card.name if prior.card else "unnamed",
        samples=len(rows),
        shape=tuple(noise.shape[1:]),
        checks=tuple(trial.checks),
        scales=tuple(scales),
        milliseconds=milliseconds,
    )


def _build(cost: Callable[..., Any], arguments: dict[str, Any]) -> Cost:
    if not callable(cost):
        raise TypeError(f"cost: expected a Cost, a class of them or a function, got {cost!r}")
    if isinstance(cost, Cost) and arguments:
        raise TypeError(f"arguments: {cost} is built already, got {sorted(arguments)}")
    name = getattr(cost, "__name__", type(cost).__name__)
    if arguments or inspect.isclass(cost):
        given = arguments if inspect.isclass(cost) else {**arguments, _first(cost): None}
        signature = inspect.signature(cost)
        try:
            signature.bind(**given)
        except TypeError as error:
            wanted = [
                p.name if p.default is p.empty else f"{p.name}={p.default!r}"
                for p in signature.parameters.values()
            ]
            raise TypeError(
                f"arguments: {name}({', '.join(wanted)}) does not take {arguments}: {error}"
            ) from error
    if inspect.isclass(cost):
        return as_cost(cost(**arguments))
    return (
        FunctionCost(functools.partial(cost, **arguments), name=name)
        if arguments
        else as_cost(cost)
    )


def _first(function: Callable[..., Any]) -> str:
    """Name of the argument that takes the signal."""
    return next(iter(inspect.signature(function).parameters), "")


def _scale(cost: Cost, x: Tensor, signals: str) -> Scale:
    value, gradient = value_and_gradient(cost, x)
    assert gradient is not None
    norm = flat(gradient).norm(dim=1)
    change = 0.01 * flat(x).norm(dim=1) * norm
    middle, slope, step = (float(m.median()) for m in (value, norm, change))
    return Scale(signals, middle, float(value.min()), float(value.max()), slope, step)


def _milliseconds(cost: Cost, x: Tensor, repeats: int = 5) -> float:
    """Median time of one evaluation with gradient, per sample."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        value_and_gradient(cost, x)
        times.append(1e3 * (time.perf_counter() - begun) / len(x))
    return sorted(times)[repeats // 2]
