"""Solvers: their coefficients, their order, their three gradients, and what they evaluate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import VP, CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers import RK4, Dopri5, Euler, FixedStep, Heun, Midpoint, Solver, Velocity
from ctrlgen.testing.oracles import Mixture, gaussian

ORDERS: dict[type[FixedStep], int] = {Euler: 1, Midpoint: 2, Heun: 2, RK4: 4}
fixed = pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
Build = Callable[..., Any]


def states(rows: int, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)


def spread(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a Gaussian's covariance."""
    return mixture.eigenvalues[0], mixture.eigenvectors[0]


def transported(mixture: Mixture, x0: Tensor, t: float, path: Path | None = None) -> Tensor:
    """x(t) of a Gaussian, on straight lines by default: αm + Q diag √(α²λ + σ²) Q^T x_0."""
    values, basis = spread(mixture)
    at = (path or CondOT())(torch.tensor(t, dtype=x0.dtype))
    growth = (at.alpha**2 * values + at.sigma**2).sqrt()
    return at.alpha * mixture.means + x0 @ basis @ torch.diag(growth) @ basis.T


class Recorder:
    """A velocity that remembers the times at which it was asked."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.velocity, self.times = velocity, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.clone())
        return self.velocity(x, t)


# ------------------------------------------------------------------ coefficients and order


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


# ------------------------------------------------------------------ gradients


def gradients(solver: Solver, velocity: Any, x0: Tensor) -> Tensor:
    x0 = x0.clone().requires_grad_()
    end = solver(velocity, x0)
    (gradient,) = torch.autograd.grad((end**3).sum(), x0)
    return gradient


@fixed
def test_checkpointed_gradient_is_the_direct_one(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, x0 = prior_of(mixture(3, 4)).velocity, states(5, 4)
    direct = gradients(kind(6), velocity, x0)
    assert torch.allclose(
        gradients(kind(6, "checkpoint"), velocity, x0), direct, rtol=0, atol=1e-12
    )


@fixed
def test_direct_gradient_is_that_of_the_discrete_map(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, solver = prior_of(mixture(3, 2)).velocity, kind(4)
    x = states(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: solver(velocity, x), x, atol=1e-7)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_gradients_reach_what_the_velocity_closes_over(gradient: Any) -> None:
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    end = RK4(20, gradient)(lambda x, t: rate * x, torch.ones(1, 1, dtype=torch.float64))
    (slope,) = torch.autograd.grad(end.sum(), rate)
    assert float(slope) == pytest.approx(math.exp(0.5), rel=1e-6)


@pytest.mark.parametrize("kind", [Midpoint, RK4], ids=lambda kind: kind.__name__)
def test_adjoint_gradient_converges_to_the_direct_one(
    kind: type[FixedStep], mixture: Build, prior_of: Build
) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(4, 3)
    errors = []
    for steps in (20, 40):
        direct = gradients(kind(steps), velocity, x0)
        adjoint = gradients(kind(steps, "adjoint"), velocity, x0)
        errors.append((adjoint - direct).abs().max() / direct.abs().max())
    assert 0 < errors[1] < 3e-3
    assert float(torch.log2(errors[0] / errors[1])) > ORDERS[kind] - 0.4


def test_adjoint_gradient_of_the_adaptive_solver(mixture: Build, prior_of: Build) -> None:
    velocity, x0 = prior_of(mixture(2, 3)).velocity, states(4, 3)
    reference = gradients(RK4(80), velocity, x0)
    for gradient in ("direct", "adjoint"):
        found = gradients(Dopri5(1e-7, 1e-7, gradient), velocity, x0)
        assert torch.allclose(found, reference, rtol=1e-5, atol=1e-5)


def test_adjoint_keeps_no_graph_and_says_where_it_ends() -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    end = RK4(5, "adjoint")(lambda x, t: torch.sin(x), x)
    (once,) = torch.autograd.grad(end.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(once.sum(), x)


class Deep(torch.nn.Module):
    """A velocity with many activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            *(part for _ in range(6) for part in (torch.nn.Linear(16, 16), torch.nn.Tanh()))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


