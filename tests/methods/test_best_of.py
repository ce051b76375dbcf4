"""The best of n draws: which it is, what it costs, and what a black box may do to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost, FunctionCost
from ctrlgen.methods import DFlow
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import further
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Euler, Midpoint
from ctrlgen.testing.oracles import gaussian

SEEDS = torch.tensor([7, 3, 11])
MEAN = torch.tensor([0.3, -0.2])
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.5]])


def prior(dimension: int = 2) -> cg.Prior:
    plain = dimension == 1
    law = gaussian(torch.zeros(1), torch.eye(1)) if plain else gaussian(MEAN, COVARIANCE)
    return cg.Prior(law.flow(), cg.Gaussian(law.shape))


def distance(x: Tensor) -> Tensor:
    return (x - 1).square().sum(1)


def test_it_is_the_best_of_the_samples_of_its_seeds() -> None:
    solver = Midpoint(4)
    result = cg.BestOf(n=6, solver=solver, chunk=4)(prior(), distance, seeds=SEEDS)
    draws = torch.stack([prior().sample(further(SEEDS, j), solver) for j in range(6)])
    costs = torch.stack([distance(x) for x in draws])
    assert torch.allclose(result.costs, costs.min(0).values)
    chosen = result.history["draw"][-1]
    assert torch.equal(chosen, costs.argmin(0)) and len(set(chosen.tolist())) > 1
    assert torch.allclose(prior().sample(further(SEEDS, chosen), solver), result.samples)
    assert torch.allclose(prior().generate(result.controls, solver), result.samples)
    assert torch.allclose(result.history["cost"][0], costs[:4].min(0).values)  # so far
    assert (result.status == Status.FINISHED).all()


def test_draws_by_stochastic_steps_are_those_of_the_sampler() -> None:
    sampler = Sampler(9)
    method = cg.BestOf(n=6, solver=sampler, chunk=4)
    result = method(prior(), distance, seeds=SEEDS)
    draws = torch.stack([sampler(prior(), further(SEEDS, j)) for j in range(6)])
    costs = torch.stack([distance(x) for x in draws])
    assert torch.allclose(result.costs, costs.min(0).values)
    assert torch.equal(result.history["draw"][-1], costs.argmin(0))
    assert (result.evaluations == 6 * 9).all() and "Sampler(steps=9" in result.method
    (alone,) = method(prior(), distance, seeds=SEEDS[1:2]).samples
    assert torch.allclose(alone, result.samples[1])
    for other in (cg.EvolutionStrategy, cg.TrustRegionSearch):
        with pytest.raises(TypeError, match=r"solver: expected a Solver, got Sampler\(steps=9"):
            other(solver=sampler)


def test_draws_by_stochastic_steps_begin_as_wide_as_their_grid() -> None:
    sampler = Sampler(9, grid=Uniform(9, start=0.3))  # α² + σ² = 0.58
    result = cg.BestOf(n=1, solver=sampler)(prior(), distance, seeds=SEEDS)
    assert torch.allclose(result.samples, sampler(prior(), SEEDS))


def test_the_expected_cost_is_that_of_the_least_of_n() -> None:
    """Of eight standard normal numbers it is -1.4236 on average."""
    result = cg.BestOf(n=8, solver=Midpoint(6))(prior(1), lambda x: x[:, 0], seeds=range(4000))
    assert float(result.costs.mean()) == pytest.approx(-1.4236, abs=0.03)  # 3 standard errors


def test_halving_solves_the_survivors_alone() -> None:
    """Three counts by hand; where a coarse solve ranks as the full one does, nothing is lost."""
    rungs = (cg.Rung(1, 0.5), cg.Rung(2, 0.4))
    method = cg.BestOf(n=8, rungs=rungs, solver=Midpoint(8), chunk=3)
    result = method(prior(), distance, seeds=SEEDS)
    assert (result.evaluations == 8 * 2 + 4 * 4 + 2 * 16).all()
    assert (result.objective_calls == 8 + 4 + 2).all() and (result.iterations == 3).all()
    assert (result.backward_passes == 0).all()
    plain = cg.BestOf(n=8, solver=Midpoint(8))(prior(), distance, seeds=SEEDS)
    assert torch.equal(plain.history["draw"][-1], result.history["draw"][-1])
    assert torch.allclose(plain.costs, result.costs)
    assert (plain.evaluations == 8 * 16).all()


def test_samples_leave_at_their_target_and_the_best_draws_come_first() -> None:
    plain = cg.BestOf(n=8, solver=Midpoint(8))(prior(), distance, seeds=SEEDS)
    goal = float(plain.costs.max()) + 1e-5
    early = cg.BestOf(n=8, solver=Midpoint(8), target=goal, chunk=1)
    result = early(prior(), distance, seeds=SEEDS)
    assert (result.status == Status.TARGET).all() and (result.costs <= goal).all()
    assert int(result.objective_calls.sum()) < 24 and bool(result.objective_calls.min() < 8)
    assert torch.equal(result.evaluations, result.objective_calls * 16)
    ranked = cg.BestOf(n=8, rungs=(cg.Rung(2, 1.0),), solver=Midpoint(8), target=goal, chunk=1)
    assert (ranked(prior(), distance, seeds=SEEDS).objective_calls == 9).all()


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_the_chunk_bounds_the_batch_and_changes_nothing(chunk: int) -> None:
    sizes = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return distance(x)

    result = cg.BestOf(n=7, chunk=chunk)(prior(), BlackBoxCost(watched), seeds=SEEDS)
    other = cg.BestOf(n=7, chunk=7)(prior(), distance, seeds=SEEDS)
    assert max(sizes) == 3 * min(chunk, 7) and sum(sizes) == 21  # and no look before
    assert torch.allclose(result.costs, other.costs)
    assert torch.equal(result.history["draw"][-1], other.history["draw"][-1])


def test_a_scorer_that_fails_takes_a_candidate_and_no_more() -> None:
    def some(x: Tensor) -> list[float | None]:
        return [None if v < 0 else float(v) for v in x[:, 0]]

    result = cg.BestOf(n=8)(prior(), BlackBoxCost(some), seeds=SEEDS)
    assert result.costs.isfinite().all() and (result.samples[:, 0] >= 0).all()
    assert (result.status == Status.FINISHED).all()


def test_a_sample_that_no_call_has_scored_has_failed() -> None:
    cost = FunctionCost(lambda x, y: distance(x) * y, {"y": torch.tensor([1.0, math.nan, 1.0])})

    class Opaque(FunctionCost):
        differentiable = False

    closed = Opaque(cost.fn, cost.data)
    for goal, status in ((cost, Status.DIVERGED), (closed, Status.FAILED)):
        result = cg.BestOf(n=4)(prior(), goal, seeds=SEEDS)
        assert result.status.tolist() == [Status.FINISHED, status, Status.FINISHED]
        assert result.samples.isfinite().all() and result.costs[1] == math.inf


def test_gradient_methods_refuse_black_boxes_before_any_compute() -> None:
    flow, calls = prior(), []

    def score(x: Tensor) -> Tensor:
        calls.append(len(x))
        return distance(x)

    box = BlackBoxCost(score, name="my scorer")
    costs = (box, 2 * box, FunctionCost(distance) + box, box.through(flow.codec))
    for cost in costs:
        for method in (DFlow(), cg.DPS()):
            with pytest.raises(CostError, match=r"my scorer.*no gradient; BestOf"):
                method(flow, cost, seeds=SEEDS)
    assert not calls and flow.flow.evaluations.forward == 0


def test_measurements_and_conditions_of_samples_follow_their_candidates() -> None:
    y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    cost = FunctionCost(lambda x, y: (x - y).square().sum(1), {"y": y})
    result = cg.BestOf(n=200, chunk=50)(prior(), cost, seeds=SEEDS)
    assert ((result.samples - y).norm(dim=1) < 0.5).all()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"n": 0}, ValueError, "n: expected a positive integer, got 0"),
        ({"chunk": 2.5}, ValueError, "chunk: expected a positive integer"),
        ({"rungs": [cg.Rung(1)]}, TypeError, "rungs: expected a tuple of Rung"),
        ({"solver": "midpoint"}, TypeError, "solver: expected a Solver"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        cg.BestOf(**options)


def test_rungs_are_refused() -> None:
    with pytest.raises(ValueError, match="share: expected a number in"):
        cg.Rung(1, 1.5)
    with pytest.raises(ValueError, match="steps"):
        cg.Rung(0)
    assert cg.Rung(1, 0.1).survivors(3) == 1 and cg.Rung(1, 0.5).survivors(5) == 3


def test_solvers_of_one_evaluation_are_counted_as_such() -> None:
    result = cg.BestOf(n=3, solver=Euler(4))(prior(), distance, seeds=SEEDS)
    assert (result.evaluations == 12).all()
