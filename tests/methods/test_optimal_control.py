"""Optimal control of samplers: optima, adjoints, line search, released variant, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import OptimalControl
from ctrlgen.methods.starts import Blend
from ctrlgen.methods.trajectory.trajectories import Dynamics
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers import Event
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import VP, CondOT, DiscreteVP
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import CostError, UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import CLEAN, Times, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, EulerStep, HeunStep, walk
from ctrlgen.testing.oracles import Mixture

Build = Callable[..., Any]
D, M = 4, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
SHORT: dict[str, Any] = {"grid": Uniform(4), "iterations": 3, "halvings": 8, **DOUBLE}


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def likelihood(operator: LinearOperator, oracle: Mixture, noise: float = 0.5) -> Any:
    return (0.5 / noise**2) * SquaredError(operator, operator(oracle.sample(SEEDS)), noise)


def free(prior: Prior, method: OptimalControl) -> Tensor:
    levels = method.grid(prior.flow.path)
    x = prior.start(SEEDS, dtype=torch.float64)
    with torch.no_grad():
        return walk(prior, x, levels, method.rule, torch.tensor(SEEDS))


# ------------------------------------------------------------------ optima


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("rank", [None, M], ids=["dense", "rank-of-H"])
def test_one_iteration_is_optimal_for_a_gaussian(
    side: Any, rank: int | None, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Affine dynamics, quadratic cost: the gradient of J by all controls vanishes at once."""
    oracle = mixture(1, D)
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    method = OptimalControl(
        grid=Uniform(4), side=side, rank=rank, penalty=0.7, damping=0.0, iterations=1, **DOUBLE
    )
    result = method(prior, cost, seeds=SEEDS)
    levels = method.grid(CondOT())
    controls = [u.clone().requires_grad_() for u in result.controls.unbind(1)]
    x = prior.start(SEEDS, dtype=torch.float64)
    dynamics = Dynamics(prior, levels, method.rule, torch.tensor(SEEDS), side)
    for k, u in enumerate(controls):
        x = dynamics.leave(dynamics.advance(dynamics.enter(x, u), k), u)
    value = cost(x) + 0.35 * sum(u.square().sum(1) for u in controls)
    gradients = torch.autograd.grad(value.sum(), controls)
    assert max(float(g.abs().max()) for g in gradients) < 1e-9
    assert torch.allclose(result.samples, x, rtol=0, atol=1e-10)
    assert torch.allclose(result.history["value"][-1], value, rtol=0, atol=1e-10)
    assert bool((result.iterations == 1).all())


