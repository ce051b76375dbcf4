"""What every optimizer promises: rows are independent, leave when done, and tell the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.optimizers import (
    LBFGS,
    Adam,
    Evaluated,
    Event,
    FunctionObjective,
    GradientDescent,
    Optimizer,
    Solution,
    Status,
)
from ctrlgen.rows.batching import row_sum

OPTIMIZERS = {
    "lbfgs": LBFGS(max_iterations=60, gradient_tolerance=1e-6),
    "lbfgs-short": LBFGS(max_iterations=60, history=3, restart_every=17),
    "adam": Adam(max_iterations=60, learning_rate=0.1, change_tolerance=1e-7),
    "descent": GradientDescent(
        max_iterations=60, learning_rate=2e-3, momentum=0.5, clip_norm=5.0, gradient_tolerance=1e-1
    ),
}


@pytest.fixture(params=OPTIMIZERS, name="optimizer")
def _optimizer(request: pytest.FixtureRequest) -> Optimizer:
    return OPTIMIZERS[request.param]


def mixed(x: Tensor, scales: Tensor, bend: Tensor) -> Tensor:
    """Quadratics of any condition (bend 0) and Rosenbrock valleys (bend 1), elementwise."""
    quadratic = (0.5 * scales * (x - 1).square()).sum(dim=1)
    valley = 100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()
    return torch.where(bend > 0, valley.sum(dim=1), quadratic)


def problem(count: int = 64, d: int = 7) -> tuple[FunctionObjective, Tensor]:
    """`count` rows of different difficulty: condition 1 to 1e5, and every third a valley."""
    generator = torch.Generator().manual_seed(0)
    conditions = torch.logspace(0, 5, count, dtype=torch.float64)
    exponents = torch.linspace(0, 1, d, dtype=torch.float64)
    scales = conditions[:, None] ** exponents
    bend = (torch.arange(count) % 3 == 0).double()
    x0 = torch.randn(count, d, generator=generator, dtype=torch.float64)
    return FunctionObjective(mixed, scales=scales, bend=bend), x0


def targets(optimizer: Optimizer, objective: FunctionObjective, x0: Tensor) -> Tensor:
    """Targets that only some rows reach within the budget."""
    hardest = 1e-13 if isinstance(optimizer, LBFGS) else 1e-5
    fractions = torch.logspace(math.log10(hardest), -0.05, len(x0), dtype=x0.dtype)
    return objective(x0).value * fractions


class Spy:
    """An objective that remembers who was evaluated; it can poison rows from some call on."""

    def __init__(self, objective: Any, poison: dict[int, int] | None = None) -> None:
        self.objective, self.poison = objective, poison or {}
        self.calls: list[list[int]] = []
        self.takes: list[list[int]] = []
        self.rows: list[int] | None = None
        self.root = self

    def __call__(self, x: Tensor) -> Evaluated:
        rows = list(range(len(x))) if self.rows is None else self.rows
        assert len(rows) == len(x)
        value = self.objective(x).value
        seen = [sum(row in call for call in self.root.calls) for row in rows]
        bad = [n >= self.poison.get(row, 10**9) for n, row in zip(seen, rows, strict=True)]
        self.root.calls.append(rows)
        value = value + torch.where(torch.tensor(bad), torch.nan, 0.0)
        return Evaluated(value, value)

    def take(self, index: Tensor) -> Spy:
        assert self is self.root, "take must be called on the original objective"
        child = Spy(self.objective.take(index), self.poison)
        child.root, child.rows = self, index.tolist()
        self.takes.append(child.rows)
        return child


def same(a: Solution, b: Solution, rows: Tensor | None = None) -> None:
    """Bitwise equality of two solutions, the second restricted to some rows."""
    index = torch.arange(len(b.x)) if rows is None else rows
    for field in ("x", "value", "monitor", "gradient_norm", "status", "iterations", "calls"):
        torch.testing.assert_close(
            getattr(a, field), getattr(b, field)[index], rtol=0, atol=0, equal_nan=True, msg=field
        )
    for name, table in a.history.items():
        other = b.history[name][: len(table), index]
        torch.testing.assert_close(table, other, rtol=0, atol=0, equal_nan=True, msg=name)


def test_each_row_equals_its_own_run_bit_by_bit(optimizer: Optimizer) -> None:
    objective, x0 = problem()
    target = targets(optimizer, objective, x0)
    batch = optimizer.minimize(objective, x0, target=target)
    assert len(batch.status.unique()) > 1, "the rows should end in different ways"
    for row in (0, 25, 63):  # easy, and a valley of either end
        index = torch.tensor([row])
        alone = optimizer.minimize(objective.take(index), x0[index], target=target[index])
        same(alone, batch, index)


def test_long_rows_do_not_depend_on_the_threads(optimizer: Optimizer) -> None:
    d = 40_000  # long enough for torch to split the sum of a single row among threads
    scales = torch.logspace(0, 2, d).expand(3, d)
    objective = FunctionObjective(lambda x, s: row_sum(s * (x - 1).square()), s=scales)
    x0 = torch.randn(3, d, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    short = replace(optimizer, max_iterations=2)
    try:
        torch.set_num_threads(1)
        batch = short.minimize(objective, x0)
        torch.set_num_threads(2)
        same(short.minimize(objective.take(torch.tensor([1])), x0[1:2]), batch, torch.tensor([1]))
    finally:
        torch.set_num_threads(threads)


def test_order_does_not_matter(optimizer: Optimizer) -> None:
    objective, x0 = problem(23)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    short = replace(optimizer, max_iterations=25)
    batch = short.minimize(objective, x0)
    same(short.minimize(objective.take(order), x0[order]), batch, order)


def test_nobody_notices_a_diverging_neighbour(optimizer: Optimizer) -> None:
    objective, x0 = problem(12)
    optimizer = replace(optimizer, max_iterations=25)
    clean = optimizer.minimize(objective, x0)
    spoilt = optimizer.minimize(Spy(objective, poison={2: 0, 5: 7, 9: 1}), x0)
    others = torch.tensor([row for row in range(12) if row not in (2, 5, 9)])
    for field in ("x", "value", "status", "iterations", "calls"):
        assert torch.equal(getattr(spoilt, field)[others], getattr(clean, field)[others])
    assert spoilt.status[[2, 5, 9]].tolist() == [Status.DIVERGED] * 3
    # Never finite: x0 comes back. Later: the best iterate, with its finite value.
    assert torch.equal(spoilt.x[[2, 9]], x0[[2, 9]])
    assert spoilt.value[2].isnan() and spoilt.calls[2] == 1
    assert spoilt.history["value"][:, 2].isnan().all()
    assert spoilt.value[5] == objective(spoilt.x).value[5] < objective(x0).value[5]
    assert spoilt.calls[5] <= 7 + 12  # rescue attempts are bounded
    assert torch.equal(spoilt.x[5], clean.x[5]) is False


def test_no_evaluation_is_wasted(optimizer: Optimizer) -> None:
    objective, x0 = problem(16)
    spy = Spy(objective)
    solution = optimizer.minimize(spy, x0, target=targets(optimizer, objective, x0))
    counted = torch.tensor([sum(row in call for call in spy.calls) for row in range(16)])
    assert torch.equal(solution.calls, counted)
    # Rows do not wait for each other: the batch takes as many calls as its slowest row alone.
    assert solution.rounds == len(spy.calls) == int(solution.calls.max())
    # The working set is taken anew only when somebody has left.
    sizes = [16] + [len(rows) for rows in spy.takes]
    assert all(after < before for before, after in pairwise(sizes))
    assert len(spy.takes) >= 1


def test_history_and_best_are_those_of_each_row(optimizer: Optimizer) -> None:
    objective, x0 = problem(9)
    solution = optimizer.minimize(objective, x0)
    value, evaluations = solution.history["value"], solution.history["calls"]
    assert value.shape == evaluations.shape == (int(solution.iterations.max()) + 1, 9)
    assert torch.equal(value[0], objective(x0).value)
    assert torch.equal(value.amin(dim=0), solution.value)
    assert torch.equal(objective(solution.x).value, solution.value)
    assert (evaluations[0] == 1).all() and (evaluations.diff(dim=0) >= 0).all()
    for row, last in enumerate(solution.iterations.tolist()):
        assert (evaluations[: last + 1, row].diff() >= 1).all()
        assert (value[last:, row] == value[last, row]).all()
    if isinstance(optimizer, LBFGS):
        assert (value.diff(dim=0) <= 1e-12 * value[:-1].abs()).all()


def test_target_stops_each_row_at_the_first_iterate_that_meets_it(optimizer: Optimizer) -> None:
    objective, x0 = problem(8)
    target = objective(x0).value * torch.tensor([2, 0.9, 0.5, 0.1, 0.0, -1, 0.5, 0.7])
    solution = optimizer.minimize(objective, x0, target=target)
    hit = solution.status == Status.TARGET
    assert hit[:3].all() and not hit[5]
    assert solution.calls[0] == 1 and torch.equal(solution.x[0], x0[0])
    for row in hit.nonzero().flatten().tolist():
        monitored = solution.history["monitor"][: solution.iterations[row] + 1, row]
        assert monitored[-1] <= target[row] and (monitored[:-1] > target[row]).all()
        assert solution.monitor[row] == monitored[-1]
    assert solution.converged[hit].all()


def test_the_monitor_is_what_meets_the_target_and_aux_belongs_to_x(optimizer: Optimizer) -> None:
    class Regularized(FunctionObjective):
        def __call__(self, x: Tensor) -> Evaluated:
            loss = x.square().sum(dim=1)
            return Evaluated(loss + 50 + 0.1 * x.sum(dim=1), loss, aux=torch.stack([x, -x], dim=1))

    x0 = torch.ones(5, 3, dtype=torch.float64) * torch.arange(1.0, 6.0)[:, None]
    solution = optimizer.minimize(Regularized(lambda x: x), x0, target=1.5)
    torch.testing.assert_close(solution.monitor, solution.x.square().sum(dim=1))
    assert (solution.value > 49).all() and (solution.status == Status.TARGET).any()
    assert solution.aux is not None and solution.aux.shape == (5, 2, 3)
    assert torch.equal(solution.aux, torch.stack([solution.x, -solution.x], dim=1))


def test_budgets_hold_for_each_row(optimizer: Optimizer) -> None:
    objective, x0 = problem(6)
    for budget in (1, 2, 5, 11):
        changes: dict[str, Any] = {"gradient_tolerance": 0.0, "change_tolerance": 0.0}
        by_evaluations = replace(optimizer, max_evaluations=budget, **changes)
        solution = by_evaluations.minimize(objective, x0)
        assert (solution.status == Status.MAX_EVALUATIONS).all()
        assert (solution.calls == budget).all()
        assert torch.equal(objective(solution.x).value, solution.value)
        by_iterations = replace(optimizer, max_iterations=budget, **changes)
        solution = by_iterations.minimize(objective, x0)
        assert (solution.status == Status.MAX_ITERATIONS).all()
        assert (solution.iterations == budget).all()
    nothing = replace(optimizer, max_iterations=0).minimize(objective, x0)
    assert torch.equal(nothing.x, x0) and (nothing.calls == 1).all()
    assert (nothing.status == Status.MAX_ITERATIONS).all()


def replace(optimizer: Optimizer, **changes: Any) -> Optimizer:
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}
    return type(optimizer)(**{**values, **changes})


def unit(x: Tensor) -> Tensor:
    return x / x.square().flatten(1).sum(dim=1).sqrt().reshape(-1, *(1,) * (x.ndim - 1))


@pytest.mark.parametrize("every", [1, 4])
def test_projection_returns_only_projected_points(optimizer: Optimizer, every: int) -> None:
    generator = torch.Generator().manual_seed(3)
    goal = 3 * unit(torch.randn(6, 4, 2, generator=generator, dtype=torch.float64))
    x0 = torch.randn(6, 4, 2, generator=generator, dtype=torch.float64)
    spy = Spy(FunctionObjective(lambda x, goal: (x - goal).square().sum(dim=(1, 2)), goal=goal))
    optimizer = replace(optimizer, restart_every=every, max_iterations=30)
    target = torch.tensor([4.0 + 1e-3] * 3 + [3.9] * 3)  # 4 is the least value on the sphere
    solution = optimizer.minimize(spy, x0, target=target, projection=unit)
    torch.testing.assert_close(unit(solution.x), solution.x)
    assert (solution.value < (unit(x0) - goal).square().sum(dim=(1, 2))).all()
    assert not (solution.status[3:] == Status.TARGET).any()  # only points off the sphere meet it
    if isinstance(optimizer, LBFGS):
        assert (solution.status[:3] == Status.TARGET).all()
        torch.testing.assert_close(
            solution.value[3:], torch.full((3,), 4.0).double(), rtol=1e-3, atol=0
        )
    counted = torch.tensor([sum(row in call for call in spy.calls) for row in range(6)])
    assert torch.equal(solution.calls, counted)
    if not isinstance(optimizer, LBFGS) and every == 1:  # a projected step is one evaluation
        assert torch.equal(solution.calls, solution.iterations + 1)
    few = replace(optimizer, max_evaluations=7).minimize(spy.objective, x0, projection=unit)
    assert (few.calls <= 7).all()
    torch.testing.assert_close(unit(few.x), few.x)


def test_projection_may_hold_per_sample_data() -> None:
    class Clamp:
        def __init__(self, bound: Tensor) -> None:
            self.bound = bound

        def __call__(self, x: Tensor) -> Tensor:
            return x.minimum(self.bound[:, None])

        def take(self, index: Tensor) -> Clamp:
            return Clamp(self.bound[index])

    bound = torch.tensor([0.5, 2.0, 0.25], dtype=torch.float64)
    objective = FunctionObjective(lambda x: (x - 1).square().sum(dim=1))
    solution = GradientDescent(
        learning_rate=0.2, max_iterations=50, gradient_tolerance=1e-5, restart_every=1
    ).minimize(objective, torch.zeros(3, 2, dtype=torch.float64), projection=Clamp(bound))
    torch.testing.assert_close(
        solution.x, bound.clamp_max(1)[:, None].expand(3, 2), rtol=0, atol=1e-5
    )
    assert solution.status[1] == Status.CONVERGED_GRADIENT


def test_observer_sees_every_round(optimizer: Optimizer) -> None:
    objective, x0 = problem(8)
    events: list[Event] = []
    solution = optimizer.minimize(objective, x0, target=1e-2, observer=events.append)
    assert [event.round for event in events] == list(range(1, solution.rounds + 1))
    assert torch.equal(events[-1].value, solution.value) and len(events[-1].rows) == 0
    assert torch.equal(events[-1].status, solution.status)
    best = torch.stack([event.value for event in events])
    met = best[:-1] <= 1e-2
    assert (best.diff(dim=0) <= 0)[~met].all()
    for event in events:
        assert torch.equal(event.rows, (event.status == Status.RUNNING).nonzero().flatten())


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_and_dtype(
    optimizer: Optimizer, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x0.clone()
    objective = FunctionObjective(lambda x: (x - 1).square().reshape(len(x), -1).sum(dim=1))
    rate = 1.0 if isinstance(optimizer, LBFGS) else 0.1
    optimizer = replace(optimizer, max_iterations=400, learning_rate=rate)
    solution = optimizer.minimize(objective, x0, target=1e-4)
    assert solution.x.shape == shape and solution.x.dtype == solution.value.dtype == dtype
    assert torch.equal(x0, before) and not solution.x.requires_grad
    assert solution.converged.all()


def test_works_under_no_grad(optimizer: Optimizer) -> None:
    objective, x0 = problem(3)
    short = replace(optimizer, max_iterations=8)
    outside = short.minimize(objective, x0)
    with torch.no_grad():
        same(short.minimize(objective, x0), outside)


class Broken:
    """An objective that returns whatever it is told to."""

    def __init__(self, outcome: Callable[[Tensor], Any]) -> None:
        self.outcome = outcome

    def __call__(self, x: Tensor) -> Any:
        return self.outcome(x)

    def take(self, index: Tensor) -> Broken:
        return self


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "integer x0": (TypeError, "x0", {"x0": torch.ones(2, 3, dtype=torch.int64)}),
    "list x0": (TypeError, "x0", {"x0": [[1.0]]}),
    "empty x0": (ValueError, "x0", {"x0": torch.ones(0, 3)}),
    "target shape": (ValueError, "target", {"target": torch.ones(3)}),
    "target nan": (ValueError, "target", {"target": float("nan")}),
    "no take": (TypeError, "take", {"objective": lambda x: x}),
    "no Evaluated": (TypeError, "Evaluated", {"objective": "tensor"}),
    "scalar value": (ValueError, r"value must have shape \(2,\)", {"objective": "scalar"}),
    "no gradient": (ValueError, "depend on x", {"objective": "constant"}),
    "other gradient": (ValueError, "depend on x", {"objective": "other"}),
    "aux rows": (ValueError, "aux", {"objective": "aux"}),
    "projection alone": (ValueError, "restart_every", {"projection": unit}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(optimizer: Optimizer, case: str) -> None:
    error, message, arguments = BAD[case]
    if case == "projection alone":
        optimizer = replace(optimizer, restart_every=None)
    other = torch.ones(2, requires_grad=True)
    outcomes: dict[str, Callable[[Tensor], Any]] = {
        "tensor": lambda x: x.sum(dim=1),
        "scalar": lambda x: Evaluated(x.sum(), x.sum()),
        "constant": lambda x: Evaluated(torch.ones(2), torch.ones(2)),
        "other": lambda x: Evaluated(other * 2, other * 2),
        "aux": lambda x: Evaluated(x.sum(dim=1), x.sum(dim=1), aux=x[:1]),
    }
    given: dict[str, Any] = {"x0": torch.ones(2, 3), "objective": problem(2)[0], **arguments}
    if isinstance(given["objective"], str):
        given["objective"] = Broken(outcomes[given["objective"]])
    with pytest.raises(error, match=message):
        optimizer.minimize(given.pop("objective"), given.pop("x0"), **given)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (LBFGS, "max_iterations", -1),
        (LBFGS, "max_evaluations", 0),
        (LBFGS, "gradient_tolerance", float("nan")),
        (LBFGS, "change_tolerance", -1.0),
        (LBFGS, "restart_every", 0),
        (LBFGS, "history", 0),
        (LBFGS, "learning_rate", 0.0),
        (LBFGS, "first_step", 0.0),
        (LBFGS, "c1", 0.95),
        (LBFGS, "max_line_search", 0),
        (Adam, "betas", (0.9, 1.0)),
        (Adam, "epsilon", 0.0),
        (Adam, "learning_rate", -1.0),
        (GradientDescent, "momentum", 1.0),
        (GradientDescent, "clip_norm", 0.0),
    ],
)
def test_bad_settings_are_named(kind: type[Optimizer], name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


def test_status_speaks() -> None:
    assert all(code.label for code in Status)
    assert [code.name for code in Status if code.converged] == [
        "CONVERGED_GRADIENT",
        "CONVERGED_CHANGE",
        "TARGET",
    ]
