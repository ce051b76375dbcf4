"""Solvers: their coefficients, their order, their three gradients, and what they evaluate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.priors.paths import CondOT, Cosine, Path
from ctrlgen.solvers import RK4, Dopri5, Euler, FixedStep, Heun, Midpoint, Solver
from ctrlgen.testing.oracles import gaussian
from tests.solvers.transports import spread, states, transported

ORDERS: dict[type[FixedStep], int] = {Euler: 1, Midpoint: 2, Heun: 2, RK4: 4}
fixed = pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
Build = Callable[..., Any]


class Recorder:
    """A velocity that remembers the times at which it was asked."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.velocity, self.times = velocity, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.clone())
        return self.velocity(x, t)


@fixed
def test_step_on_a_linear_equation_is_the_taylor_polynomial(kind: type[FixedStep]) -> None:
    """On x' = λx one step is Σ_{k <= p} (hλ)^k/k!."""
    rate = torch.tensor([[0.7], [-1.3], [2.0]], dtype=torch.float64)
    end = kind(1)(lambda x, t: rate * x, torch.ones_like(rate), 0.0, 0.5)
    z = 0.5 * rate
    expected = sum(z**k / math.factorial(k) for k in range(ORDERS[kind] + 1))
    assert torch.allclose(end, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("kind", "degree"), [(Euler, 0), (Midpoint, 1), (Heun, 1), (RK4, 3)], ids=lambda v: str(v)
)
def test_quadrature_is_exact_up_to_its_degree(kind: type[FixedStep], degree: int) -> None:
    for power in range(degree + 2):

        def slope(x: Tensor, t: Tensor, power: int = power) -> Tensor:
            return (t**power).unsqueeze(1)

        end = kind(1)(slope, torch.zeros(1, 1, dtype=torch.float64), 0.2, 1.4)
        exact = (1.4 ** (power + 1) - 0.2 ** (power + 1)) / (power + 1)
        error = abs(float(end) - exact)
        assert error < 1e-14 if power <= degree else error > 1e-3


@fixed
@pytest.mark.parametrize("backwards", [False, True])
def test_order_on_the_gaussian(kind: type[FixedStep], backwards: bool, prior_of: Build) -> None:
    # No straight lines, on which x² is quadratic in t and midpoint steps are of third order; no
    # symmetry about t = 1/2, where errors cancel.
    path = Cosine()
    oracle = gaussian(states(1, 3)[0], torch.tensor([0.2, 0.5, 3.0]).double().diag())
    x0 = states(4, 3)
    ends = (0.6, 0.1) if backwards else (0.1, 0.6)
    start, exact = (transported(oracle, x0, t, path) for t in ends)
    errors = []
    for steps in (32, 64, 128):
        end = kind(steps)(prior_of(oracle, path).velocity, start, *ends)
        errors.append((end - exact).abs().max())
    for coarse, fine in itertools.pairwise(errors):
        assert float(torch.log2(coarse / fine)) == pytest.approx(ORDERS[kind], abs=0.2)


def test_gaussian_trajectory_in_closed_form(mixture: Build, prior_of: Build) -> None:
    """x_i(t) = m_i t + x_i(0) √(t²λ_i + (1−t)²) in the eigenbasis, all along the way."""
    oracle, x0 = mixture(1, 4), states(3, 4)
    solver = RK4(64)
    path = solver.trajectory(prior_of(oracle).velocity, x0)
    assert path.shape == (65, 3, 4)
    for t, state in zip(solver.positions().tolist(), path, strict=True):
        assert torch.allclose(state, transported(oracle, x0, t), rtol=0, atol=1e-7)
    assert torch.equal(path[-1], solver(prior_of(oracle).velocity, x0))
    assert torch.equal(path[0], x0)


def test_jacobian_of_the_gaussian_flow_is_the_root_of_its_covariance(
    mixture: Build, prior_of: Build
) -> None:
    """Theorem 4.2 in closed form: D = S^{1/2} on straight lines."""
    oracle = mixture(1, 3)
    values, basis = spread(oracle)
    solver, velocity = Dopri5(1e-10, 1e-10), prior_of(oracle).velocity
    jacobian = torch.autograd.functional.jacobian(
        lambda x: solver(velocity, x.unsqueeze(0)).squeeze(0), states(1, 3)[0]
    )
    root = basis @ torch.diag(values.sqrt()) @ basis.T
    assert torch.allclose(jacobian, root, rtol=0, atol=1e-7)


