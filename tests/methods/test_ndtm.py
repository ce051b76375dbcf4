"""NDTM, CT-DTM, FTM and blind NDTM: their identities on oracles, their counters, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, Reversed, SquaredError
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.controls.ctdtm import CTDTM
from ctrlgen.methods.controls.ftm import FTM
from ctrlgen.methods.controls.ndtm import NDTM, transition_weights
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.operators.base import LinearOperator, dense
from ctrlgen.optimizers import Adam, GradientDescent
from ctrlgen.priors.paths import VP, Coefficients, CondOT, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import DDPMUniform, Times, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, walk

Build = Callable[..., Any]
D, M = 3, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def on_clock(prior: Prior, path: Path | None) -> Prior:
    return Prior(prior.flow if path is None else prior.flow.on(path), prior.source, prior.codec)


def a_run(method: SteppedMethod, prior: Prior, cost: CostLike) -> Run:
    """A run as the method itself would make it."""
    prior = on_clock(prior, method.clock)
    run = Run(prior, cost, None, torch.tensor(SEEDS), method.grid(prior.flow.path))
    run.rule = getattr(method, "rule", run.rule)
    run.state = method.begin(run, rows(D))
    return run


def slope_of(run: Run, x: Tensor, step: int) -> Tensor:
    """∇_{x_t} C(x̂(x_t))."""
    x = x.clone().requires_grad_()
    value = run.value(run.predict(x, run.levels[step]).data)
    return torch.autograd.grad(value.sum(), x)[0]


# ------------------------------------------------------------------ the transition


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("path", [CondOT(), VP(), ddpm()], ids=["condot", "vp", "ddpm"])
def test_change_of_the_mean(path: Path, eta: float, mixture: Build, prior_of: Build) -> None:
    """κγu + ω(ε^u − ε̂), with κ² and ω² the weights (the sign of ω is that of the formula)."""
    prior, rule = on_clock(prior_of(mixture(2, D)), path), DDIM(eta)
    t, s = DDPMUniform(10)(path)[4:6]
    x, moved = rows(D), rows(D) + 2.0 * rows(D, stream=22)
    free, guided = (prior.predict(v, t.time) for v in (x, moved))
    zero = torch.zeros_like(x)
    change = rule(guided.data, guided.noise, t, s, zero) - rule(free.data, free.noise, t, s, zero)
    weights = transition_weights("ddim", rule, t, s, 2.0)
    kappa = math.sqrt(weights.control)
    omega = rule.mix(t, s).noise - kappa * t.sigma
    assert weights.change == pytest.approx(omega**2, rel=1e-9)
    expected = kappa * (moved - x) + omega * (guided.noise - free.noise)
    assert torch.allclose(change, expected, rtol=0, atol=1e-9)
    assert kappa == pytest.approx(s.alpha / t.alpha)
    if eta == 0:
        assert omega < 0


def test_a_step_nowhere_has_no_weights() -> None:
    t = DDPMUniform(10)(ddpm())[4]
    assert transition_weights("ddim", DDIM(0.6), t, t, 1.0) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_weights_of_the_authors_code() -> None:
    """Written in ᾱ, as there."""
    grid = DDPMUniform(50, 400)
    t, s = grid(ddpm())[20:22]
    bar_t, bar_s = (float(ddpm().alphas_cumprod[i]) for i in grid.indices[20:22])
    gamma, eta = 4.0, 0.3
    c1 = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
    omega = math.sqrt(1 - bar_s - c1**2) - math.sqrt(bar_s * (1 - bar_t) / bar_t)
    beta = 1e-4 + (0.02 - 1e-4) * grid.indices[20] / 999  # of one index
    expected = {
        "ddim": (omega**2, bar_s / bar_t),
        "ddim_released": (omega**2, gamma**2 * bar_t / bar_s),
        "ddpm_released": (beta**2 / ((1 - beta) * (1 - bar_t)), gamma**2 / (1 - beta)),
        "ones": (1.0, gamma**2),
        "zero": (0.0, 0.0),
    }
    for name, values in expected.items():
        found = transition_weights(name, DDIM(eta), t, s, gamma, ddpm())  # type: ignore[arg-type]
        assert tuple(found) == pytest.approx(values, rel=1e-8), name
    with pytest.raises(ValueError, match="'ddpm_released' needs a DiscreteVP clock"):
        transition_weights("ddpm_released", DDIM(eta), t, s, gamma, CondOT())


def test_ddpm_weights_are_the_ancestral_step() -> None:
    """Where η = 1 the two derivations agree, over any stride and for any γ."""
    t, s = DDPMUniform(30)(ddpm())[10:12]
    for gamma in (1.0, 4.0):
        ddim = transition_weights("ddim", DDIM(1.0), t, s, gamma)
        found = transition_weights("ddpm", DDIM(0.2), t, s, gamma)
        assert tuple(found) == pytest.approx(ddim, rel=1e-9)


# ------------------------------------------------------------------ the control


@pytest.mark.parametrize("step", [0, 7])
def test_one_gradient_step_is_the_dps_gradient(
    step: int, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """N = 1 from u = 0: γu = −lr γ² w_T ∇C(x̂(x_t)), whatever the penalties; the rate decays."""
    lr, gamma, weight = 0.003, 1.7, 2.5
    method = NDTM(
        iterations=1,
        gamma=gamma,
        terminal_weight=weight,
        optimizer=GradientDescent(learning_rate=lr),
        grid=DDPMUniform(10),
        **DOUBLE,
    )
    run = a_run(method, prior_of(mixture(2, D)), SquaredError(operator, rows(M)))
    x = rows(D)
    found, _ = method.update(run, x, step)
    moved = x - lr * (1 - step / 10) * gamma**2 * weight * slope_of(run, x, step)
    seen = run.predict(moved, run.levels[step])
    assert torch.allclose(found, run.move(seen.data, seen.noise, step), rtol=0, atol=1e-12)
    assert (moved - x).abs().max() > 1e-3


def test_one_adam_step_is_a_sign_and_every_step_begins_afresh(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    method = NDTM(iterations=1, gamma=2.0, grid=DDPMUniform(10), **DOUBLE)
    run = a_run(method, prior_of(mixture(2, D)), SquaredError(operator, rows(M)))
    x = rows(D)
    for step in (0, 1, 6):
        found, _ = method.update(run, x, step)
        moved = x - 0.01 * (1 - step / 10) * 2.0 * slope_of(run, x, step).sign()
        seen = run.predict(moved, run.levels[step])
        assert torch.allclose(found, run.move(seen.data, seen.noise, step), rtol=0, atol=1e-7)


def test_a_warm_control_goes_on(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    prior, cost = prior_of(mixture(2, D)), SquaredError(operator, rows(M))
    cold = NDTM(iterations=1, grid=DDPMUniform(6), **DOUBLE)
    results = [m(prior, cost, seeds=SEEDS).samples for m in (cold, replace(cold, warm=True))]
    assert (results[0] - results[1]).abs().max() > 1e-3


@pytest.mark.parametrize("weighting", ["ddim", "ones", "zero"])
def test_the_control_minimises_a_quadratic_on_a_gaussian(
    weighting: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """(w_s M_ε'M_ε + w_c + w_T M_x'H'HM_x) γu = w_T M_x'H'(y − Hx̂), against many small steps."""
    prior, y, matrix = prior_of(mixture(1, D)), rows(M), dense(operator, (D,))
    weight, step = 0.8, 3
    method = NDTM(
        iterations=1,
        terminal_weight=weight,
        weighting=weighting,  # type: ignore[arg-type]
        grid=DDPMUniform(8),
        **DOUBLE,
    )
    run = a_run(method, prior, SquaredError(operator, y))
    x, t = rows(D), run.levels[step]
    jacobian = torch.autograd.functional.jacobian
    m_x = jacobian(lambda v: run.predict(v[None], t).data[0], x[0])
    m_e = jacobian(lambda v: run.predict(v[None], t).noise[0], x[0])
    w = method.weights(run, step)
    seen = matrix @ m_x
    hessian = w.change * m_e.T @ m_e + w.control * torch.eye(D) + weight * seen.T @ seen
    residual = y - run.predict(x, t).data @ matrix.T
    control = residual @ (weight * seen) @ torch.linalg.pinv(hessian, rtol=1e-10).T

    top = float(torch.linalg.eigvalsh(hessian).max())
    rate = 1 / (2 * top * (1 - step / 8)) * 1.8
    descent = GradientDescent(learning_rate=rate, momentum=0.6)
    exact = replace(method, iterations=120, optimizer=descent)
    found, _ = exact.update(run, x, step)
    there = run.predict(x + control, t)
    assert torch.allclose(found, run.move(there.data, there.noise, step), rtol=0, atol=1e-5)


def test_without_a_cost_it_is_plain_sampling(mixture: Build, prior_of: Build) -> None:
    """w_T = 0: the control stays zero, to the bit, in the method and in its relatives."""
    prior, cost = prior_of(mixture(2, D)), Reversed(rows(D))
    seeds = torch.tensor(SEEDS)
    for method in (
        NDTM(terminal_weight=0.0, grid=DDPMUniform(8), **DOUBLE),
        CTDTM(terminal_weight=0.0, grid=DDPMUniform(8), **DOUBLE),
    ):
        read = on_clock(prior, ddpm())
        levels = method.grid(ddpm())
        z = prior.start(SEEDS, **DOUBLE)
        expected = walk(read, z, levels, method.rule, seeds)
        found = method(prior, cost, seeds=SEEDS).samples
        if isinstance(method, NDTM):
            assert torch.equal(found, expected)
        else:  # x̂ is computed from the score again
            assert torch.allclose(found, expected, rtol=0, atol=1e-9)
    flow = FTM(terminal_weight=0.0, grid=Uniform(8), **DOUBLE)(prior, cost, seeds=SEEDS)
    x = prior.start(SEEDS, **DOUBLE)
    for k in range(8):
        x = x + 0.125 * prior.velocity(x, k / 8)
    assert torch.allclose(flow.samples, x, rtol=0, atol=1e-12)


def test_only_ratios_of_weights_matter_to_adam(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(2, D)), SquaredError(operator, rows(M))
    adam = Adam(learning_rate=0.01, epsilon=1e-14)

    def run(weight: float, weighting: Any, optimizer: Any = adam) -> Tensor:
        method = NDTM(
            iterations=3,
            terminal_weight=weight,
            weighting=weighting,
            optimizer=optimizer,
            grid=DDPMUniform(5),
            **DOUBLE,
        )
        return method(prior, cost, seeds=SEEDS).samples

    assert torch.allclose(run(1.0, "zero"), run(40.0, "zero"), rtol=0, atol=1e-8)
    assert (run(0.05, "ones") - run(40.0, "ones")).abs().max() > 1e-4
    descent = GradientDescent(learning_rate=1e-3)
    assert (run(1.0, "zero", descent) - run(4.0, "zero", descent)).abs().max() > 1e-4


# ------------------------------------------------------------------ relatives


class Exploding(Path):
    """α = 1, σ falling linearly: the clock σ/α of x/α."""

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, 8 * (1 - t) + 0.01, 0 * one, -8 * one)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return 1 - (torch.exp(-log_snr / 2) - 0.01) / 8


