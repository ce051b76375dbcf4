"""DMPlug: D-Flow's objective with a step rule, clipping, early stopping, what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.methods import DFlow, DMPlug
from ctrlgen.methods.source.dmplug import Reverse
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers import LBFGS, Adam, WindowedVariance
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import CostError, UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import DDPMUniform, Times, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, EulerStep, HeunStep, walk
from ctrlgen.solvers import Euler

Build = Callable[..., Any]
D, M = 3, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
FEW = Adam(learning_rate=0.05, max_iterations=4)
SMALL = DMPlug(optimizer=FEW, **DOUBLE)


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.fixture
def cost(operator: LinearOperator) -> SquaredError:
    return SquaredError(operator, rows(M, stream=4))


def test_objective_is_that_of_d_flow_where_the_solver_is(
    cost: SquaredError, mixture: Build, prior_of: Build
) -> None:
    """Euler's step rule on the clock of the path, against Euler's solver: value and gradient."""
    prior, z = prior_of(mixture(2, D)), rows(D)
    rule: Any = Reverse(Uniform(3)(prior.flow.path), EulerStep())
    values, slopes = [], []
    for solver in (rule, Euler(3)):
        x = z.clone().requires_grad_()
        seen = SourceObjective(prior, cost, solver, None, torch.tensor(SEEDS), z)(x)
        values.append(seen.value)
        slopes.append(torch.autograd.grad(seen.value.sum(), x)[0])
    assert torch.allclose(values[0], values[1], rtol=1e-12, atol=0)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", [FEW, LBFGS(max_iterations=4)], ids=["adam", "lbfgs"])
def test_a_run_is_that_of_d_flow_where_the_solver_is(
    optimizer: Any, cost: SquaredError, mixture: Build, prior_of: Build
) -> None:
    """Straight lines: DDIM and Euler are the same step there."""
    prior = prior_of(mixture(2, D))
    ours = DMPlug(grid=Uniform(3), clock=None, optimizer=optimizer, **DOUBLE)
    theirs = DFlow(solver=Euler(3), optimizer=optimizer, **DOUBLE)
    a, b = (method(prior, cost, seeds=SEEDS) for method in (ours, theirs))
    assert torch.allclose(a.samples, b.samples, rtol=0, atol=1e-9)
    assert torch.allclose(a.controls, b.controls, rtol=0, atol=1e-9)
    assert torch.equal(a.evaluations, b.evaluations)
    assert a.network.forward == b.network.forward and a.network.vjp == b.network.vjp


def test_reverse_is_the_sampler_and_clips_in_every_step(mixture: Build, prior_of: Build) -> None:
    prior, z = prior_of(mixture(2, D)), 3 * rows(D)
    flow = prior.flow.on(ddpm())
    prior = Prior(flow, prior.source)
    levels = DDPMUniform(3, 999)(flow.path)
    assert [round(999 * (1 - t.time)) for t in levels[:-1]] == [666, 333, 0]
    free = Reverse(levels, DDIM())(BoundVelocity(prior), z)
    first = levels[0]
    scale = (first.alpha**2 + first.sigma**2) ** 0.5
    assert torch.allclose(free, walk(prior, scale * z, levels, DDIM()), rtol=0, atol=1e-12)
    clipped = Reverse(levels, DDIM(), 0.5)(BoundVelocity(prior), z)
    x = scale * z
    for t, s in pairwise(levels):
        data = prior.predict(x, t.time).data.clamp(-0.5, 0.5)
        x = s.alpha * data + s.sigma * (x - t.alpha * data) / t.sigma
    assert torch.allclose(clipped, x, rtol=0, atol=1e-9)
    assert clipped.abs().max() <= 0.5 < free.abs().max()


def test_it_fits_the_measurement_and_stops_at_its_target(
    cost: SquaredError, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(2, D))
    method = replace(SMALL, optimizer=Adam(learning_rate=0.2, max_iterations=40), target=0.1)
    result = method(prior, cost, seeds=SEEDS)
    assert result.status.tolist() == [Status.TARGET] * 3
    assert (result.costs <= 0.1).all()
    assert (result.costs < 0.3 * result.history["cost"][0]).all()


def test_evaluations_are_three_and_three_an_iteration(
    cost: SquaredError, mixture: Build, prior_of: Build
) -> None:
    result = SMALL(prior_of(mixture(2, D)), cost, seeds=SEEDS)
    assert result.objective_calls.tolist() == [5, 5, 5]
    assert result.evaluations.tolist() == result.backward_passes.tolist() == [15, 15, 15]
    assert (result.network.forward, result.network.vjp) == (15, 15)


def test_rows_stop_early_one_by_one_at_their_steadiest(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Each where it would alone; the result is not the iterate of the lowest cost."""
    prior = prior_of(mixture(2, D))
    y = rows(M, stream=4)
    early = WindowedVariance(window=3, patience=4)
    optimizer = Adam(learning_rate=0.3, max_iterations=20, early=early)
    method = replace(SMALL, optimizer=optimizer)
    whole = method(prior, SquaredError(operator, y), seeds=SEEDS)
    assert Status.STEADY in whole.status.tolist()
    for i, seed in list(enumerate(SEEDS))[:2]:
        alone = method(prior, SquaredError(operator, y[[i]]), seeds=[seed])
        assert torch.allclose(alone.samples[0], whole.samples[i], rtol=0, atol=1e-9)
        assert alone.status[0] == whole.status[i] and alone.iterations[0] == whole.iterations[i]