def saved_numbers(solver: Solver, network: Deep) -> int:
    """Numbers that the graph of a solve keeps, without the network's parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = solver(network, torch.randn(8, 16, requires_grad=True))
    assert end.requires_grad
    return sum(kept.values())


def test_memory_of_the_gradients() -> None:
    """Direct grows with the evaluations, by their activations; adjoint keeps the end alone."""
    network = Deep()
    few, many = (saved_numbers(Midpoint(steps), network) for steps in (3, 30))
    assert 9 < many / few < 11
    assert few > 6 * 6 * 8 * 16
    assert saved_numbers(Midpoint(30, "checkpoint"), network) <= 30 * 8 * 16 + 100
    assert saved_numbers(Midpoint(30, "adjoint"), network) <= 2 * 8 * 16


def test_checkpointed_steps_hold_only_states_between_them() -> None:
    """Activations of a step die with it: what lives while the next one is computed is its own."""
    import weakref

    alive: list[int] = []
    activations: list[weakref.ref[Tensor]] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alive.append(sum(ref() is not None for ref in activations))
        hidden = torch.tanh(x)  # backward keeps the output of tanh
        activations.append(weakref.ref(hidden.untyped_storage()))  # type: ignore[arg-type]
        return hidden * hidden

    end = Midpoint(10, "checkpoint")(velocity, torch.ones(2, 3, requires_grad=True))
    assert end.requires_grad
    assert max(alive) <= 2


# ------------------------------------------------------------------ the adaptive solver


def test_dopri5_agrees_with_torchdiffeq(mixture: Build, prior_of: Build) -> None:
    velocity, x0 = prior_of(mixture(3, 4)).velocity, states(1, 4)
    ours = Dopri5(1e-10, 1e-10)(velocity, x0)
    theirs = odeint(
        lambda t, x: velocity(x, t), x0, torch.tensor([0.0, 1.0]).double(), rtol=1e-10, atol=1e-10,
        method="dopri5",
    )[-1]  # fmt: skip
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)


def test_dopri5_is_of_fifth_order() -> None:
    """One accepted step on x' = λx is the Taylor polynomial to the fifth power, plus 1/600 z^6."""
    x = torch.ones(1, 1, dtype=torch.float64)
    solver = Dopri5(1.0, 1.0)  # accepts anything
    solver._first_step = lambda x, slope, length: x.new_full((1,), length)  # type: ignore[method-assign]
    z = 0.8
    end = solver(lambda x, t: z * x, x)
    expected = sum(z**k / math.factorial(k) for k in range(6)) + z**6 / 600
    assert float(end) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_dopri5_keeps_its_tolerance(tolerance: float, mixture: Build, prior_of: Build) -> None:
    oracle, x0 = mixture(1, 3), states(4, 3)
    end = Dopri5(tolerance, tolerance)(prior_of(oracle).velocity, x0)
    error = (end - transported(oracle, x0, 1.0)).abs().max()
    assert 1e-4 * tolerance < error < 10 * tolerance


class Stiff:
    """x' = −k (x − cos 4t), a rate of its own for every row; counts the evaluations of each."""

    def __init__(
        self, rate: Tensor, row: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        self.rate = rate
        self.row = torch.arange(len(rate)) if row is None else row
        self.counts = torch.zeros(len(rate)) if counts is None else counts

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.counts[self.row] += 1
        return -self.rate.unsqueeze(1) * (x - torch.cos(4 * t).unsqueeze(1))

    def take(self, index: Tensor) -> Stiff:
        return Stiff(self.rate[index], self.row[index], self.counts)


RATES = torch.tensor([0.5, 150.0, 2.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.3, 0.0)], ids=str)
def test_dopri5_rows_are_independent(ends: tuple[float, float]) -> None:
    """Rows of very different stiffness: each takes the steps that it takes alone."""
    x0, together = states(4, 3), Stiff(RATES)
    end = Dopri5(1e-5, 1e-5)(Velocity(together), x0, *ends)
    for i in range(4):
        alone = Stiff(RATES[i : i + 1])
        single = Dopri5(1e-5, 1e-5)(Velocity(alone), x0[i : i + 1], *ends)
        scale = single.abs().max().clamp_min(1)
        assert torch.allclose(end[i : i + 1] / scale, single / scale, rtol=0, atol=1e-12)
        assert together.counts[i] == alone.counts[0]
    assert together.counts.max() > 4 * together.counts.min()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Dopri5(1e-5, 1e-5)(Velocity(Stiff(RATES[order])), x0[order], *ends)
    assert torch.allclose(shuffled, end[order], rtol=1e-12, atol=1e-12)


