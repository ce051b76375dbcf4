"""Renoising search: the law of children in closed form, selection, coupling, counts, failures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost
from ctrlgen.methods.blackbox.renoising import _Best
from ctrlgen.methods.blackbox.search import Search
from ctrlgen.priors.paths import VP, CondOT, Path
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Uniform, level_at
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import Ancestral
from ctrlgen.solvers import RK4, Euler, Midpoint
from ctrlgen.testing.oracles import gaussian

SEEDS = [7, 3, 11]
DOUBLE = torch.float64
MEAN = torch.tensor([0.3, -0.2], dtype=DOUBLE)
COVARIANCE = torch.tensor([[1.0, 0.5], [0.5, 0.6]], dtype=DOUBLE)


def prior(path: Path | None = None) -> cg.Prior:
    return cg.Prior(gaussian(MEAN, COVARIANCE).flow(path or CondOT()), cg.Gaussian((2,)))


class _At(Gaussian):
    """A source that draws what it is given: one state for each seed."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table.shape[1:])
        self.table = table

    def sample(self, seeds: Any, stream: int = 0, **place: Any) -> Tensor:
        return self.table[torch.as_tensor(seeds) >> 32]


def best(states: Tensor) -> _Best:
    zero = torch.zeros(states.shape[:2], dtype=torch.int64)
    return _Best(states, zero.to(states), zero)


@pytest.mark.parametrize("path", [CondOT(), VP()], ids=repr)
@pytest.mark.parametrize("time", [0.3, 0.8])
def test_a_child_of_a_draw_of_the_prior_is_one(path: Path, time: float) -> None:
    """On a Gaussian it is affine in parent and noise, x' = A x + B ε + b, and must have

    A m + b = m     and     A C A' + B B' = C.
    """
    rows = torch.zeros(5, 2, dtype=DOUBLE)  # b, then the columns of A and of B
    parents, noise = rows.clone(), rows.clone()
    parents[1], parents[2] = torch.eye(2, dtype=DOUBLE)
    noise[3], noise[4] = torch.eye(2, dtype=DOUBLE)
    own = prior(path)
    own.source = _At(noise)
    z = torch.zeros(1, 2, dtype=DOUBLE)
    solver = RK4(40)
    search = Search(
        own, lambda x: x[:, 0], solver, torch.tensor([0]), z, None, 8, None, own.metered(z[:, 0])[1]
    )
    method = cg.RenoisingSearch()
    family = best(parents.unsqueeze(0))
    x = method._renoised(search, family, torch.arange(5), level_at(own.flow.path, time), 0)
    ends = method._born(search, x, family.kinds, solver.after(time), time).states[0]
    shift, slope = ends[0], (ends[1:] - ends[0]).T
    a, b = slope[:, :2], slope[:, 2:]
    tolerance = 1e-3 if isinstance(path, VP) else 1e-5  # VP ends with a little noise
    assert torch.allclose(a @ MEAN + shift, MEAN, atol=tolerance)
    assert torch.allclose(a @ COVARIANCE @ a.T + b @ b.T, COVARIANCE, atol=tolerance)
    assert float(b.abs().max()) > 0.05 and float(a.abs().max()) > 0.05


def distance(x: Tensor) -> Tensor:
    return (x - 3).square().sum(1)


def test_selection_only_gains_and_finds_what_draws_do_not() -> None:
    """3 lies 2.7 and 4.1 standard deviations off: of as many draws none comes near."""
    method = cg.RenoisingSearch(draws=16, generations=15, dtype=DOUBLE, solver=Midpoint(3))
    result = method(prior(), distance, seeds=range(12))
    draws = cg.BestOf(n=16, dtype=DOUBLE, solver=Midpoint(3))(prior(), distance, seeds=range(12))
    assert torch.equal(result.history["cost"][0], draws.costs)
    assert (result.history["cost"].diff(dim=0) <= 0).all()
    assert torch.allclose(distance(result.samples), result.costs)
    assert torch.equal(result.controls, result.samples)  # final states
    more = cg.BestOf(n=136, dtype=DOUBLE, solver=Midpoint(3))(prior(), distance, seeds=range(12))
    assert (result.objective_calls == 136).all() and result.costs.mean() < more.costs.mean() / 3


def test_where_nothing_is_selected_the_first_draw_stays() -> None:
    method = cg.RenoisingSearch(generations=2, solver=Midpoint(3))
    own = cg.Prior(gaussian(MEAN.float(), COVARIANCE.float()).flow(), cg.Gaussian((2,)))
    result = method(own, lambda x: 0 * x[:, 0], seeds=SEEDS)
    assert torch.equal(result.samples, own.sample(SEEDS, Midpoint(3)))
    assert (result.status == Status.MAX_ITERATIONS).all()


def test_children_pay_for_the_steps_that_are_left() -> None:
    asked = []

    def watched(x: Tensor) -> Tensor:
        asked.append(len(x))
        return distance(x)

    method = cg.RenoisingSearch(
        draws=6, parents=3, children=5, generations=2, times=(0.25, 0.5), solver=Midpoint(4),
        chunk=2, dtype=DOUBLE,
    )  # fmt: skip
    result = method(prior(), BlackBoxCost(watched, cache=False), seeds=SEEDS)
    steps = 6 * 4 + 2 * (3 * 3 + 2 * 2)  # three children from 0.25, two from 0.5
    assert (result.evaluations == 2 * steps).all() and (result.backward_passes == 0).all()
    assert (result.objective_calls == 16).all() and sum(asked) == 48 and max(asked) == 3 * 2
    goal = float(result.history["cost"][0].max())
    early = cg.RenoisingSearch(draws=6, parents=3, target=goal, solver=Midpoint(4), dtype=DOUBLE)
    early_result = early(prior(), distance, seeds=SEEDS)
    assert (early_result.objective_calls == 6).all() and early_result.converged.all()
    few = cg.RenoisingSearch(
        draws=6, parents=3, generations=2, target=goal, solver=Midpoint(4), chunk=2, dtype=DOUBLE
    )
    few_result = few(prior(), distance, seeds=SEEDS)
    assert few_result.converged.all() and (few_result.objective_calls % 2 == 0).all()
    assert (few_result.objective_calls <= 6).all() and (few_result.objective_calls < 6).any()
    assert torch.equal(few_result.evaluations, 8 * few_result.objective_calls)