@pytest.mark.parametrize("path", [CondOT(), Cosine()], ids=["condot", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_jacobian_is_the_product_of_its_factors(
    path: Path, steps: int, mixture: Build, prior_of: Build
) -> None:
    """arXiv 2402.14017, eq 19: J_m = (1 + h a) I + h γ Var[x_1|x_m], the latest leftmost."""
    oracle = mixture(3, 4)
    solver, velocity = Euler(steps), prior_of(oracle, path).velocity
    x = states(1, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: solver(velocity, x), x)[0, :, 0]
    eye = torch.eye(4, dtype=torch.float64)
    h, product = 1 / steps, eye
    for t, state in zip(
        solver.positions().tolist(), solver.trajectory(velocity, x)[:-1], strict=False
    ):
        at = path(torch.tensor(t, dtype=torch.float64))
        variance = oracle.variance(state, at.alpha, at.sigma)[0]
        factor = (1 + h * at.a) * eye + h * at.gamma * variance
        if isinstance(path, CondOT):  # eq 60
            left, right = (1 - t - h) / (1 - t), t * h / (1 - t) ** 3
            assert torch.allclose(factor, left * eye + right * variance, atol=1e-12)
        product = factor @ product
    assert torch.allclose(jacobian, product, rtol=0, atol=1e-12)


def test_one_euler_step_from_the_source_is_the_mean(mixture: Build, prior_of: Build) -> None:
    """J_0 = (1 − h) I: with h = 1 the map is constant, E[x_1]."""
    oracle = mixture(2, 3)
    end = Euler(1)(prior_of(oracle).velocity, states(5, 3))
    assert torch.allclose(end, oracle.mean.expand(5, 3), atol=1e-13)


# ------------------------------------------------------------------ grids, directions, arguments


@fixed
def test_grid_of_equal_steps_is_the_same_solver(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(2, 3)
    even = kind(grid=[0.0, 0.25, 0.5, 0.75, 1.0])
    assert even.steps == 4 and even.evaluations == kind(4).evaluations
    assert torch.allclose(even(velocity, x0), kind(4)(velocity, x0), rtol=1e-14, atol=1e-14)


def test_any_grid_is_a_chain_of_single_steps(mixture: Build, prior_of: Build) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(2, 3)
    grid = [0.0, 0.1, 0.55, 1.0]
    whole = Midpoint(grid=grid)(velocity, x0, 0.2, 0.8)
    by_hand = x0
    for a, b in itertools.pairwise(grid):
        by_hand = Midpoint(1)(velocity, by_hand, 0.2 + 0.6 * a, 0.2 + 0.6 * b)
    assert torch.allclose(whole, by_hand, rtol=1e-13, atol=1e-13)


def test_the_way_back_visits_the_times_of_the_way_on(mixture: Build, prior_of: Build) -> None:
    """A grid that is fine at the datum is fine there in both directions."""
    prior, x = prior_of(mixture(2, 3)), states(2, 3)
    seen: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return prior.velocity(x, t)

    solver = Euler(grid=[0.0, 0.5, 0.8, 1.0])
    solver.invert(velocity, x)
    assert seen == pytest.approx([1.0, 0.8, 0.5], abs=1e-12)
    seen.clear()
    end = Euler(grid=[0.0, 0.5, 0.8, 1.0], gradient="adjoint")(velocity, x.requires_grad_())
    torch.autograd.grad(end.sum(), x)
    assert seen == pytest.approx([0.0, 0.5, 0.8, 1.0, 0.8, 0.5], abs=1e-12)
    assert solver.reversed().reversed().grid == pytest.approx(solver.grid)
    assert Midpoint(3).reversed().positions().tolist() == Midpoint(3).positions().tolist()


@pytest.mark.parametrize("solver", [Midpoint(8), RK4(8)], ids=repr)
def test_there_and_back_again(solver: FixedStep, mixture: Build, prior_of: Build) -> None:
    """Backwards, then forwards: the datum returns up to O(h^p)."""
    velocity, x1 = prior_of(mixture(2, 3)).velocity, states(4, 3)
    errors = []
    for steps in (20, 40):
        finer = type(solver)(steps)
        errors.append((finer(velocity, finer.invert(velocity, x1)) - x1).abs().max())
    assert float(torch.log2(errors[0] / errors[1])) > ORDERS[type(solver)] - 0.4
    assert errors[1] < 5e-3


def test_backward_solve_is_the_inverse_of_the_closed_form(mixture: Build, prior_of: Build) -> None:
    oracle, x0 = mixture(1, 3), states(4, 3)
    x1 = transported(oracle, x0, 1.0)
    assert torch.allclose(RK4(100).invert(prior_of(oracle).velocity, x1), x0, rtol=0, atol=1e-7)
    assert torch.allclose(
        Dopri5(1e-9, 1e-9).invert(prior_of(oracle).velocity, x1), x0, rtol=0, atol=1e-7
    )


def test_nothing_to_do() -> None:
    x = states(2, 3)
    for solver in (Midpoint(3), Dopri5()):
        assert torch.equal(solver(lambda x, t: x, x, 0.5, 0.5), x)
        assert solver(lambda x, t: x, x[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Midpoint(0), "steps.*0"),
        (lambda: Midpoint(2.5), "steps.*2.5"),
        (lambda: Midpoint(), "steps, grid"),
        (lambda: Midpoint(3, grid=[0, 1]), "steps, grid"),
        (lambda: Euler(grid=[0, 0.5, 0.5, 1]), "grid"),
        (lambda: Euler(grid=[0.1, 1]), "grid"),
        (lambda: Euler(3, gradient="forward"), "gradient.*forward"),
        (lambda: Dopri5(gradient="checkpoint"), "gradient.*checkpoint"),
        (lambda: Dopri5(rtol=0), "rtol, atol"),
    ],
)
def test_arguments_are_checked(build: Callable[[], Solver], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_calls_are_checked_before_the_velocity_is() -> None:
    velocity = Recorder(lambda x, t: x)
    with pytest.raises(TypeError, match=r"x: .*int64"):
        Midpoint(3)(velocity, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="t0, t1"):
        Midpoint(3)(velocity, torch.zeros(2, 3), 0.0, math.nan)
    assert not velocity.times


@pytest.mark.parametrize(
    "solver",
    [Euler(3), Heun(grid=[0, 0.3, 1], gradient="checkpoint"), Dopri5(1e-3, 1e-4, max_steps=7)],
    ids=repr,
)
def test_configuration_rebuilds_the_solver(solver: Solver) -> None:
    again = type(solver)(**solver.config())
    assert vars(again) == vars(solver)
    assert repr(again) == repr(solver)


@pytest.mark.parametrize("solver", [Euler(4), Midpoint(4), Heun(4), RK4(4), Dopri5()], ids=repr)
def test_dtype_is_that_of_the_state(solver: Solver, dtype: torch.dtype) -> None:
    seen = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype, t.shape))
        return -x * t.unsqueeze(1)

    end = solver(velocity, torch.ones(3, 2, dtype=dtype))
    assert end.dtype == dtype
    assert set(seen) == {(dtype, dtype, (3,))}
    assert torch.allclose(end, torch.full_like(end, math.exp(-0.5)), atol=0.1)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 4, 2), ()], ids=str)