def test_dopri5_gradient_in_a_batch_is_the_gradient_alone() -> None:
    x0 = states(4, 3)
    together = gradients(Dopri5(1e-4, 1e-4), Velocity(Stiff(RATES)), x0)
    for i in range(4):
        alone = gradients(Dopri5(1e-4, 1e-4), Velocity(Stiff(RATES[i : i + 1])), x0[i : i + 1])
        assert torch.allclose(together[i], alone[0], rtol=1e-10, atol=1e-13)


class Exploding(Stiff):
    """x' = x² from 2 explodes at t = 1/2; from negative values it does not."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.counts[self.row] += 1
        return x**2

    def take(self, index: Tensor) -> Exploding:
        return Exploding(self.rate[index], self.row[index], self.counts)


def test_a_row_that_does_not_arrive_is_nan_and_nobody_notices() -> None:
    x0 = torch.tensor([[-1.0], [2.0], [-3.0]], dtype=torch.float64)
    healthy = torch.tensor([0, 2])
    solver = Dopri5(1e-5, 1e-5, max_steps=150)
    end = solver(Velocity(Exploding(torch.ones(3))), x0)
    assert end[1].isnan().all()
    assert torch.equal(end[healthy], solver(Velocity(Exploding(torch.ones(2))), x0[healthy]))
    assert torch.allclose(end[healthy], x0[healthy] / (1 - x0[healthy]), atol=1e-3)
    x0[1] = math.nan
    velocity = Exploding(torch.ones(3))
    assert torch.equal(solver(Velocity(velocity), x0)[healthy], end[healthy])
    assert velocity.counts[1] == 7  # lost with its first step, and left


def test_dopri5_serves_priors_with_conditions(mixture: Build) -> None:
    """Rows that have arrived take their conditions with them."""
    oracle = mixture(1, 2)

    class Conditional:
        def __call__(self, x: Tensor, t: Tensor, speed: Tensor) -> Tensor:
            return speed.unsqueeze(1) * oracle.velocity(x, CondOT()(t))

    from ctrlgen.priors.sources import Gaussian

    prior = Prior(
        Flow(Conditional(), CondOT()), Gaussian((2,)), conditions={"speed": 4.0 ** torch.arange(3)}
    )
    x1 = prior.generate(states(3, 2), Dopri5(1e-4, 1e-4))
    assert x1.shape == (3, 2) and x1.isfinite().all()
    assert prior.encode(x1, Dopri5(1e-4, 1e-4)).shape == (3, 2)


# ------------------------------------------------------------------ DDIM


def test_ddim_is_euler_in_the_noise_to_signal_clock(mixture: Build) -> None:
    """DDIM (η = 0), x_s = α_s x̂ + σ_s ε̂, is Euler of x/α in the variable σ/α with frozen ε̂."""
    path = VP()
    flow = mixture(2, 3).flow(path)
    times = torch.tensor([0.1, 0.3, 0.55, 0.8, 0.97], dtype=torch.float64)
    at = path(times)
    ratio = at.sigma / at.alpha
    x = ddim = states(4, 3)
    for i in range(len(times) - 1):
        seen = flow.predict(ddim, times[i])
        ddim = at.alpha[i + 1] * seen.data + at.sigma[i + 1] * seen.noise

    def slope(scaled: Tensor, tau: Tensor) -> Tensor:
        t = path.time_at(-2 * tau.log())
        return flow.noise(scaled * path(t).alpha.unsqueeze(1), t)

    positions = (ratio - ratio[0]) / (ratio[-1] - ratio[0])
    euler = Euler(grid=[0.0, *positions[1:-1].tolist(), 1.0])
    end = euler(slope, x / at.alpha[0], float(ratio[0]), float(ratio[-1]))
    assert torch.allclose(end * at.alpha[-1], ddim, rtol=0, atol=1e-10)


def test_one_gaussian_step_by_hand() -> None:
    """Midpoint on N(0, 4) in one dimension, h = 1/2, computed with pencil and paper."""
    prior = gaussian(torch.zeros(1).double(), 4 * torch.eye(1).double()).flow()

    def u(x: float, t: float) -> float:
        return x * (4 * t - (1 - t)) / (4 * t**2 + (1 - t) ** 2)

    x = 1.0
    for t in (0.0, 0.5):
        x = x + 0.5 * u(x + 0.25 * u(x, t), t + 0.25)
    end = Midpoint(2)(prior.velocity, torch.ones(1, 1, dtype=torch.float64))
    assert float(end) == pytest.approx(x, rel=1e-14)
