"""D-Flow: the identities it obeys on oracles, the laws on whole runs, and what it counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi, GaussianNLL, TargetNLL
from ctrlgen.operators.base import LinearOperator, dense
from ctrlgen.optimizers import LBFGS, Event, GradientDescent
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.solvers import RK4, Midpoint
from ctrlgen.testing.oracles import Mixture
from tests.methods.dflow_problems import DOUBLE, SEEDS, D, M, Network, method_of, rows

Build = Callable[..., Any]
EXACT = LBFGS(max_iterations=200, gradient_tolerance=1e-9, change_tolerance=0)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def posterior_means(oracle: Mixture, operator: LinearOperator, y: Tensor, noise: float) -> Tensor:
    matrix = dense(operator, (D,))
    return torch.stack([oracle.posterior(matrix, row, noise).mean for row in y])


def test_source_map_of_a_gaussian_is_the_posterior_mean(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """½‖HΦ(x_0) − y‖²/σ² + ½‖x_0‖² is minimal where Φ(x_0) is the posterior mean."""
    oracle, y, noise = mixture(1, D), rows(M), 0.5
    method = DFlow(
        solver=RK4(24), optimizer=EXACT, regularizer=GaussianNLL(1.0), dtype=torch.float64
    )
    result = method(
        prior_of(oracle), (0.5 / noise**2) * SquaredError(operator, y, noise), seeds=SEEDS
    )
    expected = posterior_means(oracle, operator, y, noise)
    assert bool(result.converged.all())
    assert torch.allclose(result.samples, expected, rtol=0, atol=1e-4)


def test_target_map_of_a_gaussian_is_the_posterior_mean_too(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """With −log p_1(x(1)) the mode in data space is found, which for Gaussians is the mean."""
    oracle, y, noise = mixture(1, D, seed=3), rows(M), 0.5
    method = DFlow(
        solver=RK4(6),
        optimizer=LBFGS(gradient_tolerance=1e-5, change_tolerance=0),
        regularizer=TargetNLL(1.0, probes=None),
        **DOUBLE,
    )
    cost = (0.5 / noise**2) * SquaredError(operator, y, noise)
    result = method(prior_of(oracle), cost, seeds=SEEDS)
    expected = posterior_means(oracle, operator, y, noise)
    assert torch.allclose(result.samples, expected, rtol=0, atol=2e-3)
    value = result.history["value"][-1]
    assert torch.allclose(value, result.costs - oracle.log_prob(result.samples), rtol=0, atol=2e-3)


def test_the_two_maps_differ_where_the_flow_is_not_affine(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle, y = mixture(3, D), rows(M)[:2]
    cost = 2.0 * SquaredError(operator, y)
    in_source, in_data = (
        DFlow(
            solver=Midpoint(3),
            optimizer=LBFGS(max_iterations=8),
            regularizer=regularizer,
            **DOUBLE,
        )(prior_of(oracle), cost, seeds=SEEDS[:2]).samples
        for regularizer in (GaussianNLL(1.0), TargetNLL(1.0, probes=None))
    )
    assert (in_source - in_data).abs().max() > 1e-2


def test_reversed_sampling_finds_the_source(mixture: Build, prior_of: Build) -> None:
    """‖Φ(x_0) − y‖² vanishes at the source of y."""
    oracle = mixture(2, D)
    y = oracle.sample(SEEDS)
    prior, solver = prior_of(oracle), RK4(8)
    result = DFlow(solver=solver, optimizer=EXACT, **DOUBLE)(prior, Reversed(y), seeds=SEEDS)
    assert torch.allclose(result.samples, y, rtol=0, atol=1e-7)
    back = RK4(200).invert(prior.velocity, y)
    assert torch.allclose(result.controls, back, rtol=0, atol=2e-2)
    assert torch.allclose(solver(prior.velocity, result.controls), y, rtol=0, atol=1e-7)


def test_first_order_change_is_minus_ddt_gradient(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """One gradient step τ moves x(1) by −τ D D^T ∇L, to second order in τ."""
    oracle, y = mixture(3, D), rows(M)
    prior, solver, cost = prior_of(oracle), Midpoint(4), SquaredError(operator, y)
    x0 = prior.start(SEEDS, **DOUBLE)
    x1 = solver(prior.velocity, x0).requires_grad_()
    (slope,) = torch.autograd.grad(cost(x1).sum(), x1)
    jacobians = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda x: solver(prior.velocity, x.unsqueeze(0))[0], row
            )
            for row in x0
        ]
    )
    predicted = -torch.einsum("bij,bkj,bk->bi", jacobians, jacobians, slope)
    errors = []
    for rate in (1e-3, 5e-4):
        optimizer = GradientDescent(learning_rate=rate, max_iterations=1)
        method = DFlow(solver=solver, optimizer=optimizer, **DOUBLE)
        moved = method(prior, cost, seeds=SEEDS)
        assert moved.iterations.tolist() == [1] * 4
        change = (moved.samples - x1.detach()) / rate
        errors.append((change - predicted).abs().max() / predicted.abs().max())
    assert errors[1] < 0.02
    assert float(errors[0] / errors[1]) == pytest.approx(2, rel=0.05)


def test_the_gradient_is_that_of_the_objective(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """One unit step of gradient descent is −∇(C(Φ(x_0)) + R(x_0)), by the chain rule in full."""
    prior, y = prior_of(mixture(3, D)), rows(M)
    x0 = prior.start(SEEDS, **DOUBLE).requires_grad_()
    state = Midpoint(3)(prior.velocity, x0)
    value = 10 * torch.log10((operator(state) - y).square().mean(1) + 1e-12) - 20 * math.log10(2)
    value = value + 0.01 * (0.5 * x0.square().sum(1) - 3 * x0.norm(dim=1).log())
    (slope,) = torch.autograd.grad(value.sum(), x0)
    method = DFlow(
        optimizer=GradientDescent(learning_rate=1e-9, max_iterations=1),
        regularizer=Chi(0.01),
        **DOUBLE,
    )
    result = method(prior, NegativePSNR(operator, y), seeds=SEEDS)
    controls = x0.detach() - 1e-9 * slope
    kept = result.history["value"][1] < result.history["value"][0]
    assert torch.allclose(result.controls[kept], controls[kept], rtol=0, atol=1e-14)
    assert bool(kept.any())


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_every_gradient_reaches_the_same_minimum(
    gradient: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(1, D)), 2.0 * SquaredError(operator, rows(M))
    steps = 30 if gradient == "adjoint" else 4
    direct, other = (
        DFlow(
            solver=Midpoint(steps, how),
            optimizer=LBFGS(max_iterations=10),
            regularizer=GaussianNLL(1.0),
            **DOUBLE,
        )(prior, cost, seeds=SEEDS)
        for how in ("direct", gradient)
    )
    tight = 1e-2 if gradient == "adjoint" else 1e-10
    assert torch.allclose(other.samples, direct.samples, rtol=0, atol=tight)


def test_latent_costs_see_decoded_signals(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(1, D))
    prior.codec = Scaled(3.0, 1.0)
    y = rows(D)
    result = DFlow(solver=RK4(8), optimizer=EXACT, **DOUBLE)(prior, Reversed(y), seeds=SEEDS)
    assert torch.allclose(result.samples, y, rtol=0, atol=1e-6)
    state = RK4(8)(prior.velocity, result.controls)
    assert torch.allclose(3 * state + 1, result.samples, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ stopping, observing, results


def test_samples_stop_at_their_target(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    method = DFlow(optimizer=LBFGS(max_iterations=100), regularizer=Chi(0.01), **DOUBLE)
    result = DFlow(**{**vars(method), "target": -30.0})(prior, cost, seeds=SEEDS)
    assert result.status.tolist() == [Status.TARGET] * 4
    assert bool((result.costs <= -30).all())
    assert torch.allclose(result.costs, cost(result.samples), rtol=0, atol=1e-9)
    before = result.history["cost"][:-1]
    reached = result.history["cost"] <= -30
    assert bool((reached.sum(0) >= 1).all())
    for i, iterations in enumerate(result.iterations.tolist()):
        assert bool((before[:iterations, i] > -30).all())
        assert bool((result.history["cost"][iterations:, i] == result.costs[i]).all())
    # The target is of the cost alone: the regularizer is in the value only.
    chi = 0.01 * prior.source.chi_nll(result.controls)
    assert torch.allclose(result.history["value"][-1] - result.costs, chi, rtol=0, atol=1e-9)


def test_the_best_iterate_is_returned(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Gradient descent with far too long steps climbs; its best point is what comes back."""
    prior, cost = prior_of(mixture(3, D)), SquaredError(operator, rows(M))
    method = DFlow(optimizer=GradientDescent(learning_rate=2.0, max_iterations=8), **DOUBLE)
    result = method(prior, cost, seeds=SEEDS)
    assert torch.equal(result.costs, result.history["cost"].amin(0))
    assert bool((result.history["cost"][-1] > result.costs).any())
    assert torch.allclose(cost(result.samples), result.costs, rtol=1e-12)