def test_ndtm_without_noise_is_ftm_in_the_clock_of_the_noise_ratio(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(2, D)), SquaredError(operator, rows(M))
    shared: dict[str, Any] = {
        "grid": Times((0.0, 0.3, 0.6, 0.85), stop=0.95),
        "clock": Exploding(),
        "iterations": 4,
        "gamma": 1.5,
        "terminal_weight": 0.1,
        "optimizer": Adam(learning_rate=0.5),
        **DOUBLE,
    }
    left = NDTM(rule=DDIM(0.0), weighting="ddim", **shared)(prior, cost, seeds=SEEDS)
    right = FTM(mode="state", weighting="euler", **shared)(prior, cost, seeds=SEEDS)
    assert torch.allclose(left.samples, right.samples, rtol=0, atol=1e-9)
    plain = NDTM(rule=DDIM(0.0), weighting="zero", **shared)(prior, cost, seeds=SEEDS)
    assert (plain.samples - left.samples).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["state", "velocity"])
def test_flow_steps_are_their_formulas(
    mode: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """One gradient step: c = −lr w_T ∇_c C((σu(x + γc) − σ̇x_b)/W), then Euler."""
    gamma, weight, lr, step = 1.3, 0.7, 0.02, 2
    method = FTM(
        mode=mode,
        iterations=1,
        gamma=gamma,
        terminal_weight=weight,
        optimizer=GradientDescent(learning_rate=lr),
        grid=Uniform(5),
        **DOUBLE,
    )
    prior, cost = prior_of(mixture(2, D)), SquaredError(operator, rows(M))
    run, x = a_run(method, prior, cost), rows(D)
    c = torch.zeros_like(x).requires_grad_()
    moved = x + gamma * c
    base = moved if mode == "state" else x
    data = base + 0.6 * prior.velocity(moved, 0.4)  # straight path: x̂ = x_b + (1 − t) u
    (slope,) = torch.autograd.grad(weight * cost(data).sum(), c)
    moved = x - gamma * lr * 0.6 * slope  # the rate has decayed to 1 − 2/5
    base = moved if mode == "state" else x
    expected = base + 0.2 * prior.velocity(moved, 0.4)
    assert torch.allclose(method.update(run, x, step)[0], expected, rtol=0, atol=1e-12)


def test_flow_penalties() -> None:
    grid = Uniform(5)
    method = FTM(grid=grid)
    run = Run(None, None, None, torch.tensor([0]), grid(CondOT()))  # type: ignore[arg-type]
    assert tuple(method.weights(run, 2)) == pytest.approx((0.04, 1.0))
    assert tuple(replace(method, mode="velocity").weights(run, 2)) == pytest.approx((0.04, 0.0))
    assert tuple(replace(method, weighting="paper").weights(run, 2)) == (1.0, 0.0)
    assert tuple(replace(method, weighting="zero").weights(run, 2)) == (0.0, 0.0)


@pytest.mark.parametrize("path", [CondOT(), VP()], ids=["condot", "vp"])
def test_linear_control_of_a_linear_cost(path: Path, mixture: Build, prior_of: Build) -> None:
    """½g²‖γu‖² + w_T a·x̂^u is minimal at γu = −w_T (σ²/α) a/g²; g² = β on VP."""
    a, weight = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64), 0.4
    cost = FunctionCost(lambda x: x @ a)
    step, gamma = 3, 2.0
    grid = DDPMUniform(8)
    prior = prior_of(mixture(2, D))
    t = grid(path)[step]
    if isinstance(path, VP):
        tau = 1 - t.time * (1 - path.epsilon)
        g2 = (path.beta_min + tau * (path.beta_max - path.beta_min)) * (1 - path.epsilon)
    else:
        g2 = 2 * (1 - t.time) / t.time  # 2σW/α
    method = CTDTM(
        mode="linear",
        clock=path,
        grid=grid,
        gamma=gamma,
        iterations=40,
        terminal_weight=weight,
        optimizer=GradientDescent(learning_rate=0.6 / (g2 * gamma**2) / (1 - step / 8)),
        **DOUBLE,
    )
    run, x = a_run(method, prior, cost), rows(D)
    free = run.predict(x, t)
    control = -weight * t.sigma**2 / t.alpha * a / g2
    data, noise = free.data + t.sigma**2 / t.alpha * control, free.noise - t.sigma * control
    found, _ = method.update(run, x, step)
    assert torch.allclose(found, run.move(data, noise, step), rtol=0, atol=1e-8)


