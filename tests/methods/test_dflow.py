"""D-Flow: the identities it obeys on oracles, the laws on whole runs, and what it counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import DFlow
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi, GaussianNLL, Regularizer, TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.dflow import PRESETS
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, SourceSample
from ctrlgen.operators.base import LinearOperator, Measurement, dense
from ctrlgen.optimizers import LBFGS, Adam, Event, GradientDescent
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Power
from ctrlgen.solvers import RK4, Dopri5, Euler, Midpoint, Solver
from ctrlgen.testing.oracles import Mixture, gaussian

Build = Callable[..., Any]
D, M = 4, 2
SEEDS = [11, 5, 7, 2]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
EXACT = LBFGS(max_iterations=200, gradient_tolerance=1e-9, change_tolerance=0)


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def posterior_means(oracle: Mixture, operator: LinearOperator, y: Tensor, noise: float) -> Tensor:
    matrix = dense(operator, (D,))
    return torch.stack([oracle.posterior(matrix, row, noise).mean for row in y])


# ------------------------------------------------------------------ identities


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


# ------------------------------------------------------------------ law 1: batch invariance


class Network(nn.Module):
    """A small random velocity network of vectors, with a label."""

    def __init__(self, d: int = D, width: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.first = nn.Parameter(torch.randn(d + 1, width, generator=generator) / 2)
        self.last = nn.Parameter(torch.randn(width, d, generator=generator) / 2)
        self.embed = nn.Parameter(torch.randn(5, width, generator=generator))
        self.double().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        inputs = torch.cat((x, t.unsqueeze(1)), 1)
        return torch.tanh(inputs @ self.first + self.embed[label]) @ self.last


class Convolution(nn.Module):
    """A small random velocity network of images (B, 2, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3, generator=generator) / 3)
        self.double().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(x, self.weight, padding=1)) - t.view(-1, 1, 1, 1) * x


def problem(name: str, operator: LinearOperator, mixture: Build, prior_of: Build) -> Any:
    """A prior of four rows and a cost of four rows."""
    # Far below its floor −PSNR would magnify the rounding of differently shaped products.
    psnr = NegativePSNR(operator, rows(M), floor=1e-3)
    if name == "oracle":
        return prior_of(mixture(3, D)), psnr
    if name == "network":
        prior = Prior(Flow(Network(), Cosine(), "v"), Gaussian((D,)))
        cost = psnr + 0.1 * FunctionCost(
            lambda x, c: (x - c).square().sum(1), {"c": rows(D, stream=8)}
        )
        return prior.bind(label=torch.tensor([0, 3, 4, 1])), cost
    return Prior(Flow(Convolution(), CondOT()), Gaussian((2, 4, 4))), Reversed(rows(2, 4, 4))


METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chi, target": {"regularizer": Chi(0.05), "target": -12.0},
    "target nll": {"regularizer": TargetNLL(0.05, probes=2), "solver": Euler(3)},
    "blend": {"initializer": Blend(0.3)},
    "guided": {"initializer": GuidedStart(4)},
    "adam": {"optimizer": Adam(learning_rate=0.05, max_iterations=12)},
    "descent": {"optimizer": GradientDescent(learning_rate=1e-3, max_iterations=12)},
    # The steps follow from an error estimate, a small difference: rounding is magnified there.
    "adaptive": {"solver": Dopri5(1e-6, 1e-6), "optimizer": LBFGS(max_iterations=2)},
}


def method_of(name: str) -> DFlow:
    return DFlow(**{"optimizer": LBFGS(max_iterations=6), **METHODS[name], **DOUBLE})