def test_curvature_needs_fewer_iterations(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """The rank of H is as good as all of it; gradients alone need a search."""
    oracle = mixture(1, D)
    prior, cost = prior_of(oracle), likelihood(operator, oracle, 0.1)
    first, low, dense = (
        OptimalControl(rank=rank, damping=10.0, penalty=0.1, **{**SHORT, "iterations": 1})(
            prior, cost, seeds=SEEDS
        )
        for rank in (0, M, None)
    )
    assert torch.allclose(low.samples, dense.samples, rtol=0, atol=1e-9)
    assert bool((low.history["value"][-1] < 0.1 * first.history["value"][-1]).all())
    assert bool((low.evaluations < first.evaluations).all())


@pytest.mark.parametrize("side", ["input", "output"])
def test_first_order_steps_along_the_adjoint(
    side: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """u_t = −(1/α) ∂C/∂u_t, which autograd gets through the whole rollout."""
    oracle, alpha = mixture(3, D), 50.0
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    method = OptimalControl(
        grid=Uniform(4), side=side, rank=0, penalty=0.0, damping=alpha, iterations=1, **DOUBLE
    )
    result = method(prior, cost, seeds=SEEDS)
    controls = [torch.zeros(3, D, dtype=torch.float64).requires_grad_() for _ in range(4)]
    dynamics = Dynamics(prior, method.grid(CondOT()), method.rule, torch.tensor(SEEDS), side)
    x = prior.start(SEEDS, dtype=torch.float64)
    for k, u in enumerate(controls):
        x = dynamics.leave(dynamics.advance(dynamics.enter(x, u), k), u)
    gradients = torch.autograd.grad(cost(x).sum(), controls)
    assert bool((result.iterations == 1).all())
    expected = -torch.stack(gradients, 1) / alpha
    assert torch.allclose(result.controls, expected, rtol=0, atol=1e-12)


def test_guidance_is_the_first_iteration(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """α = 1/((σW/α_t)δ), that is 2/(g²Δt), gives (σW/α_t)δ ∇log p(y|x_n(x_t)); g²Δt twice that."""
    oracle = mixture(1, D)
    prior = Prior(oracle.flow(VP()), Gaussian((D,)))
    cost = likelihood(operator, oracle, 3.0)
    grid = Times((0.7,), stop=0.8)
    t, s = grid(VP())
    delta = s.time - t.time
    g2dt = 2 * float(t.d_alpha / t.alpha) * delta  # β Δτ, since α̇/α = ½β dτ/dt
    guidance = t.sigma * t.wronskian / t.alpha * delta
    assert guidance == pytest.approx(g2dt / 2, rel=1e-12)
    method = OptimalControl(
        grid=grid, rule=EulerStep(), side="output", rank=0, penalty=0.0, damping=2 / g2dt,
        iterations=1, **DOUBLE,
    )  # fmt: skip
    result = method(prior, cost, seeds=SEEDS)
    x = prior.start(SEEDS, dtype=torch.float64)
    plain = x + delta * prior.velocity(x, t.time)
    end = plain.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cost(end).sum(), end)
    assert bool((result.iterations == 1).all())
    assert torch.allclose(result.samples, plain - guidance * gradient, rtol=0, atol=1e-10)
    twice = replace(method, damping=1 / g2dt)(prior, cost, seeds=SEEDS)
    assert torch.allclose(twice.controls, 2 * result.controls, rtol=0, atol=1e-10)


# ------------------------------------------------------------------ the run


@pytest.mark.parametrize("rank", [0, 2, None])
def test_the_cost_never_increases(
    rank: int | None, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(3, D)
    cost, events = likelihood(operator, oracle, 0.1), []
    method = OptimalControl(rank=rank, damping=1.0, **SHORT)
    result = method(prior_of(oracle), cost, seeds=SEEDS, observer=events.append)
    value = result.history["value"]
    assert bool((value[1:] <= value[:-1]).all()) and bool((value[-1] < 0.5 * value[0]).all())
    assert len(value) == len(events) == 4 and isinstance(events[0], Event)
    assert torch.equal(events[-1].value, value[-1])


def test_the_result_is_what_its_controls_make(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    for update in ("search", "adam"):
        method = OptimalControl(update=update, rule=DDIM(0.7), **SHORT)
        result = method(prior, cost, seeds=SEEDS)
        levels, seeds = method.grid(CondOT()), torch.tensor(SEEDS)
        dynamics = Dynamics(prior, levels, method.rule, seeds, "input")
        x = prior.start(SEEDS, dtype=torch.float64)
        for k, u in enumerate(result.controls.unbind(1)):
            x = dynamics.move(x, u, k)
        assert torch.allclose(result.samples, x, rtol=0, atol=1e-12)
        assert torch.allclose(result.costs, cost(x), rtol=0, atol=1e-12)
        assert (free(prior, method) - x).abs().max() > 1e-3


def test_samples_search_and_leave_by_themselves(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Each alone takes the same steps and evaluations, though targets and searches differ."""
    oracle = mixture(3, D)
    weights = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    prior, cost = prior_of(oracle), weights * likelihood(operator, oracle, 0.3)
    for changes in ({"target": 1.0}, {"update": "adam", "learning_rate": 0.2, "target": 1.0}):
        method = OptimalControl(rank=2, rule=DDIM(0.5), **{**SHORT, "iterations": 4}, **changes)
        whole = method(prior, cost, seeds=SEEDS)
        for k, seed in enumerate(SEEDS):
            alone = method(prior, cost.take(torch.tensor([k])), seeds=[seed])
            assert torch.allclose(alone.samples[0], whole.samples[k], rtol=0, atol=1e-8)
            for name in ("status", "iterations", "evaluations"):
                assert getattr(alone, name)[0] == getattr(whole, name)[k], name
        assert len(set(whole.iterations.tolist())) > 1
        done = whole.status == Status.TARGET
        assert bool((whole.costs[done] <= method.target).all())


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize(("rank", "columns"), [(0, 1), (2, 3), (None, D + 1)])
def test_counters_of_the_search(
    rank: int | None, columns: int, vectorized: bool,
    operator: LinearOperator, mixture: Build, prior_of: Build,
) -> None:  # fmt: skip
    """(1 + iterations + trials) n forward, iterations · n · (1 + rank) backward."""
    oracle, n = mixture(1, D), 4
    cost = likelihood(operator, oracle, 1.0)
    method = OptimalControl(
        grid=Uniform(n), rank=rank, vectorized=vectorized, iterations=2, damping=1.0,
        tolerance=0, **DOUBLE,
    )  # fmt: skip
    result = method(prior_of(oracle), cost, seeds=SEEDS)
    used = result.network
    assert used.vjp_rows == 2 * n * columns * len(SEEDS)
    assert used.vjp == 2 * n * (1 if vectorized else columns)
    trials = int(result.evaluations.max()) // n - 3
    assert used.forward == (1 + 2 + trials) * n
    assert used.forward_rows == int(result.evaluations.sum()) and used.jvp == 0


def test_counters_of_adam(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    """Rollouts keep their graphs: (1 + iterations) n forward."""
    oracle = mixture(1, D)
    method = OptimalControl(update="adam", rank=0, **SHORT)
    result = method(prior_of(oracle), likelihood(operator, oracle), seeds=SEEDS)
    assert result.network.forward == 4 * 4 and result.network.vjp == 3 * 4
    assert result.evaluations.tolist() == [16] * 3


def test_adam_is_the_published_forward_pass(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """AdamW (decoupled decay) on every control with gradient −k, first order, by hand."""
    oracle, lr = mixture(1, D), 0.02
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    method = OptimalControl(
        update="adam", rank=0, damping=0.5, penalty=0.2, learning_rate=lr, **SHORT
    )
    result = method(prior, cost, seeds=SEEDS)
    dynamics = Dynamics(prior, method.grid(CondOT()), method.rule, torch.tensor(SEEDS), "input")
    controls = [torch.zeros(3, D, dtype=torch.float64).requires_grad_() for _ in range(4)]
    first, second = ([torch.zeros_like(u) for u in controls] for _ in range(2))
    for step in range(1, 4):
        x = prior.start(SEEDS, dtype=torch.float64)
        for k, u in enumerate(controls):
            x = dynamics.advance(x + u, k)
        value = cost(x).sum() + 0.1 * sum(u.square().sum() for u in controls)
        gradients = torch.autograd.grad(value, controls)
        for k, gradient in enumerate(gradients):
            g = gradient / 0.7  # ω + α
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g**2
            scaled = first[k] / (1 - 0.9**step)
            scaled = scaled / ((second[k] / (1 - 0.999**step)).sqrt() + 1e-8)
            u = controls[k].detach()
            controls[k] = (u - lr * 0.01 * u - lr * scaled).requires_grad_()
    expected = torch.stack([u.detach() for u in controls], 1)
    lower = result.history["value"][-1] < result.history["value"][-2]  # the best is returned
    assert bool(lower.any())
    assert torch.allclose(result.controls[lower], expected[lower], rtol=0, atol=1e-9)


def test_feedback_enters_the_adam_pass(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(1, D)
    cost = likelihood(operator, oracle)
    first, second = (
        OptimalControl(update="adam", rank=rank, **SHORT)(prior_of(oracle), cost, seeds=SEEDS)
        for rank in (0, 2)
    )
    assert (first.samples - second.samples).abs().max() > 1e-4


def test_the_released_schedule(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    """ω √(a_i/(1−a_i))/Δ², a_i = 1 − β_i, i = ⌊999 τ⌋, Δ = (1 − 0.001)/20."""
    method = OptimalControl.preset("released", **DOUBLE)
    prior = Prior(mixture(1, D).flow(DiscreteVP.linear()), Gaussian((D,)))
    levels = method.grid(prior.flow.path)
    dynamics = Dynamics(prior, levels, method.rule, torch.tensor(SEEDS), "input")
    taus = torch.linspace(1, 1e-3, 20, dtype=torch.float64)[:-1]
    # 20 states: evaluations at the table respaced to 20, all but its noisiest, then the clean x̂
    assert method.grid.indices == [  # type: ignore[attr-defined]
        946, 894, 841, 789, 736, 684, 631, 578, 526, 473, 421, 368, 315, 263, 210, 158, 105, 53, 0
    ]  # fmt: skip
    indices = [float(ddpm().index(torch.tensor(v.time, dtype=torch.float64))) for v in levels[:-1]]
    assert indices == pytest.approx(method.grid.indices, abs=1e-6)  # type: ignore[attr-defined]
    assert levels[-1] == CLEAN
    beta = 1e-4 + (0.02 - 1e-4) * torch.floor(taus * 999 + 1e-9) / 999
    expected = 1e-6 * ((1 - beta) / beta).sqrt() / ((1 - 1e-3) / 20) ** 2
    assert torch.allclose(torch.tensor(method.weights(dynamics)).double(), expected, rtol=1e-6)
    result = replace(method, iterations=4, learning_rate=0.05)(
        prior_of(mixture(1, D)),
        FunctionCost(lambda x, y: (operator(x) - y).norm(dim=1), {"y": rows(M)}),
        seeds=SEEDS,
    )
    value = result.history["value"]
    assert bool((value[-1] < value[0]).all())


def test_rules_of_two_evaluations_and_bounds(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(1, D)
    cost = likelihood(operator, oracle)
    heun = OptimalControl(rule=HeunStep(), update="adam", rank=0, **SHORT)
    result = heun(prior_of(oracle), cost, seeds=SEEDS)
    assert result.network.forward == 4 * 7  # the last step ends without noise
    clipped = OptimalControl(clip=0.2, **SHORT)(prior_of(oracle), cost, seeds=SEEDS)
    plain = OptimalControl(**SHORT)(prior_of(oracle), cost, seeds=SEEDS)
    assert (clipped.samples - plain.samples).abs().max() > 1e-3


@pytest.mark.parametrize("clock", [None, ddpm()], ids=["own", "ddpm"])
def test_the_trajectory_begins_where_the_initializer_says(
    clock: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    method = OptimalControl(initializer=Blend(0.7), clock=clock, target=1e9, **SHORT)
    result = method(prior, cost, seeds=SEEDS)  # met by any sample, so that no control acts
    z = prior.start(SEEDS, dtype=torch.float64)
    x = Blend(0.7)(prior, cost.measurement, SEEDS, z)
    read = prior.on(clock)
    levels = method.grid(read.flow.path)
    x = (levels[0].alpha ** 2 + levels[0].sigma ** 2) ** 0.5 * x
    with torch.no_grad():
        expected = walk(read, x, levels, method.rule, torch.tensor(SEEDS))
    assert torch.allclose(result.samples, expected, rtol=0, atol=1e-12)
    assert result.network.forward == 20 + 4 and not bool(result.controls.any())
    with pytest.raises(ValueError, match="initializer: Blend needs a cost with a measurement"):
        method(prior, Reversed(rows(D)), seeds=SEEDS)


# ------------------------------------------------------------------ rows and refusals


@pytest.mark.parametrize("update", ["search", "adam"])
def test_a_row_that_is_lost_leaves_its_neighbours_alone(
    update: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost, prior = likelihood(operator, oracle), prior_of(oracle)
    method = OptimalControl(update=update, learning_rate=0.2, **SHORT)
    clean, network = method(prior, cost, seeds=SEEDS), prior.flow.network
    for limit in (-1.0, 0.3):  # lost at once; lost once the control is felt

        def broken(x: Tensor, t: Tensor, start: Tensor, limit: float = limit) -> Tensor:
            moved = (x - start).norm(dim=1) > limit
            bad = start.isfinite().all(1) & (t == 0) & moved
            return torch.where(bad.unsqueeze(1), math.nan, network(x, t))

        start = prior.start(SEEDS, dtype=torch.float64)
        start[[0, 2]] = math.inf
        lost = Prior(Flow(broken, CondOT()), Gaussian((D,)), conditions={"start": start})
        result = method(lost, cost, seeds=SEEDS)
        others = [0, 2]
        assert torch.allclose(result.samples[others], clean.samples[others], rtol=0, atol=1e-9)
        assert bool(result.samples.isfinite().all()) and bool(result.costs.isfinite().all())
        if limit < 0:
            assert result.status[1] == Status.DIVERGED


def test_a_solved_problem_stops(mixture: Build, prior_of: Build) -> None:
    oracle = mixture(1, D)
    prior = prior_of(oracle)
    method = OptimalControl(rank=None, grid=Uniform(4), damping=0.0, penalty=0.5, **DOUBLE)
    result = method(prior, Reversed(rows(D)), seeds=SEEDS)
    assert bool((result.status == Status.CONVERGED_GRADIENT).all())
    assert bool((result.iterations <= 3).all())


def test_no_lower_point_ends_a_sample(mixture: Build, prior_of: Build) -> None:
    """A cost whose gradient has the wrong sign: α grows three times, then the sample stops."""

    def liar(x: Tensor) -> Tensor:
        value = x.square().sum(1)
        return 2 * value.detach() - value

    method = OptimalControl(rank=0, **{**SHORT, "iterations": 9, "halvings": 2})
    result = method(prior_of(mixture(1, D)), liar, seeds=SEEDS)
    assert bool((result.status == Status.LINE_SEARCH).all()) and not bool(result.iterations.any())
    assert result.evaluations.tolist() == [4 * (1 + 3 * (1 + 3))] * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side", "both"), ("update", "sgd"), ("schedule", "linear"), ("rank", -1), ("rank", 1.5),
        ("penalty", -1.0), ("damping", math.nan), ("growth", 1.0), ("iterations", 0),
        ("halvings", -1), ("learning_rate", 0.0), ("weight_decay", -0.1), ("clip", 0.0),
        ("power", -1), ("tolerance", -1.0), ("dtype", torch.int64),
    ],
)  # fmt: skip
def test_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        OptimalControl(**{name: value})


def test_refusals_before_any_compute(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(1, D)
    prior, cost = prior_of(oracle), likelihood(operator, oracle)
    with pytest.raises(ValueError, match="penalty, damping"):
        OptimalControl(penalty=0.0, damping=0.0)
    for name in ("grid", "rule", "clock", "initializer"):
        with pytest.raises(TypeError, match=f"{name}: expected"):
            OptimalControl(**{name: "uniform"})
    with pytest.raises(ValueError, match="schedule: 'released' needs a DiscreteVP clock"):
        OptimalControl(schedule="released")(prior, cost, seeds=SEEDS)
    with pytest.raises(CostError, match="gradient"):
        OptimalControl()(prior_of(oracle), lambda x: x.detach().sum(1).float(), seeds=SEEDS)
    with pytest.raises(UnknownName):
        OptimalControl.preset("nonsense")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().sum(1)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * gradient.unsqueeze(1)

    with pytest.raises(CostError, match="rank=0"):
        OptimalControl(**DOUBLE)(prior, Once.apply, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0
    OptimalControl(rank=0, **SHORT)(prior, Once.apply, seeds=SEEDS)
    psnr = NegativePSNR(operator, cost.measurement.y)
    assert OptimalControl(rank=2, **SHORT)(prior, psnr, seeds=SEEDS).costs.isfinite().all()