def test_exact_control_of_the_score_is_where_descent_ends(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    cost, x, step = SquaredError(operator, rows(M)), rows(D), 3
    shared: dict[str, Any] = {"mode": "linear", "terminal_weight": 0.7, "control_weight": 0.2,
                              "grid": DDPMUniform(8), **DOUBLE}  # fmt: skip
    exact = CTDTM(exact=True, **shared)
    run = a_run(exact, prior_of(mixture(2, D)), cost)
    free = exact.respond(run, x, torch.zeros_like(x), step, None)
    weights = exact.weights(run, step)
    u = torch.zeros_like(x).requires_grad_()
    descent = torch.optim.LBFGS([u], max_iter=500, tolerance_grad=1e-13, tolerance_change=0,
                                line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        value = exact._value(run, x, u, step, free, weights).sum()
        value.backward()
        return value

    descent.step(closure)
    with torch.no_grad():
        response = exact.respond(run, x, u.detach(), step, free)
    found, value = exact.update(run, x, step)
    assert torch.allclose(found, exact.land(run, response, step), rtol=0, atol=1e-7)
    assert torch.allclose(value, cost(response.data), rtol=0, atol=1e-7)
    result = exact(prior_of(mixture(2, D)), cost, seeds=SEEDS)
    assert (result.network.forward, result.network.vjp) == (8, 0)


def test_exact_control_refuses_other_problems(mixture: Build, prior_of: Build) -> None:
    with pytest.raises(ValueError, match="exact: expected with mode='linear'"):
        CTDTM(exact=True)
    method = CTDTM(exact=True, mode="linear", **DOUBLE)
    with pytest.raises(ValueError, match="cost: exact=True needs one with a measurement"):
        method(prior_of(mixture(1, D)), lambda x: x.square().sum(1), seeds=SEEDS)


def test_shifted_score_moves_the_drift_only(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """One gradient step of ½g²‖Δs‖² + λ‖γu‖² + w_T C, whose first two have no slope at zero."""
    gamma, weight, lr, step = 1.3, 0.7, 0.02, 4
    method = CTDTM(
        iterations=1,
        gamma=gamma,
        terminal_weight=weight,
        control_weight=0.5,
        optimizer=GradientDescent(learning_rate=lr),
        grid=DDPMUniform(8),
        **DOUBLE,
    )
    run, x = a_run(method, prior_of(mixture(2, D)), SquaredError(operator, rows(M))), rows(D)
    t = run.levels[step]
    u = torch.zeros_like(x).requires_grad_()

    def seen(u: Tensor) -> tuple[Tensor, Tensor]:
        score = run.predict(x + gamma * u, t).score
        return (x + t.sigma**2 * score) / t.alpha, -t.sigma * score

    (slope,) = torch.autograd.grad(weight * run.value(seen(u)[0]).sum(), u)
    data, noise = seen(-lr * 0.5 * slope)
    assert torch.allclose(
        method.update(run, x, step)[0], run.move(data, noise, step), rtol=0, atol=1e-11
    )
    heavier = replace(method, iterations=3, control_weight=50.0).update(run, x, step)[0]
    lighter = replace(method, iterations=3).update(run, x, step)[0]
    assert (heavier - lighter).abs().max() > 1e-6