def test_observers_receive_every_round(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    events: list[Event] = []
    method = DFlow(optimizer=LBFGS(max_iterations=6), target=-25.0, **DOUBLE)
    result = method(prior, cost, seeds=SEEDS, observer=events.append)
    assert [event.round for event in events] == list(range(1, len(events) + 1))
    for event in events:
        assert event.value.shape == event.monitor.shape == event.status.shape == (4,)
        assert torch.equal(event.rows, torch.nonzero(event.status == Status.RUNNING).flatten())
    last = events[-1]
    assert last.rows.numel() == 0
    assert torch.equal(last.status, result.status)
    assert torch.equal(last.monitor, result.costs)
    assert torch.equal(last.evaluations, result.evaluations)
    unobserved = method(prior, cost, seeds=SEEDS)
    assert torch.equal(unobserved.samples, result.samples)


def test_what_a_result_holds(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    result = method_of("chi, target")(prior, cost, seeds=SEEDS)
    assert len(result) == 4
    assert result.samples.shape == result.controls.shape == (4, D)
    assert result.samples.dtype == torch.float64
    assert not result.samples.requires_grad and not result.controls.requires_grad
    assert torch.allclose(Midpoint(3)(prior.velocity, result.controls), result.samples)
    assert result.seeds.tolist() == SEEDS
    assert result.history.keys() == {"value", "cost", "evaluations", "objective_calls"}
    longest = int(result.iterations.max()) + 1
    assert all(entries.shape == (longest, 4) for entries in result.history.values())
    assert torch.equal(result.history["evaluations"][-1], result.evaluations)
    assert "Midpoint(steps=3" in result.method and "Chi(0.05)" in result.method


def test_gradients_are_on_inside_no_grad(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """A caller's no_grad does not reach the optimisation."""
    prior, cost = prior_of(mixture(2, D)), NegativePSNR(operator, rows(M))
    outside = method_of("guided")(prior, cost, seeds=SEEDS)
    with torch.no_grad():
        inside = method_of("guided")(prior, cost, seeds=SEEDS)
    assert torch.equal(inside.samples, outside.samples)


def test_parameters_collect_no_gradients(operator: LinearOperator) -> None:
    network = Network().requires_grad_()
    prior = Prior(Flow(network, CondOT()), Gaussian((D,))).bind(label=[0, 1, 2, 3])
    method_of("plain")(prior, NegativePSNR(operator, rows(M)), seeds=SEEDS)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_of_a_run(dtype: torch.dtype) -> None:
    prior = Prior(Flow(lambda x, t: torch.tanh(x), CondOT()), Gaussian((D,)))
    result = DFlow(dtype=dtype)(prior, Reversed(rows(D)), seeds=SEEDS)
    assert result.samples.dtype == result.controls.dtype == result.costs.dtype == dtype
    assert result.costs.max() < 1e-6


def test_a_rising_function_of_squares_may_be_descended_as_the_squares(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """−PSNR is compared with the target, ‖Hx − y‖² descended: the path of `SquaredError`."""
    prior, y = prior_of(mixture(2, D)), rows(M)
    decibels, squared = NegativePSNR(operator, y), SquaredError(operator, y)
    method = DFlow(descend="squares", target=-40.0, **DOUBLE)
    result = method(prior, decibels, seeds=SEEDS)
    same_path = DFlow(target=M * 4e-4, **DOUBLE)(prior, squared, seeds=SEEDS)
    assert torch.allclose(result.controls, same_path.controls, rtol=0, atol=1e-9)
    assert torch.allclose(result.history["value"], same_path.history["value"], rtol=0, atol=1e-9)
    assert torch.allclose(result.costs, decibels(result.samples)) and (result.costs <= -40).all()
    plain = DFlow(target=-40.0, **DOUBLE)(prior, decibels, seeds=SEEDS)
    assert not torch.allclose(result.controls, plain.controls, atol=1e-3)
    before = prior.flow.evaluations.forward
    with pytest.raises(ValueError, match=r"cost: descend='squares' needs a sum of squares"):
        method(prior, lambda x: x.sum(1), seeds=SEEDS)
    with pytest.raises(ValueError, match=r"regularizer: descend='squares' needs.*descend='cost'"):
        DFlow(descend="squares", regularizer=GaussianNLL(1.0))(prior, decibels, seeds=SEEDS)
    assert prior.flow.evaluations.forward == before
    with pytest.raises(ValueError, match=r"descend: expected one of .*, got 'psnr'"):
        DFlow(descend="psnr")  # type: ignore[arg-type]