def test_stochastic_steps_draw_and_draw_again() -> None:
    """Counts by hand, noise of its own for every child, and the law of the prior of each."""
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return distance(x)

    sampler = Sampler(8, Ancestral(2.0), Uniform(8))
    method = cg.RenoisingSearch(
        draws=4, parents=2, children=4, generations=2, times=(0.25, 0.5), solver=sampler,
        dtype=DOUBLE,
    )  # fmt: skip
    result = method(prior(), watched, seeds=SEEDS)
    assert (result.evaluations == 4 * 8 + 2 * (2 * 6 + 2 * 4)).all()
    assert method.within(4 * 8 + 40, prior()).generations == 2
    with pytest.raises(ValueError, match="prior: expected the one of the search, for its sampler"):
        method.within(100)
    states = torch.cat(seen[-5:])  # the cost is tried before
    assert len(states.unique(dim=0)) == len(states) == 3 * (4 + 8)
    alone = method(prior(), distance, seeds=SEEDS[1:2])
    assert torch.allclose(alone.samples[0], result.samples[1])

    seen.clear()
    every = cg.RenoisingSearch(
        draws=1, parents=1, children=1, generations=1, times=(0.5,), dtype=DOUBLE,
        solver=Sampler(400, Ancestral(2.0), Uniform(400)),
    )  # fmt: skip
    every(prior(), watched, seeds=range(4000))
    for states in seen[-2:]:  # draws, and then their children
        assert torch.allclose(states.mean(0), MEAN, atol=0.06)
        assert torch.allclose(torch.cov(states.T), COVARIANCE, atol=0.08)


def test_families_share_the_places_of_parents() -> None:
    costs = torch.tensor([[3.0, 1.0, 2.0, 4.0, 1.5, math.inf]])
    families = torch.tensor([[0, 1, 1, 2, 1, 0]])
    some = _Best(costs.unsqueeze(2), costs, families)
    kept = some.survivors(families, 2, 3)
    assert kept.costs.tolist() == [[1.0, 1.5, 3.0]] and kept.kinds.tolist() == [[1, 1, 0]]
    assert some.survivors(families, 1, 4).costs.tolist() == [[1.0, 3.0, 4.0, 1.5]]
    assert some.survivors(families, 9, 3).costs.tolist() == [[1.0, 1.5, 2.0]]


def test_noise_is_joined_with_data_as_the_source_says() -> None:
    class Toward(Gaussian):
        def coupled(self, noise: Tensor, data: Tensor) -> Tensor:
            return noise.abs() * data.sign()

    own = prior()
    own.source = Toward((2,))
    z = torch.zeros(1, 2, dtype=DOUBLE)
    search = Search(
        own, distance, Euler(2), torch.tensor([5]), z, None, 8, None, own.metered(z[:, 0])[1]
    )
    parents = torch.tensor([[[1.0, -2.0], [0.5, 0.1]]], dtype=DOUBLE)
    x = cg.RenoisingSearch()._renoised(
        search, best(parents), torch.arange(2), level_at(own.flow.path, 0.5), 0
    )
    away = (x - 0.5 * parents) * parents.sign()
    assert (away > 0).all() and float(away.max()) > 0.1


def test_candidates_that_fail_are_no_parents() -> None:
    def half(x: Tensor) -> list[float]:
        return [math.nan if v[0] < 0 else float((v - 1).square().sum()) for v in x]

    method = cg.RenoisingSearch(draws=20, generations=10, dtype=DOUBLE, solver=Euler(3))
    result = method(prior(), BlackBoxCost(half), seeds=SEEDS)
    assert (result.costs < 0.05).all() and (result.status == Status.MAX_ITERATIONS).all()
    never = BlackBoxCost(
        lambda x, y: x[:, 0] * y, per_sample={"y": torch.tensor([1.0, math.nan, 1.0])}
    )
    lost = method(prior(), never, seeds=SEEDS)
    ended, failed = Status.MAX_ITERATIONS, Status.FAILED
    assert lost.status.tolist() == [ended, failed, ended] and lost.samples.isfinite().all()


def test_as_many_generations_as_evaluations_are_worth() -> None:
    method = cg.RenoisingSearch(draws=8, solver=Midpoint(4)).within(300)
    result = method(prior(), distance, seeds=[1])
    each = (int(result.evaluations) - 8 * 8) / method.generations
    assert abs(int(result.evaluations) - 300) <= each / 2
    assert method.within(1).generations == 1
    with pytest.raises(ValueError, match="solver: expected one of fixed steps, got None"):
        cg.RenoisingSearch().within(100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 3}, "draws: expected at least the 8 parents, got 3"),
        ({"children": 3}, "children: expected at least one for each of the 4 times, got 3"),
        ({"times": (0.5, 1.0)}, r"times: expected numbers in \(0, 1\)"),
        ({"times": ()}, "times: expected a tuple of times"),
        ({"family": 0}, "family: expected a positive integer"),
        ({"variants": 0}, "variants: expected a positive integer"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cg.RenoisingSearch(**options)