def test_a_lost_row_leaves_its_neighbours_alone(
    cost: SquaredError, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(2, D))
    clean = SMALL(prior, cost, seeds=SEEDS)

    def lost(x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        return torch.where(bad.unsqueeze(1), torch.nan, prior.flow.velocity(x, t))

    bad = torch.tensor([False, True, False])
    broken = Prior(Flow(lost, CondOT()), prior.source, conditions={"bad": bad})
    result = SMALL(broken, cost, seeds=SEEDS)
    assert result.status[1] == Status.DIVERGED
    assert torch.allclose(result.samples[[0, 2]], clean.samples[[0, 2]], rtol=0, atol=1e-10)


def test_presets() -> None:
    for name in DMPlug.presets:
        assert DMPlug.preset(name).clip == 1.0
    assert DMPlug.preset("nonlinear-deblur").optimizer.max_iterations == 10_000
    with pytest.raises(UnknownName, match="preset"):
        DMPlug.preset("audio")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"grid": 3}, TypeError, "grid"),
        ({"clock": "ddpm"}, TypeError, "clock"),
        ({"rule": "ddim"}, TypeError, "rule"),
        ({"rule": HeunStep()}, ValueError, "rule"),
        ({"clip": -1.0}, ValueError, "clip"),
        ({"optimizer": None}, TypeError, "optimizer"),
        ({"dtype": torch.int64}, ValueError, "dtype"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        DMPlug(**options)


def test_problems_that_lack_what_is_needed(
    cost: SquaredError, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior = prior_of(mixture(1, D))
    with pytest.raises(ValueError, match="deterministic"):
        replace(SMALL, rule=DDIM(0.5))(prior, cost, seeds=SEEDS)
    with pytest.raises(ValueError, match="σ > 0"):
        replace(SMALL, clock=None, grid=Times((0.5, 1.0)), clip=1.0)(prior, cost, seeds=SEEDS)
    with pytest.raises(CostError, match="gradient"):
        SMALL(prior, lambda x: x.detach().sum(1), seeds=SEEDS)
    with pytest.raises(CostError, match="3 samples"):
        SMALL(prior, NegativePSNR(operator, rows(M, stream=4)), seeds=[1, 2])
    assert prior.flow.evaluations.forward == 0
    assert prior.source.shape == Gaussian((D,)).shape