def same(a: Result, b: Result, tolerance: float = 1e-10) -> None:
    """Results agree in everything, relative to the size of the numbers."""
    for name in ("samples", "controls", "costs"):
        left, right = getattr(a, name), getattr(b, name)
        assert torch.allclose(left, right, rtol=tolerance, atol=tolerance), name
    for name in ("status", "seeds", "iterations", "evaluations"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    length = min(len(a.history["cost"]), len(b.history["cost"]))
    for name in a.history:
        left, right = a.history[name][:length], b.history[name][:length]
        assert torch.allclose(left.double(), right.double(), rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *(("network", kind) for kind in METHODS),
        *(("oracle", kind) for kind in ("plain", "guided")),
        *(("convolution", kind) for kind in ("plain", "chi, target")),
    ],
)
def test_a_sample_does_not_see_its_batch(
    where: str, kind: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Alone, permuted, sharded: the same sample to 1e-10, history and status included."""
    prior, cost = problem(where, operator, mixture, prior_of)
    method, seeds = method_of(kind), torch.tensor(SEEDS)

    def run(index: list[int]) -> Result:
        at = torch.tensor(index)
        return method(prior.take(at), cost.take(at), seeds=seeds[at])

    whole = method(prior, cost, seeds=seeds)
    assert whole.samples.isfinite().all()
    for part in ([1], [3], [2, 0, 3, 1], [0, 2]):
        same(run(part), whole.take(torch.tensor(part)))


@pytest.mark.parametrize("kind", ["plain", "target nll", "guided", "adam"])
def test_the_same_seeds_give_the_same_result(
    kind: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Law 2, to the bit, whatever the global generator does and without touching it."""
    prior, cost = problem("network", operator, mixture, prior_of)
    state = torch.get_rng_state()
    first = method_of(kind)(prior, cost, seeds=SEEDS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1234)
    second = method_of(kind)(prior, cost, seeds=torch.tensor(SEEDS))
    for name in ("samples", "controls", "costs", "status", "evaluations"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    other = method_of(kind)(prior, cost, seeds=[s + 1 for s in SEEDS])
    assert not torch.allclose(first.controls, other.controls)


def test_probes_stay_fixed_while_a_point_is_optimised(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """A line search needs one function: the same point has the same value, to the bit."""
    from ctrlgen.methods.source.objective import SourceObjective

    prior, cost = problem("network", operator, mixture, prior_of)
    x0 = prior.start(SEEDS, **DOUBLE)
    objective = SourceObjective(prior, cost, Midpoint(3), TargetNLL(0.1), torch.tensor(SEEDS), x0)
    first, second = objective(x0), objective(x0)
    assert torch.equal(first.value, second.value)
    index = torch.tensor([3, 1])
    assert torch.allclose(objective.take(index)(x0[index]).value, first.value[index], rtol=1e-12)


# ------------------------------------------------------------------ law 6: nothing disappears


class Poisoned(Cost):
    """‖x − y‖², spoilt for the chosen rows once they come closer than a radius.

    Args:
        y: shape (B, d).
        radius: where it begins, shape (B,); 0 for never.
        bad: what the value is multiplied with there; None leaves the value and spoils its gradient.
    """

    per_sample = ("y", "radius")

    def __init__(self, y: Tensor, radius: Tensor, bad: float | None) -> None:
        self.y, self.radius, self.bad = y, radius, bad

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - self.y).square().sum(1)
        near = distance.detach() < self.radius
        if self.bad is not None:
            return distance * torch.where(near, self.bad, 1.0)
        if distance.requires_grad:
            distance.register_hook(lambda gradient: torch.where(near, math.nan, gradient))
        return distance


@pytest.mark.parametrize("kind", ["plain", "adam", "descent", "chi, target"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, None], ids=["nan", "inf", "gradient"])
@pytest.mark.parametrize("when", ["start", "midway"])
def test_a_row_that_is_not_finite_is_marked_and_nobody_notices(
    when: str, bad: float | None, kind: str
) -> None:
    network = Flow(lambda x, t: torch.tanh(x) - t.unsqueeze(1) * x, CondOT())
    prior, y, row = Prior(network, Gaussian((D,))), 2 * rows(D), 1
    method = method_of(kind)
    free = torch.zeros(4, dtype=torch.float64)
    healthy = method(prior, Poisoned(y, free, bad), seeds=SEEDS)
    start, end = healthy.history["cost"][0, row], healthy.costs[row]
    radius = free.clone()
    radius[row] = math.inf if when == "start" else float(end + 0.3 * (start - end))
    result = method(prior, Poisoned(y, radius, bad), seeds=SEEDS)

    assert len(result) == 4
    # Methods of first order creep along the edge, with ever shorter steps, to the end of their run.
    creeping = when == "midway" and kind in ("adam", "descent")
    assert result.status[row] == (Status.MAX_ITERATIONS if creeping else Status.DIVERGED)
    assert result.samples[row].isfinite().all() and result.controls[row].isfinite().all()
    if when == "start":
        assert result.costs[row].isfinite() == (bad is None)
        assert torch.equal(result.controls[row], prior.start(SEEDS, **DOUBLE)[row])
        assert result.objective_calls[row] == 1
    else:
        assert radius[row] <= result.costs[row] < start
        assert result.iterations[row] >= 1
    others = torch.tensor([0, 2, 3])
    for name in ("samples", "controls", "costs", "status", "iterations", "evaluations"):
        assert torch.equal(getattr(result, name)[others], getattr(healthy, name)[others]), name
    assert result.summary()["samples"] == 4
    assert sum(result.counts().values()) == 4


def test_a_network_that_is_not_finite_for_one_sample() -> None:
    def velocity(x: Tensor, t: Tensor, broken: Tensor) -> Tensor:
        return torch.where(broken.unsqueeze(1), math.nan, -x)

    broken = torch.tensor([False, True, False, False])
    y = rows(D)

    def run(broken: Tensor) -> Result:
        prior = Prior(Flow(velocity, CondOT()), Gaussian((D,)), conditions={"broken": broken})
        return method_of("plain")(prior, Reversed(y), seeds=SEEDS)

    result, healthy = run(broken), run(torch.zeros(4, dtype=torch.bool))
    assert result.status[1] == Status.DIVERGED
    assert result.controls.isfinite().all()
    others = torch.tensor([0, 2, 3])
    assert torch.equal(result.samples[others], healthy.samples[others])


def test_a_start_that_is_not_finite_is_replaced_by_the_draw() -> None:
    class Sometimes(SourceSample):
        def __call__(self, prior: Any, measurement: Any, seeds: Any, z: Tensor) -> Tensor:
            z = z.clone()
            z[seeds == SEEDS[2]] = math.nan
            return z

    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((D,)))
    y = rows(D)
    method = DFlow(initializer=Sometimes(), **DOUBLE)
    result = method(prior, Reversed(y), seeds=SEEDS)
    plain = DFlow(**DOUBLE)(prior, Reversed(y), seeds=SEEDS)
    assert torch.equal(result.samples, plain.samples)


# ------------------------------------------------------------------ law 9: evaluations


@pytest.mark.parametrize("solver", [Midpoint(3), Euler(5), RK4(2)], ids=repr)
@pytest.mark.parametrize(
    "optimizer", [LBFGS(max_iterations=6), Adam(max_iterations=4)], ids=["lbfgs", "adam"]
)
def test_the_network_is_evaluated_as_often_as_announced(
    optimizer: Any, solver: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Rows × (evaluations of the solver), forward and backward, for every evaluation spent."""
    prior = prior_of(mixture(3, D))
    cost = NegativePSNR(operator, rows(M))
    events: list[Event] = []
    # A target that some rows reach early: they leave, and cost nothing further.
    method = DFlow(solver=solver, optimizer=optimizer, target=-14.0, **DOUBLE)
    result = method(prior, cost, seeds=SEEDS, observer=events.append)
    spent, counts = int(result.objective_calls.sum()), result.network
    assert torch.equal(result.evaluations, result.objective_calls * solver.evaluations)
    assert torch.equal(result.backward_passes, result.evaluations)
    assert counts.forward_rows == spent * solver.evaluations
    assert counts.vjp_rows == spent * solver.evaluations
    assert counts.forward == counts.vjp == len(events) * solver.evaluations
    assert counts.jvp == 0
    assert len(events) == int(result.objective_calls.max())
    assert torch.equal(events[-1].calls, result.objective_calls)
    assert events[-1].evaluations is not None
    assert torch.equal(events[-1].evaluations, result.evaluations)
    if isinstance(optimizer, LBFGS):
        assert len(set(result.evaluations.tolist())) > 1


def test_recomputation_is_counted(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    solver = Midpoint(3, "checkpoint")
    result = DFlow(solver=solver, optimizer=LBFGS(max_iterations=5), **DOUBLE)(
        prior, cost, seeds=SEEDS
    )
    spent = int(result.objective_calls.sum())
    assert result.network.forward_rows == 2 * 6 * spent == int(result.evaluations.sum())
    assert result.network.vjp_rows == 6 * spent == int(result.backward_passes.sum())


@pytest.mark.parametrize(
    ("initializer", "forward", "vjp"),
    [
        (SourceSample(), 0, 0),
        (Blend(0.1, Midpoint(4)), 8, 0),
        (GuidedStart(7, solver=Midpoint(4)), 7 + 8, 7),
    ],
    ids=repr,
)
def test_initializers_are_counted(
    initializer: Initializer,
    forward: int,
    vjp: int,
    operator: LinearOperator,
    mixture: Build,
    prior_of: Build,
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    prior.velocity(rows(D), 0.5)  # what was spent before is not the run's
    method = DFlow(initializer=initializer, optimizer=LBFGS(max_iterations=0), **DOUBLE)
    counts = method(prior, cost, seeds=SEEDS).network
    assert (counts.forward, counts.vjp) == (forward + 6, vjp + 6)
    assert (counts.forward_rows, counts.vjp_rows) == (4 * (forward + 6), 4 * (vjp + 6))


def test_target_nll_counts(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    """A probe is one vjp per stage, its gradient two passes more; the forward pass stays one."""
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    method = DFlow(
        regularizer=TargetNLL(0.1, probes=2), optimizer=LBFGS(max_iterations=0), **DOUBLE
    )
    counts = method(prior, cost, seeds=SEEDS).network
    assert counts.forward == 6
    assert 6 * (2 + 1) <= counts.vjp <= 6 * (2 + 2 * 2 + 1)


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


# ------------------------------------------------------------------ presets


def test_presets_are_those_of_the_paper() -> None:
    """Table 6: targets, blends, regularizers, solvers."""
    targets = {name: DFlow.preset(name).target for name in PRESETS}
    assert targets == {
        "inpaint": -45, "inpaint-noisy": -32, "sr2": -55, "sr2-noisy": -32, "deblur": -55,
        "deblur-noisy": -32, "denoise": -32, "latent-inpaint": -45, "audio": None,
        "molecule-property": None,
    }  # fmt: skip
    for name in PRESETS:
        method = DFlow.preset(name)
        noisy = name.endswith("noisy") or name == "denoise"
        assert repr(method.regularizer) == ("Chi(0.01)" if noisy else "None")
        if name in ("molecule-property", "latent-inpaint", "audio"):
            evaluations = 100 if name == "molecule-property" else 6
            assert isinstance(method.solver, Midpoint) and method.solver.evaluations == evaluations
        else:
            assert method.solver is None  # three midpoint steps on the grid of the prior
        if name != "molecule-property":
            assert isinstance(method.initializer, Blend)
            assert method.initializer.weight == (0.25 if name == "latent-inpaint" else 0.1)


def test_the_default_solver_is_on_the_grid_of_the_prior(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    prior = Prior(oracle.flow, oracle.source, grid=Power(power=2.0))

    def run(prior: Prior, **options: Any) -> Result:
        method = DFlow(optimizer=LBFGS(max_iterations=2), dtype=torch.float64, **options)
        return method(prior, cost, seeds=SEEDS)

    warped = Midpoint(grid=[0.0, 5 / 9, 8 / 9, 1.0])
    default = run(prior)
    assert torch.allclose(default.samples, run(oracle, solver=warped).samples, rtol=1e-9)
    assert default.method == repr(DFlow(
        optimizer=LBFGS(max_iterations=2), dtype=torch.float64, solver=warped
    ))  # fmt: skip
    assert torch.equal(run(prior, solver=Midpoint(3)).samples, run(oracle).samples)
    assert not torch.allclose(default.samples, run(oracle).samples, rtol=1e-3)
    assert default.network.forward_rows == 6 * int(default.objective_calls.sum())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    restart_every = DFlow.preset(name).optimizer.restart_every
    method = DFlow.preset(
        name,
        optimizer=LBFGS(max_iterations=2, restart_every=restart_every),
        dtype=torch.float64,
    )
    prior, cost = (
        prior_of(mixture(3, D)),
        NegativePSNR(operator, rows(M), projected="deblur" in name),
    )
    result = method(prior, cost, seeds=SEEDS)
    assert bool((result.history["value"][-1] <= result.history["value"][0]).all())
    assert result.iterations.max() <= 2


def test_presets_take_changes_and_refuse_unknown_names() -> None:
    method = DFlow.preset("sr2", initializer=GuidedStart(), target=-40)
    assert isinstance(method.initializer, GuidedStart) and method.target == -40
    assert DFlow.preset("sr2").target == -55
    with pytest.raises(UnknownName, match=r"preset: 'sr3' is not known; known are: .*sr2"):
        DFlow.preset("sr3")
    with pytest.raises(TypeError, match="targets"):
        DFlow.preset("sr2", targets=3)


# ------------------------------------------------------------------ projections


MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


class Points(nn.Module):
    """A small velocity of padded point sets (B, N, F), blind to padding."""

    def forward(self, x: Tensor, t: Tensor, real: Tensor) -> Tensor:
        real = real.unsqueeze(2)
        mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return torch.where(real, torch.tanh(x + mean) - x, 0)


def molecules(index: list[int] | None = None) -> tuple[Prior, Cost, Normalize]:
    at = torch.tensor(index or range(4))
    mask, wish = MASK[at], rows(stream=5)[at]
    prior = Prior(
        Flow(Points(), CondOT()), MaskedGaussian(mask, features=5), conditions={"real": mask}
    )
    cost = FunctionCost(
        lambda x, wish, real: ((x[..., 3] * real).sum(1) - wish).square(),
        {"wish": wish, "real": mask},
    )
    return prior, cost, Normalize(mask)


@pytest.mark.parametrize("isotropic", [False, True])
def test_normalised_runs_return_normalised_points(isotropic: bool) -> None:
    prior, cost, _ = molecules()
    normalize = Normalize(MASK, isotropic=isotropic)
    method = DFlow(
        solver=Midpoint(5),
        optimizer=LBFGS(max_iterations=25, restart_every=5),
        projection=normalize,
        **DOUBLE,
    )
    result = method(prior, cost, seeds=SEEDS)
    assert torch.allclose(normalize(result.controls), result.controls, rtol=0, atol=1e-12)
    assert result.controls[~MASK].abs().max() == 0
    assert bool((result.costs < result.history["cost"][0]).all())
    assert torch.allclose(
        Midpoint(5)(lambda x, t: prior.velocity(x, t), result.controls), result.samples
    )


def test_masks_leave_with_their_samples() -> None:
    """Law 1 with a mask, a projection, and rows that stop at different times."""

    def run(index: list[int]) -> Result:
        prior, cost, normalize = molecules(index)
        method = DFlow(
            optimizer=LBFGS(max_iterations=15, restart_every=3),
            projection=normalize,
            regularizer=Chi(0.02),
            target=0.5,
            **DOUBLE,
        )
        return method(prior, cost, seeds=[SEEDS[i] for i in index])

    whole = run([0, 1, 2, 3])
    assert len(set(whole.iterations.tolist())) > 1
    for i in range(4):
        same(run([i]), whole.take(torch.tensor([i])))


class PerRow(Regularizer):
    """A user's regularizer with data of its own for every sample."""

    per_sample = ("centre",)

    def __init__(self, centre: Tensor) -> None:
        super().__init__(1.0)
        self.centre = centre

    def __call__(self, x0: Tensor, source: Any, divergence: Tensor | None = None) -> Tensor:
        return (x0 - self.centre).square().sum(1)


def test_data_of_a_regularizer_leave_with_their_samples() -> None:
    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((D,)))
    centre, y = 3 * rows(D, stream=6), rows(D)
    method = DFlow(regularizer=PerRow(centre), target=2.0, **DOUBLE)
    result = method(prior, Reversed(y), seeds=SEEDS)
    assert len(set(result.evaluations.tolist())) > 1
    for i in range(4):
        alone = DFlow(regularizer=PerRow(centre[i : i + 1]), target=2.0, **DOUBLE)(
            prior, Reversed(y[i : i + 1]), seeds=SEEDS[i : i + 1]
        )
        same(alone, result.take(torch.tensor([i])))


def test_solver_of_a_run_may_be_any(mixture: Build, prior_of: Build) -> None:
    prior, y = prior_of(mixture(2, D)), rows(D)
    solvers: list[Solver] = [RK4(3), Euler(grid=[0, 0.2, 1]), Dopri5(1e-4, 1e-4, "adjoint")]
    for solver in solvers:
        result = DFlow(solver=solver, optimizer=LBFGS(max_iterations=3), **DOUBLE)(
            prior, Reversed(y), seeds=SEEDS
        )
        assert bool((result.costs < result.history["cost"][0]).all())


def test_white_prior_moves_only_what_is_measured(operator: LinearOperator) -> None:
    """On N(0, I) Φ is the identity up to the solver: the null space keeps the draw."""
    prior = Prior(gaussian(torch.zeros(D).double(), torch.eye(D).double()).flow(), Gaussian((D,)))
    cost = SquaredError(operator, rows(M))
    result = DFlow(solver=RK4(16), optimizer=EXACT, **DOUBLE)(prior, cost, seeds=SEEDS)
    draw = prior.start(SEEDS, **DOUBLE)
    given = Measurement(operator, cost.y)
    expected = draw - operator.project(draw) + operator.pinv(given.y)
    assert torch.allclose(result.samples, expected, rtol=0, atol=1e-3)
