"""Evolution on the source point: optima in closed form, rates, geometry, samples apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost, FunctionCost
from ctrlgen.methods.blackbox import evolution
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.sources import MaskedGaussian
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Euler, Midpoint
from ctrlgen.testing.oracles import gaussian

SEEDS = torch.tensor([7, 3, 11, 2])
DOUBLE = torch.float64


def still(d: int) -> cg.Prior:
    """x = x_0: the search alone."""
    return cg.Prior(Flow(lambda x, t: 0 * x, CondOT()), cg.Gaussian((d,)))


def calls_to(goal: float, d: int, condition: float) -> Tensor:
    scales = condition ** torch.linspace(0, 1, d, dtype=DOUBLE)

    def ellipsoid(x: Tensor) -> Tensor:
        return (scales * x.square()).sum(1)

    method = cg.EvolutionStrategy(
        population=10, generations=600, target=goal, solver=Euler(1), chunk=10, dtype=DOUBLE
    )
    result = method(still(d), ellipsoid, seeds=range(8))
    assert (result.status == Status.TARGET).all() and (result.costs <= goal).all()
    return result.objective_calls.double()


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_it_takes_as_many_calls_as_the_reference_does(condition: float) -> None:
    """`cma` in its diagonal form, from the same law of starts, on a sphere and an ellipsoid."""
    cma = pytest.importorskip("cma")
    d, goal, spent = 10, 1e-9, []
    scales = condition ** torch.linspace(0, 1, d, dtype=DOUBLE).numpy()
    for seed in range(1, 5):
        start = torch.randn(d, generator=torch.Generator().manual_seed(seed)).tolist()
        options = {"popsize": 10, "CMA_diagonal": True, "ftarget": goal, "seed": seed}
        other = cma.CMAEvolutionStrategy(start, 0.5, options | {"verbose": -9})
        other.optimize(lambda x: float((scales * x**2).sum()))
        spent.append(other.result.evaluations)
    ours, theirs = float(calls_to(goal, d, condition).mean()), sum(spent) / len(spent)
    assert ours == pytest.approx(theirs, rel=0.2)


def test_a_gaussian_prior_and_a_quadratic_cost() -> None:
    """The flow of N(m, S) is linear and onto: the least cost is 0, each sample at its own y."""
    law = gaussian(
        torch.tensor([0.3, -0.2], dtype=DOUBLE),
        torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE),
    )
    y = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0], [0.5, 0.5]], dtype=DOUBLE)
    cost = FunctionCost(lambda x, y: (x - y).square().sum(1), {"y": y})
    method = cg.EvolutionStrategy(population=8, generations=120, solver=Midpoint(4), dtype=DOUBLE)
    prior = cg.Prior(law.flow(), cg.Gaussian((2,)))
    result = method(prior, cost, seeds=SEEDS)
    assert torch.allclose(result.samples, y, atol=1e-5)
    assert (result.status == Status.CONVERGED_CHANGE).all() and result.converged.all()
    assert (result.backward_passes == 0).all()
    assert torch.equal(result.evaluations, 8 * result.objective_calls)
    assert torch.equal(result.objective_calls, 1 + 8 * result.iterations)
    assert (result.history["cost"].diff(dim=0) <= 0).all()  # the best so far
    assert torch.allclose(prior.generate(result.controls, Midpoint(4)), result.samples)


def test_the_radius_and_the_centre_of_mass_are_kept() -> None:
    mask = torch.arange(6) < torch.tensor([3, 6, 4, 5]).unsqueeze(1)
    source = MaskedGaussian(mask, 5)
    prior = cg.Prior(Flow(lambda x, t: 0 * x, CondOT()), source)

    def first(x: Tensor) -> Tensor:
        return (x[:, 0, 0] - 2).square()

    method = cg.EvolutionStrategy(population=8, generations=12, sphere=True, dtype=DOUBLE)
    result = method(prior, BlackBoxCost(first), seeds=SEEDS)
    start = prior.start(SEEDS, dtype=DOUBLE)
    assert torch.allclose(source.radius(result.controls), source.radius(start))
    assert torch.allclose(source.project(result.controls), result.controls, atol=1e-12)
    assert (result.costs < 0.05 * first(start)).all()
    free = cg.EvolutionStrategy(population=8, generations=12, dtype=DOUBLE)(
        prior, BlackBoxCost(first), seeds=SEEDS
    )
    assert not torch.allclose(source.radius(free.controls), source.radius(start), rtol=1e-3)


def test_neutral_directions_leave_the_variances_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a cost of chance, centred coordinates keep the variances of the other entries."""
    states, updated = [], evolution._updated

    def watched(*arguments: Any) -> Any:
        states.append(updated(*arguments))
        return states[-1]

    monkeypatch.setattr(evolution, "_updated", watched)
    mask = torch.ones(256, 3, dtype=torch.bool)
    prior = cg.Prior(Flow(lambda x, t: 0 * x, CondOT()), MaskedGaussian(mask, 4))
    chance = torch.Generator().manual_seed(0)
    method = cg.EvolutionStrategy(population=12, generations=10, chunk=12, dtype=DOUBLE)
    cost = BlackBoxCost(lambda x: torch.rand(len(x), generator=chance, dtype=DOUBLE))
    method(prior, cost, seeds=range(256))
    log = states[-1].variance.log()
    ratio = log[..., :3].mean((1, 2)) - log[..., 3].mean(1)
    assert abs(float(ratio.mean())) < 3 * float(ratio.std()) / 16


def test_it_begins_at_the_best_of_its_draws_and_leaves_at_the_target() -> None:
    def distance(x: Tensor) -> Tensor:
        return (x - 1).square().sum(1)

    best = cg.BestOf(n=20, solver=Euler(1))(still(3), distance, seeds=SEEDS)
    method = cg.EvolutionStrategy(draws=20, generations=3, solver=Euler(1))
    result = method(still(3), distance, seeds=SEEDS)
    assert torch.allclose(result.history["cost"][0], best.costs)
    assert (result.costs <= best.costs).all()
    goal = float(best.costs.max())
    early = cg.EvolutionStrategy(draws=20, target=goal, solver=Euler(1))
    early_result = early(still(3), distance, seeds=SEEDS)
    assert (early_result.objective_calls == 20).all() and early_result.converged.all()


def test_candidates_that_fail_weigh_nothing() -> None:
    def half(x: Tensor) -> list[float]:
        return [math.nan if v[0] < 0 else float((v - 1).square().sum()) for v in x]

    method = cg.EvolutionStrategy(population=12, generations=40, draws=20, solver=Euler(1))
    result = method(still(3), BlackBoxCost(half), seeds=SEEDS)
    assert (result.costs < 1e-3).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"population": 3}, "population: expected at least 4, got 3"),
        ({"sigma": 0.0}, "sigma: expected a positive number"),
        ({"generations": 0}, "generations: expected a positive integer"),
        ({"tolerance": -1.0}, "tolerance: expected at least 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cg.EvolutionStrategy(**options)
