"""RED-diff, PnP-Flow, Flow-Priors and DAPS: their updates on oracles, whole runs, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, Reversed, SquaredError
from ctrlgen.methods import DAPS, FlowPriors, PnPFlow, REDDiff
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.methods.stepping import SteppedMethod
from ctrlgen.methods.variational.fidelity import slope
from ctrlgen.operators.base import LinearOperator, Operator, dense
from ctrlgen.optimizers import Adam
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import DDPMUniform, Karras, Times, Uniform, ddpm, level_at
from ctrlgen.testing.oracles import Mixture
from tests.methods.gaussian_runs import (
    DOUBLE,
    SEEDS,
    SMALL,
    D,
    M,
    _Double,
    a_run,
    affine,
    denoised,
    rows,
)

Build = Callable[..., Any]
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.fixture
def law(mixture: Build) -> Mixture:
    """A Gaussian."""
    return mixture(1, D, seed=2)


@pytest.mark.parametrize("form", ["mean", "sum", "cost"])
def test_red_diff_gradient_by_hand(
    form: Any, law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """H^T(Hμ − y)/m + (λ_t/d)(ε̂ − ε); for a Gaussian ε̂ − ε is −σ s(x_t) less the draw."""
    y, mu = rows(M, stream=4), rows(D)
    cost = 0.7 * SquaredError(operator, y)
    method = REDDiff(grid=DDPMUniform(10), form=form, weight=0.3, **DOUBLE)
    run, matrix = a_run(method, prior_of(law), cost), dense(operator, (D,))
    t, noise = run.levels[4], run.noise(4, mu)
    found, value = method.gradient(run, mu, 4)
    x = t.alpha * mu + t.sigma * noise
    predicted = (x - t.alpha * denoised(law, x, t.alpha, t.sigma)) / t.sigma
    fit = (mu @ matrix.T - y) @ matrix
    pull = 0.3 * t.sigma / t.alpha * (predicted - noise)
    expected = {"mean": fit / M + pull / D, "sum": 2 * fit + pull, "cost": 1.4 * fit + pull}[form]
    assert torch.allclose(found, expected, **NEAR)
    assert torch.allclose(value, cost(mu), **NEAR)


def test_red_diff_pull_is_the_score_on_average(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """E[ε̂ − ε] = −σ s(αμ) for a Gaussian, whose score is affine."""
    seeds = list(range(4000))
    mu = rows(D)[:1].expand(len(seeds), D)
    cost = FunctionCost(lambda x: 0 * x.sum(1))
    method = REDDiff(grid=Times((0.4,)), clock=None, form="cost", weight=1.0, weighting="const")
    run = a_run(method, prior_of(law), cost, seeds)
    pull, _ = method.gradient(run, mu, 0)
    t = run.levels[0]
    score = (t.alpha * denoised(law, t.alpha * mu[:1], t.alpha, t.sigma) - t.alpha * mu[:1]) / (
        t.sigma**2
    )
    spread = pull.std(0) / len(seeds) ** 0.5
    assert ((pull.mean(0) + t.sigma * score[0]).abs() < 4 * spread).all()
    assert (spread < 0.02).all()


def test_red_diff_weightings(law: Mixture, operator: LinearOperator, prior_of: Build) -> None:
    cost, mu = FunctionCost(lambda x: 0 * x.sum(1)), rows(D)
    pulls = {}
    for name in ("const", "linear", "sqrt", "square", "log", "clip", "2by3"):
        method = REDDiff(grid=Times((0.2,)), clock=None, form="cost", weighting=name)
        run = a_run(method, prior_of(law), cost)
        pulls[name] = method.gradient(run, mu, 0)[0]
    r = 0.8 / 0.2
    weights = {
        "linear": r, "sqrt": 2.0, "square": 16.0, "log": math.log(5), "clip": 1.0,
        "2by3": 4 ** (2 / 3),
    }  # fmt: skip
    for name, weight in weights.items():
        assert torch.allclose(pulls[name], weight * pulls["const"], **NEAR), name


def test_red_diff_descends_with_one_adam(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """Three steps from H†y, the averages carried along."""
    y = rows(M, stream=4)
    cost = SquaredError(operator, y)
    method = REDDiff(grid=DDPMUniform(3), **DOUBLE)
    run = a_run(method, prior_of(law), cost)
    x = operator.pinv(y)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(len(run.levels) - 1):
        gradient, _ = method.gradient(run, x, step)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        root = (square / (1 - 0.99 ** (step + 1))).sqrt()
        x = x - 0.1 * mean / (1 - 0.9 ** (step + 1)) / (root + 1e-8)
    result = method(prior_of(law), cost, seeds=SEEDS)
    assert torch.allclose(result.samples, x, **NEAR)


def test_red_diff_keeps_to_the_subspace_of_the_source(mixture: Build) -> None:
    """Adam normalises entries one by one; padding and the centre of mass stay where they are."""
    mask = torch.tensor([[True, True, True, False]] * 3)
    source = MaskedGaussian(mask, 3)
    prior = Prior(Flow(lambda x, t: -x, CondOT()), source)
    target = source.project(rows(4, 3, stream=9))
    method = replace(SMALL["red-diff-cost"], dispersion=0.0)
    samples = method(prior, Reversed(target), seeds=SEEDS).samples
    assert samples[:, 3].abs().max() == 0
    assert samples.sum(1).abs().max() < 1e-12


# ------------------------------------------------------------------ PnP-Flow


def test_pnp_flow_is_affine_for_a_gaussian(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """x ← D_t(αz + σ ε̄), z = x − (1−t)^a H^T(Hx − y), run after run by hand."""
    y = rows(M, stream=4)
    cost = SquaredError(operator, y)
    method = PnPFlow(grid=Uniform(5), exponent=0.7, draws=3, **DOUBLE)
    run, matrix = a_run(method, prior_of(law), cost), dense(operator, (D,))
    x = rows(D, stream=0)
    for step, t in enumerate(run.levels[:-1]):
        z = x - (1 - t.time) ** 0.7 * (x @ matrix.T - y) @ matrix
        mean = sum(run.noise(step, x, m) for m in range(3)) / 3
        x = denoised(law, t.alpha * z + t.sigma * mean, t.alpha, t.sigma)
    result = method(prior_of(law), cost, seeds=SEEDS)
    assert torch.allclose(result.samples, x, **NEAR)


def test_pnp_flow_fixed_point_for_the_identity(
    law: Mixture, matrix_operator: Build, prior_of: Build
) -> None:
    """Without noise (M → ∞) x* = D_t(α(x* − γ(x* − y))) is where an update stays."""
    eye = torch.eye(D, dtype=torch.float64)
    y = rows(D, stream=4)
    cost = SquaredError(matrix_operator(eye), y)
    method = PnPFlow(grid=Times((0.6,)), exponent=0.5, draws=2, **DOUBLE)
    run = a_run(method, prior_of(law), cost)
    t, gamma = run.levels[0], 0.4**0.5
    gain, offset = affine(law, t.alpha, t.sigma)
    right = gamma * t.alpha * y @ gain.T + offset
    fixed = torch.linalg.solve(eye - (1 - gamma) * t.alpha * gain, right.T).T
    new, _ = method.update(run, fixed, 0)
    noise = t.sigma * (run.noise(0, y, 0) + run.noise(0, y, 1)) / 2
    assert torch.allclose(new - noise @ gain.T, fixed, **NEAR)


def test_pnp_flow_forgets_its_start(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """At t = 0 nothing of it is left; later there is."""
    cost = SquaredError(operator, rows(M, stream=4))
    prior = prior_of(law)

    def samples(start: Any, at: float) -> Tensor:
        method = PnPFlow(grid=Uniform(3, start=at), start=start, **DOUBLE)
        return method(prior, cost, seeds=SEEDS).samples

    assert torch.allclose(samples("source", 0.0), samples("guided", 0.0), **NEAR)
    assert (samples("source", 0.5) - samples("guided", 0.5)).abs().max() > 1e-2


# ------------------------------------------------------------------ all of them


def run_small(
    name: str, prior: Prior, operator: LinearOperator, index: list[int] | None = None
) -> Result:
    """Rows of a small run whose every sample has a measurement of its own."""
    rows_ = index if index is not None else list(range(len(SEEDS)))
    cost = SquaredError(operator, rows(M, stream=4)[rows_], 0.1)
    return SMALL[name](prior, cost, seeds=[SEEDS[i] for i in rows_])


@pytest.mark.parametrize("name", SMALL)
def test_evaluations_are_those_of_the_formula(
    name: str, law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """Law 9: n; M a step; K + 1 a step with three vjps each; `ode_steps` a level."""
    counts = {
        "red-diff": (4, 0),
        "red-diff-cost": (3, 0),
        "pnp-flow": (8, 0),
        "flow-priors": (9, 18),
        "daps": (6, 0),
    }[name]
    result = run_small(name, prior_of(law), operator)
    assert (result.network.forward, result.network.vjp) == counts
    assert result.network.forward_rows == 3 * counts[0]
    assert result.status.tolist() == [Status.FINISHED] * 3
    assert result.history["evaluations"][-1].tolist() == [counts[0]] * 3


def test_flow_priors_without_probes_spares_the_double_backward(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    cost = SquaredError(operator, rows(M, stream=4))
    result = replace(SMALL["flow-priors"], probes=0)(prior_of(law), cost, seeds=SEEDS)
    assert (result.network.forward, result.network.vjp) == (9, 6)


@pytest.mark.parametrize("name", SMALL)
def test_rows_do_not_see_each_other(
    name: str, mixture: Build, operator: LinearOperator, prior_of: Build
) -> None:
    prior = prior_of(mixture(2, D))
    whole = run_small(name, prior, operator)
    for index in ([2], [1, 0]):
        part = run_small(name, prior, operator, index)
        assert torch.allclose(part.samples, whole.samples[index], rtol=0, atol=1e-10)
        assert torch.allclose(part.costs, whole.costs[index], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_a_lost_row_keeps_its_last_state_and_its_neighbours_go_on(
    name: str, mixture: Build, operator: LinearOperator, prior_of: Build
) -> None:
    prior = prior_of(mixture(2, D))
    clean = run_small(name, prior, operator)

    def lost(x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        """NaN in the marked rows from the middle of the run on."""
        u = prior.flow.velocity(x, t)
        gone = (bad & (t > 0.3)).unsqueeze(1)
        return torch.where(gone, torch.nan, u)

    bad = torch.tensor([False, True, False])
    broken = Prior(Flow(lost, CondOT()), prior.source, conditions={"bad": bad})
    result = run_small(name, broken, operator)
    assert result.status.tolist() == [Status.FINISHED, Status.DIVERGED, Status.FINISHED]
    assert torch.allclose(result.samples[[0, 2]], clean.samples[[0, 2]], rtol=0, atol=1e-10)
    assert result.samples.isfinite().all()
    assert result.iterations[1] < result.iterations[0]


@pytest.mark.parametrize("name", SMALL)
def test_states_of_any_layout_and_a_codec(
    name: str, matrix_operator: Build, operator: LinearOperator
) -> None:
    """The same numbers in vectors and in (2, 2) states, seen through a scale."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) - 0.3).reshape(x.shape)

    class Every(Operator):
        def __call__(self, x: Tensor) -> Tensor:
            return torch.tanh(x.flatten(1))

        def pinv(self, y: Tensor) -> Tensor:
            return torch.atanh(y.clamp(-0.99, 0.99)).reshape(-1, *shape)

    y, found = 0.5 * torch.tanh(rows(4, stream=4)), []
    for shape in ((4,), (2, 2)):
        prior = Prior(Flow(velocity, CondOT()), Gaussian(shape), Scaled(1.5, 0.2))
        found.append(SMALL[name](prior, SquaredError(Every(), y), seeds=SEEDS).samples)
    assert found[1].shape == (3, 2, 2)
    assert torch.allclose(found[0], found[1].flatten(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["red-diff", "pnp-flow", "flow-priors", "daps"])
def test_they_fit_the_measurement(
    name: str, mixture: Build, operator: LinearOperator, prior_of: Build
) -> None:
    """Each at a step count that is small, far below the misfit of unguided samples."""
    law = mixture(2, D, seed=4)
    longer: dict[str, SteppedMethod] = {
        "red-diff": replace(SMALL[name], grid=DDPMUniform(30)),
        "pnp-flow": PnPFlow(grid=Uniform(15), draws=1, **DOUBLE),
        "flow-priors": FlowPriors(
            grid=Uniform(20, start=1e-3), weight=100.0, optimizer=Adam(learning_rate=0.2), **DOUBLE
        ),
        "daps": DAPS(
            grid=Karras(12, 0.1, 100.0), langevin_steps=20, rate=2e-3, noise=0.1, **DOUBLE
        ),
    }
    cost = SquaredError(operator, operator(law.sample(SEEDS)))
    costs = longer[name](prior_of(law), cost, seeds=SEEDS).costs
    unguided = cost(law.sample([101, 102, 103]))
    assert costs.mean() < 0.1 * unguided.mean(), (costs, unguided)


@pytest.mark.parametrize("kind", [REDDiff, PnPFlow, FlowPriors, DAPS], ids=lambda k: k.__name__)
def test_presets_are_settings_of_the_method(kind: type[SteppedMethod]) -> None:
    for name in kind.presets:
        assert isinstance(kind.preset(name), kind)
    with pytest.raises(UnknownName, match="preset"):
        kind.preset("none")


@pytest.mark.parametrize(
    ("kind", "options", "error", "match"),
    [
        (REDDiff, {"form": "median"}, ValueError, "form"),
        (REDDiff, {"weighting": "cubic"}, ValueError, "weighting"),
        (REDDiff, {"weight": -1.0}, ValueError, "weight"),
        (REDDiff, {"dispersion": math.nan}, ValueError, "dispersion"),
        (REDDiff, {"optimizer": "adam"}, TypeError, "optimizer"),
        (REDDiff, {"optimizer": Adam(learning_rate=lambda k: 0.1 / (k + 1))}, ValueError, "rate"),
        (PnPFlow, {"draws": 0}, ValueError, "draws"),
        (PnPFlow, {"exponent": -0.1}, ValueError, "exponent"),
        (PnPFlow, {"scale": 0.0}, ValueError, "scale"),
        (PnPFlow, {"fidelity": "psnr"}, ValueError, "fidelity"),
        (FlowPriors, {"iterations": 0}, ValueError, "iterations"),
        (FlowPriors, {"probes": -1}, ValueError, "probes"),
        (FlowPriors, {"weight": 0.0}, ValueError, "weight"),
        (FlowPriors, {"start": "guided"}, ValueError, "start"),
        (FlowPriors, {"optimizer": None}, TypeError, "optimizer"),
        (DAPS, {"ode_steps": 0}, ValueError, "ode_steps"),
        (DAPS, {"langevin_steps": -1}, ValueError, "langevin_steps"),
        (DAPS, {"rate": 0.0}, ValueError, "rate"),
        (DAPS, {"rate_end": 2.0}, ValueError, "rate_end"),
        (DAPS, {"noise": 0.0}, ValueError, "noise"),
        (DAPS, {"likelihood": "guessed"}, ValueError, "likelihood"),
        (DAPS, {"fidelity": "none"}, ValueError, "fidelity"),
    ],
)
def test_bad_options(kind: Any, options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        kind(**options)


def test_problems_that_lack_what_is_needed(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """Refused before the network is evaluated once."""
    prior = prior_of(law)
    plain = FunctionCost(lambda x: x.square().sum(1))
    measured = SquaredError(operator, rows(M, stream=4))
    without = SquaredError(_Double(), rows(D, stream=4))
    cases: list[tuple[SteppedMethod, CostLike, str]] = [
        (REDDiff(**DOUBLE), plain, "measurement"),
        (REDDiff(**DOUBLE), without, "pseudo-inverse"),
        (REDDiff(clock=None, grid=Uniform(3), **DOUBLE), measured, "first level"),
        (PnPFlow(**DOUBLE), plain, "fidelity='cost'"),
        (FlowPriors(**DOUBLE), plain, "measurement"),
        (DAPS(**DOUBLE), plain, "fidelity='cost'"),
        (DAPS(ode_end=0.5, **DOUBLE), measured, "ode_end"),
        (DAPS(clock=None, grid=Uniform(3), **DOUBLE), measured, "first level"),
    ]
    for method, cost, match in cases:
        with pytest.raises(ValueError, match=match):
            method(prior, cost, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


def test_data_terms(law: Mixture, operator: LinearOperator, prior_of: Build) -> None:
    """Their gradients, by hand; and the cost, where it is asked for."""
    y, x = rows(M, stream=4), rows(D)
    cost, matrix = 0.2 * SquaredError(operator, y), dense(operator, (D,))
    run = a_run(PnPFlow(**DOUBLE), prior_of(law), cost)
    residual = x @ matrix.T - y
    expected = {
        "squared": residual @ matrix,
        "absolute": residual.sign() @ matrix,
        "cost": 0.4 * residual @ matrix,
    }
    for name, gradient in expected.items():
        found = slope(run, x, name)  # type: ignore[arg-type]
        assert torch.allclose(found.gradient, gradient, **NEAR)
        assert torch.allclose(found.cost, cost(x), **NEAR)
        assert slope(run, x, name, report=False).cost is None  # type: ignore[arg-type]


def test_default_clocks_are_the_papers() -> None:
    assert REDDiff().clock is ddpm()
    assert isinstance(PnPFlow().clock, CondOT) and isinstance(FlowPriors().clock, CondOT)
    levels = DAPS().grid(DAPS().clock)
    assert len(levels) == 201
    assert levels[0].ratio == pytest.approx(100.0) and levels[-2].ratio == pytest.approx(0.1)
    assert level_at(CondOT(), 0.5).ratio == 1.0
