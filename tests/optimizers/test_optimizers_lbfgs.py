"""L-BFGS: the mathematics of its parts, and its pace beside torch's and scipy's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from ctrlgen.optimizers import LBFGS, FunctionObjective, Solution, Status
from ctrlgen.optimizers.history import CurvatureMemory
from ctrlgen.optimizers.linesearch import Sample, WolfeSearch, cubic_minimizer

Function = Callable[[Tensor], Tensor]


def rosenbrock(x: Tensor) -> Tensor:
    valley = 100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()
    return valley.sum(dim=1)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def quadratic(condition: float, d: int = 30) -> Function:
    """A rotated quadratic with eigenvalues from 1 to `condition`."""
    eigenvalues = torch.logspace(0, math.log10(condition), d, dtype=torch.float64)
    basis = torch.linalg.qr(random(d, d, seed=1)).Q
    return lambda x: 0.5 * (eigenvalues * (x @ basis).square()).sum(dim=1)


def logistic(d: int = 50, n: int = 200) -> Function:
    """Penalised logistic regression on badly scaled features with random labels."""
    features = random(n, d, seed=2) * torch.logspace(0, -2, d, dtype=torch.float64)
    labels = random(n, seed=3).sign()
    softplus = torch.nn.functional.softplus
    return lambda w: softplus(-(w @ features.T) * labels).mean(dim=1) + 1e-4 * w.square().sum(dim=1)


MEMORY = 40  # pairs, for us and for the peers
VALLEY = torch.tensor([-1.2, 1.0], dtype=torch.float64)
# Starts (B, d): one where a run is short, several where it is long, since rounding moves the count
# of a long run by a fifth either way, and their median by much less.
PROBLEMS: dict[str, tuple[Function, Tensor]] = {
    "rosenbrock-2": (rosenbrock, VALLEY[None]),
    "rosenbrock-10": (rosenbrock, VALLEY.repeat(5)[None]),
    "rosenbrock-30-random": (rosenbrock, random(3, 30, seed=4)),
    "quadratic-1e+03": (quadratic(1e3), random(1, 30, seed=5)),
    "quadratic-1e+04": (quadratic(1e4, 10), random(3, 10, seed=5)),
    "quadratic-1e+06": (quadratic(1e6, 15), random(3, 15, seed=5)),
    "logistic": (logistic(), random(1, 50, seed=6)),
}


def torch_evaluations(function: Function, x0: Tensor, tolerance: float) -> int:
    x = x0.clone().requires_grad_(True)
    count = 0

    def closure() -> Tensor:
        nonlocal count
        count += 1
        x.grad = None
        value = function(x[None]).sum()
        value.backward()
        return value

    torch.optim.LBFGS(
        [x],
        max_iter=5000,
        max_eval=10**6,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    ).step(closure)
    return count


def scipy_evaluations(function: Function, x0: Tensor, tolerance: float) -> int:
    def value_and_gradient(z: Any) -> tuple[float, Any]:
        x = torch.tensor(z)[None].requires_grad_(True)
        value = function(x).sum()
        return value.item(), torch.autograd.grad(value, x)[0][0].numpy()

    options = {"maxiter": 5000, "maxfun": 10**6, "ftol": 0, "gtol": tolerance, "maxcor": MEMORY}
    outcome = scipy_minimize(
        value_and_gradient, x0.numpy(), jac=True, method="L-BFGS-B", options=options
    )
    return int(outcome.nfev)


@pytest.mark.parametrize("name", PROBLEMS)
def test_keeps_pace_with_torch_and_scipy(name: str) -> None:
    function, x0 = PROBLEMS[name]
    tolerance = 1e-6
    optimizer = LBFGS(
        max_iterations=5000, gradient_tolerance=tolerance, change_tolerance=0, history=MEMORY
    )
    ours = optimizer.minimize(FunctionObjective(function), x0)
    assert (ours.status == Status.CONVERGED_GRADIENT).all()
    assert (ours.gradient_norm <= tolerance).all()
    peers = [
        statistics.median(peer(function, row, tolerance) for row in x0)
        for peer in (torch_evaluations, scipy_evaluations)
    ]
    assert ours.calls.double().quantile(0.5) <= 1.1 * min(peers) + 2, peers


def test_the_first_step_is_torchs() -> None:
    function, x0 = PROBLEMS["rosenbrock-10"]
    x0 = x0[0]
    x = x0.clone().requires_grad_(True)
    x.grad = torch.autograd.grad(function(x[None]).sum(), x)[0]
    for rate in (1.0, 0.5):
        step = rate * min(1.0, 1.0 / x.grad.abs().sum().item())
        seen: list[Tensor] = []

        def spy(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x.detach().clone())
            return function(x)

        LBFGS(max_evaluations=2, learning_rate=rate).minimize(FunctionObjective(spy), x0[None])
        torch.testing.assert_close(seen[1][0], x0 - step * x.grad, rtol=1e-14, atol=0)


def test_a_first_step_of_a_given_length_is_that_long_in_every_row() -> None:
    function, x0 = PROBLEMS["rosenbrock-10"]
    rows, seen = torch.cat((x0, 3 * x0)), []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return function(x)

    LBFGS(max_evaluations=2, first_step=0.7).minimize(FunctionObjective(spy), rows)
    lengths = torch.linalg.vector_norm(seen[1] - rows, dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.7))
    found = LBFGS(max_iterations=500, first_step=0.7).minimize(FunctionObjective(function), rows)
    assert (found.value < 1e-10).all()


def dense_direction(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """-H g with H formed by the BFGS update, Nocedal & Wright eq. 6.17."""
    identity = torch.eye(len(gradient), dtype=gradient.dtype)
    inverse = (
        identity
        if not pairs
        else identity * (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
    )
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = identity - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    return -inverse @ gradient


@pytest.mark.parametrize("capacity", [1, 3, 6, 20])
def test_two_loop_recursion_is_the_bfgs_matrix_of_each_row(capacity: int) -> None:
    rows, d = 4, 5
    memory = CurvatureMemory(random(rows, d), capacity)
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(rows)]
    generator = torch.Generator().manual_seed(0)
    for step in range(14):
        s, noise = random(rows, d, seed=100 + step), random(rows, d, seed=200 + step)
        y = s + 0.3 * noise
        pushing = torch.rand(rows, generator=generator) < 0.7
        if step == 9:
            memory.forget(torch.tensor([False, True, False, False]))
            kept[1] = []
        memory.push(pushing, s, y, descent=torch.zeros(rows), most=int(memory.count.max()))
        for row in range(rows):
            if pushing[row] and s[row] @ y[row] > 0:
                kept[row] = [*kept[row], (s[row], y[row])][-capacity:]
        assert memory.count.tolist() == [len(pairs) for pairs in kept]
        assert len(memory.rho) <= min(capacity, max(4, 2 * max(map(len, kept))))  # grows lazily
        gradient = random(rows, d, seed=300 + step)
        found = memory.direction(gradient, int(memory.count.max()))
        expected = torch.stack(
            [dense_direction(pairs, g) for pairs, g in zip(kept, gradient, strict=True)]
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        if step == 11:  # two rows leave
            memory.take(torch.tensor([2, 0, 1]))
            kept, rows = [kept[2], kept[0], kept[1]], 3


def test_pairs_without_curvature_are_not_remembered() -> None:
    s = torch.ones(4, 3, dtype=torch.float64)
    y = torch.stack([s[0], -s[0], 1e-18 * s[0], torch.tensor([torch.nan] * 3)])
    memory = CurvatureMemory(s, 5)
    memory.push(torch.ones(4) > 0, s, y, descent=torch.ones(4), most=0)
    assert memory.count.tolist() == [1, 0, 0, 0]
    assert memory.direction(s, 1).isfinite().all()


def test_cubic_minimizer_is_exact_on_cubics() -> None:
    # phi = t^3 - 6 t^2 + 9 t has its minimum at 3; and the interval may be given backwards.
    a, b = torch.tensor([0.5, 4.0, 1.5, 7.0]), torch.tensor([4.0, 0.5, 2.0, 2.5])

    def sample(t: Tensor) -> Sample:
        t = t.double()
        return Sample(t, t**3 - 6 * t**2 + 9 * t, 3 * t**2 - 12 * t + 9)

    found = cubic_minimizer(sample(a), sample(b), torch.zeros(4))
    torch.testing.assert_close(found, torch.full((4,), 3.0).double())
    huge = Sample(*(x.float() * 1e30 for x in sample(a)[1:2] * 3))
    assert (
        not cubic_minimizer(huge, huge, torch.zeros_like(huge.step)).isfinite().any()
    )  # an empty interval has no cubic


# Test functions 1 to 3 of More & Thuente, "Line search algorithms with guaranteed sufficient
# decrease", ACM TOMS 20 (1994), section 5; the third oscillates.
def more_thuente(t: Tensor, which: Tensor) -> Tensor:
    beta, small = 2.0, 0.004
    first = -t / (t.square() + beta)
    second = (t + small) ** 5 - 2 * (t + small) ** 4
    width, waves = 0.01, 39
    inner = (t - 1).square() / (2 * width) + width / 2
    base = torch.where(t <= 1 - width, 1 - t, torch.where(t >= 1 + width, t - 1, inner))
    third = base + 2 * (1 - width) / (waves * torch.pi) * (waves * torch.pi / 2 * t).sin()
    barrier = t.square() - t - 0.1 * torch.log1p(-t / 2)  # not finite from t = 2 on
    return torch.stack([first, second, third, barrier]).gather(0, which[None])[0]


def test_every_search_ends_at_a_strong_wolfe_point() -> None:
    first_steps = torch.logspace(-3, 3, 7, dtype=torch.float64)
    which = torch.arange(4).repeat_interleave(len(first_steps))
    step = first_steps.repeat(4)
    c1, c2 = 1e-3, 0.1

    def phi(t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.detach().requires_grad_(True)
        value = more_thuente(t, which)
        return value.detach(), torch.autograd.grad(value.sum(), t)[0]

    value0, slope0 = phi(torch.zeros_like(step))
    assert (slope0 < 0).all()
    search = WolfeSearch(step, c1, c2, max_evaluations=40)
    search.begin(torch.ones_like(which) > 0, value0, slope0, step, torch.zeros_like(step))
    accepted = torch.full_like(step, torch.nan)
    evaluations = torch.zeros_like(which)
    for _ in range(40):
        tried = search.step
        value, slope = phi(tried)
        evaluations += accepted.isnan()
        verdict = search.update(value, slope, torch.zeros_like(which) > 0)
        assert not (verdict.over & accepted.isnan()).any()
        accepted = torch.where(verdict.found & accepted.isnan(), tried, accepted)
    value, slope = phi(accepted)
    assert (value <= value0 + c1 * accepted * slope0).all()
    assert (slope.abs() <= c2 * slope0.abs()).all()
    assert evaluations.max() <= 20 and evaluations.double().mean() <= 7


def test_wolfe_conditions_at_their_limits() -> None:
    # phi(0) = 2, phi'(0) = -4, t = 0.5: Armijo up to 2 - 0.5 * 4 c1, curvature up to 4 c2.
    c1, c2, t = 0.2, 0.6, 0.5
    full = torch.full((6,), 1.0, dtype=torch.float64)
    value = torch.tensor([1.598, 1.602, 1.0, 1.0, 1.0, 1.602], dtype=torch.float64)
    slope = torch.tensor([0.1, 0.1, -2.39, -2.41, 2.41, 0.1], dtype=torch.float64)
    search = WolfeSearch(full, c1, c2, max_evaluations=25)
    search.begin(full > 0, 2 * full, -4 * full, t * full, 0 * full)
    reached = torch.tensor([False] * 5 + [True])  # at the target, but without Armijo
    verdict = search.update(value, slope, reached)
    assert verdict.found.tolist() == [True, False, True, False, False, False]
    assert verdict.lower.tolist() == [True, False, True, True, True, False]
    assert not verdict.over.any()
    assert (search.step[3] >= 0.5 * 1.01) and (search.step[3] <= 5.0)  # still falling: go further
    assert (search.step[[1, 4]] < t).all()  # a minimum was passed: come back


def test_a_search_leaves_the_region_that_is_not_finite() -> None:
    # The first step lands far outside the domain; the way back is a tenth of the step at a time.
    def barrier(x: Tensor) -> Tensor:
        return (-(1 - x.square()).log()).sum(dim=1) + (3 * x).sum(dim=1)

    x0 = torch.full((3, 2), 0.5, dtype=torch.float64)
    for rate in (1.0, 1e3, 1e6):
        found = LBFGS(learning_rate=rate).minimize(FunctionObjective(barrier), x0)
        assert found.converged.all()
        expected = (1 - math.sqrt(10)) / 3  # 2 x / (1 - x^2) + 3 = 0
        torch.testing.assert_close(found.x, torch.full_like(x0, expected), rtol=1e-6, atol=0)


@cache
def optimised(**changes: Any) -> Solution:
    function, x0 = PROBLEMS["rosenbrock-10"]
    return LBFGS(max_iterations=30, **changes).minimize(FunctionObjective(function), x0)


@pytest.mark.parametrize(
    "changes",
    [
        {"history": 2},
        {"learning_rate": 0.3},
        {"first_step": 0.5},
        {"c1": 0.4},
        {"c2": 0.1},
        {"max_line_search": 1},
        {"restart_every": 5},
        {"gradient_tolerance": 1.0},
        {"change_tolerance": 1e-2},
    ],
)
def test_every_option_matters(changes: dict[str, Any]) -> None:
    assert not torch.equal(optimised().x, optimised(**changes).x)


def test_stops_when_the_cost_or_the_step_no_longer_changes() -> None:
    flat = FunctionObjective(lambda x: 5 + (x - 1).square().square().sum(dim=1))
    found = LBFGS(gradient_tolerance=0).minimize(flat, random(4, 3))
    assert (found.status == Status.CONVERGED_CHANGE).all() and (found.iterations < 60).all()
    keen = LBFGS(gradient_tolerance=0, change_tolerance=1e-3).minimize(flat, random(4, 3))
    assert (keen.iterations < found.iterations).all()


def test_a_lying_gradient_ends_the_line_search_with_the_best_point() -> None:
    class Uphill(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.square().sum(dim=1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return -grad[:, None].expand(-1, 2)

    x0 = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    found = LBFGS().minimize(FunctionObjective(Uphill.apply), x0)
    assert (found.status == Status.LINE_SEARCH).all() and torch.equal(found.x, x0)
    assert (found.calls <= 27).all() and not found.converged.any()


@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_single_precision_reaches_its_own_limit(condition: float) -> None:
    scales = torch.logspace(0, math.log10(condition), 64)
    objective = FunctionObjective(lambda x: 1 + 0.5 * (scales * x.square()).sum(dim=1))
    x0 = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    found = LBFGS(max_iterations=500, gradient_tolerance=1e-6).minimize(objective, x0)
    assert found.converged.all()
    torch.testing.assert_close(found.value, torch.ones(16), rtol=2e-6, atol=0)
    assert (found.calls < 300).all()  # no row searches on below the rounding of its value


def test_what_the_value_cannot_show_the_gradient_can() -> None:
    """A shallow bowl on top of a large number, whose depth is a few roundings of the value."""
    scales = torch.logspace(0, 3, 64)
    objective = FunctionObjective(lambda x: 20 + 1e-4 * (scales * (x - 1).square()).sum(dim=1))
    x0 = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    found = LBFGS(max_iterations=500).minimize(objective, x0)
    depth = 1e-4 * (scales.double() * (found.x.double() - 1).square()).sum(dim=1)
    assert found.converged.all() and (depth < 2e-6).all()  # the rounding of 20
    assert (found.calls < 120).all()


def test_a_gradient_that_promises_what_never_shows_ends_the_row() -> None:
    """Noise in the gradient is not followed for ever."""
    slope = torch.linspace(-1, 1, 16)

    class Promise(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 20 + 0 * x.sum(dim=1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 1e-4 * grad[:, None] * slope.expand(len(grad), -1)

    objective = FunctionObjective(Promise.apply)
    found = LBFGS(max_iterations=10_000).minimize(objective, torch.zeros(2, 16))
    assert (found.calls < 200).all()


def test_a_million_unknowns_in_a_row() -> None:
    d = 10**6
    scales = torch.linspace(1, 4, d)
    objective = FunctionObjective(lambda x: (scales * (x - 1).square()).mean(dim=1))
    found: Solution = LBFGS(history=5, max_iterations=12).minimize(objective, torch.zeros(2, d))
    assert (found.value < 1e-4).all() and found.x.shape == (2, d)
    assert torch.equal(found.x[0], found.x[1])