@pytest.mark.parametrize("solver", [Midpoint(5), Dopri5()], ids=repr)
def test_no_shape_is_assumed(solver: Solver, shape: tuple[int, ...]) -> None:
    x = states(4, math.prod(shape))
    end = solver(lambda x, t: -x, x)
    shaped = solver(lambda x, t: -x, x.reshape(4, *shape))
    assert torch.allclose(shaped.reshape(4, -1), end, rtol=0, atol=1e-14)


# ------------------------------------------------------------------ what is evaluated, and when


@fixed
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_evaluations_are_as_many_as_announced(
    kind: type[FixedStep], steps: int, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(1, 2))
    kind(steps)(prior.velocity, states(5, 2))
    assert prior.flow.evaluations.forward == kind(steps).evaluations
    assert prior.flow.evaluations.forward_rows == 5 * kind(steps).evaluations


def test_three_midpoint_steps_are_six_evaluations() -> None:
    assert Midpoint(3).evaluations == 6
    assert RK4(grid=[0, 0.2, 1]).evaluations == 8


@pytest.mark.parametrize(("gradient", "passes"), [("direct", 1), ("checkpoint", 2)])
@pytest.mark.parametrize("kind", [Euler, Midpoint, RK4], ids=lambda kind: kind.__name__)
def test_recomputation_is_counted(
    kind: type[FixedStep], gradient: Any, passes: int, mixture: Build, prior_of: Build
) -> None:
    prior, solver = prior_of(mixture(2, 3)), kind(4, gradient)
    solver(prior.velocity, states(5, 3).requires_grad_()).sum().backward()
    counts = prior.flow.evaluations
    assert counts.forward == passes * solver.evaluations
    assert counts.forward_rows == 5 * passes * solver.evaluations
    assert (counts.vjp, counts.vjp_rows) == (solver.evaluations, 5 * solver.evaluations)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_no_recomputation_where_nobody_wants_a_gradient(
    gradient: Any, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(2, 3))
    with torch.no_grad():
        Midpoint(4, gradient)(prior.velocity, states(2, 3).requires_grad_())
    assert (prior.flow.evaluations.forward, prior.flow.evaluations.vjp) == (8, 0)


@fixed
def test_the_end_is_evaluated_by_those_that_say_so(kind: type[FixedStep]) -> None:
    velocity = Recorder(lambda x, t: -x)
    kind(5)(velocity, states(2, 3))
    times = torch.stack(velocity.times)
    assert times.min() == 0
    assert bool((times == 1).any()) == (kind in (Heun, RK4))
    assert times.max() <= 1


def test_what_is_left_of_a_solve_are_its_later_steps() -> None:
    """Less than half a step joins the next one; one that chooses its steps is the same."""
    solver = Midpoint(grid=[0.0, 0.2, 0.5, 1.0])
    assert solver.after(0.2).positions().tolist() == pytest.approx([0, 0.375, 1])
    assert solver.after(0.25).positions().tolist() == pytest.approx([0, 1 / 3, 1])
    assert solver.after(0.4).positions().tolist() == [0, 1]
    assert solver.after(0.9).evaluations == 2 and Euler(3).after(0.0).positions().numel() == 4
    dopri = Dopri5(1e-3, 1e-3)
    assert dopri.after(0.5) is dopri
    for each in (solver, dopri):
        with pytest.raises(ValueError, match=r"time: expected one in \[0, 1\), got 1"):
            each.after(1.0)
