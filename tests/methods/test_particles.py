"""Particles along the path: the law that they target, exactly; what failures do; counts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost, FunctionCost
from ctrlgen.methods.blackbox.resampling import chosen, effective, systematic, weights_of
from ctrlgen.priors.paths import CondOT
from ctrlgen.rows.status import Status
from ctrlgen.sampling.steps import DDIM
from ctrlgen.testing.oracles import gaussian

DOUBLE = torch.float64
SEEDS = [7, 3, 11]
MEAN, VARIANCE = torch.tensor([0.3, -0.2], dtype=DOUBLE), torch.tensor([1.0, 0.4], dtype=DOUBLE)
Y = torch.tensor([[1.0, 0.5], [0.0, 0.0], [-1.0, 0.2]], dtype=DOUBLE)
NOISE = 0.5


def prior() -> cg.Prior:
    return cg.Prior(gaussian(MEAN, VARIANCE.diag()).flow(), cg.Gaussian((2,)))


def misfit() -> cg.Cost:
    return FunctionCost(lambda x, y: (x - y).square().sum(1) / (2 * NOISE**2), {"y": Y})


def law(steps: int, moves: int = 0, depth: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of what so many ancestral steps give, and moves that are all taken, and
    what of the state the moves carry along: each step is linear in a Gaussian."""
    levels = cg.Uniform(steps)(CondOT())
    mean, variance = torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    for move in range(moves + 1):
        walked = levels if move == 0 else levels[-1 - depth :]
        if move == 0:
            carried = torch.ones(2, dtype=DOUBLE)
        else:
            mean, carried = walked[0].alpha * mean, walked[0].alpha * carried
            variance = walked[0].alpha ** 2 * variance + walked[0].sigma ** 2
        for t, s in pairwise(walked):
            a, b, c = DDIM(1.0).mix(t, s)
            gain = t.alpha * VARIANCE / (t.alpha**2 * VARIANCE + t.sigma**2)  # of x̂ in x − αm
            slope = a * gain + b * (1 - t.alpha * gain) / t.sigma
            mean = a * MEAN + slope * (mean - t.alpha * MEAN)
            variance = slope**2 * variance + c**2
            carried = slope * carried if move else carried
    return mean, variance, carried


def posterior(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means (3, 2), variances (2,) and logarithms of the evidence (3,) for the misfit, λ = 1."""
    mean, variance, _ = law(steps)
    total = variance + NOISE**2
    evidence = -0.5 * ((Y - mean).square() / total + (total / NOISE**2).log()).sum(1)
    return mean + variance / total * (Y - mean), variance * NOISE**2 / total, evidence


@pytest.mark.parametrize(
    "options",
    [
        {"looks": 0, "threshold": 0.0},  # importance sampling
        {"threshold": 1.0},
        {"annealing": 0.0, "looks": 3},
        {"looks": 0, "moves": 3, "depth": 8},  # moves from noise: p itself proposes
    ],
    ids=str,
)
def test_the_weighted_particles_have_the_moments_of_the_posterior(options: dict[str, Any]) -> None:
    """4000 particles: means to 0.04 (a standard deviation is 0.44), variances to 10 %."""
    method = cg.ParticleResampling(
        population=4000, grid=cg.Uniform(8), dtype=DOUBLE, chunk=4000, **options
    )
    found = method.particles(prior(), misfit(), seeds=SEEDS)
    mean, variance, evidence = posterior(8)
    weights = found.weights.unsqueeze(2)
    ours = (weights * found.signals).sum(1)
    spread = (weights * (found.signals - ours.unsqueeze(1)).square()).sum(1)
    assert torch.allclose(ours, mean, atol=0.04)
    assert torch.allclose(spread, variance.expand(3, 2), rtol=0.1)
    assert torch.allclose(found.log_evidence, evidence, atol=0.08)


def test_moves_bring_particles_up_and_down_again() -> None:
    """With a cost that says nothing all are taken, and their law is that of the steps."""
    before = cg.ParticleResampling(
        population=3000, grid=cg.Uniform(12), looks=0, strength=1e-9, dtype=DOUBLE, chunk=3000
    )
    method = cg.ParticleResampling(**{**vars(before), "moves": 2, "depth": 4})
    cost = FunctionCost(lambda x: x[:, 0])
    first, last = (m.particles(prior(), cost, seeds=[5]).states[0] for m in (before, method))
    mean, variance, carried = law(12, moves=2, depth=4)
    assert torch.allclose(last.mean(0), mean, atol=0.05)
    assert torch.allclose(last.var(0), variance, rtol=0.1)
    slope = ((first - first.mean(0)) * last).mean(0) / first.var(0)
    assert torch.allclose(slope, carried, atol=0.06) and bool((carried < 0.8).all())


def test_the_best_and_a_draw() -> None:
    best = cg.ParticleResampling(population=64, grid=cg.Uniform(8), dtype=DOUBLE)
    found = best.particles(prior(), misfit(), seeds=SEEDS)
    result = best(prior(), misfit(), seeds=SEEDS)
    assert torch.equal(result.costs, found.costs.min(1).values)
    assert torch.allclose(misfit()(result.samples), result.costs)
    assert (result.status == Status.FINISHED).all()
    draws = cg.ParticleResampling(
        population=8, grid=cg.Uniform(8), pick="draw", dtype=DOUBLE, looks=3
    )
    cost = FunctionCost(misfit().fn, {"y": Y[:1].expand(1500, 2)})  # type: ignore[attr-defined]
    drawn = draws(prior(), cost, seeds=range(1500))
    mean, variance, _ = posterior(8)
    assert torch.allclose(drawn.samples.mean(0), mean[0], atol=0.06)  # the bias of 8 among it
    assert torch.allclose(drawn.samples.var(0), variance, rtol=0.2)


def test_counts_and_looks() -> None:
    asked = []

    def watched(x: Tensor) -> Tensor:
        asked.append(len(x))
        return x.square().sum(1)

    method = cg.ParticleResampling(
        population=6, grid=cg.Uniform(10), looks=3, begin=0.2, moves=2, depth=4, chunk=4
    )
    result = method(prior(), BlackBoxCost(watched, cache=False), seeds=SEEDS)
    assert (result.evaluations == 6 * (10 + 2 * 4)).all() and (result.backward_passes == 0).all()
    assert (result.objective_calls == 6 * (3 + 1 + 2)).all() and sum(asked) == 3 * 36
    assert max(asked) == 3 * 4  # the chunk bounds the batch
    whole = cg.ParticleResampling(**{**vars(method), "chunk": 6})
    other = whole(prior(), FunctionCost(lambda x: x.square().sum(1)), seeds=SEEDS)
    assert torch.allclose(other.samples, result.samples)
    assert result.history["effective"].shape == (13, 3)
    assert method._looks(10) == {8, 6, 4} and method._looks(2) == set()
    assert cg.ParticleResampling(looks=50)._looks(8) == {2, 3, 4, 5, 6}


def test_looks_that_fail_say_nothing_and_particles_that_fail_weigh_nothing() -> None:
    calls = []

    def late(x: Tensor) -> list[float]:
        calls.append(len(x))
        if len(calls) <= 3:  # looks, at what is no sample yet
            return [math.nan] * len(x)
        return [math.nan if v[0] < 0 else float(v.square().sum()) for v in x]

    method = cg.ParticleResampling(population=40, grid=cg.Uniform(6), looks=3, dtype=DOUBLE)
    found = method.particles(prior(), BlackBoxCost(late), seeds=SEEDS)
    assert (
        len(calls) == 4
        and found.costs.isinf().any()
        and (found.weights[found.costs.isinf()] == 0).all()
    )
    plain = cg.ParticleResampling(population=40, grid=cg.Uniform(6), looks=0, dtype=DOUBLE)
    cost = BlackBoxCost(lambda x: [math.nan if v[0] < 0 else float(v.square().sum()) for v in x])
    same = plain.particles(prior(), cost, seeds=SEEDS)
    assert torch.equal(same.states, found.states) and torch.allclose(same.weights, found.weights)


def test_a_sample_without_a_scored_particle_has_failed() -> None:
    cost = BlackBoxCost(
        lambda x, y: x.square().sum(1) * y, per_sample={"y": torch.tensor([1.0, math.nan, 1.0])}
    )
    for moves in (0, 2):
        method = cg.ParticleResampling(population=4, grid=cg.Uniform(6), moves=moves)
        result = method(prior_of_floats(), cost, seeds=SEEDS)
        assert result.status.tolist() == [Status.FINISHED, Status.FAILED, Status.FINISHED]
        assert result.samples.isfinite().all() and result.costs[1] == math.inf


def prior_of_floats() -> cg.Prior:
    return cg.Prior(gaussian(MEAN.float(), VARIANCE.diag().float()).flow(), cg.Gaussian((2,)))


def test_moves_find_what_the_descent_has_not() -> None:
    method = cg.ParticleResampling(population=8, grid=cg.Uniform(8), strength=20.0, dtype=DOUBLE)
    far = FunctionCost(lambda x: (x - 2).square().sum(1))
    before = method(prior(), far, seeds=SEEDS)
    moved = cg.ParticleResampling(**{**vars(method), "moves": 20, "depth": 3})
    after = moved(prior(), far, seeds=SEEDS)
    assert (after.costs <= before.costs).all() and after.costs.mean() < 0.5 * before.costs.mean()
    assert (after.history["cost"][-20:].diff(dim=0) <= 0).all()


def test_resampling_takes_each_as_often_as_it_weighs() -> None:
    log = torch.tensor([[0.1, 0.4, 0.2, 0.3, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]).log()
    weights = weights_of(log)
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=DOUBLE)
    for w in weights:
        ancestors = systematic(w.expand(1000, 5), u)
        counts = torch.stack([(ancestors == i).sum(1) for i in range(5)], 1).double()
        assert torch.allclose(counts.mean(0), 5 * w, atol=0.01)
        assert bool(((counts - 5 * w).abs() < 1 + 1e-6).all())
        share = torch.stack([(chosen(w.expand(1000, 5), u) == i).double().mean() for i in range(5)])
        assert torch.allclose(share, w, atol=0.002)
    assert torch.allclose(effective(weights), torch.tensor([1 / 0.3, 1.0], dtype=DOUBLE))
    none = weights_of(torch.full((1, 4), -torch.inf))
    assert torch.equal(none, torch.full((1, 4), 0.25, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"population": 1}, ValueError, "population: expected at least 2, got 1"),
        ({"strength": 0.0}, ValueError, "strength: expected a positive number"),
        ({"begin": 1.0}, ValueError, r"begin: expected a number in \[0, 1\)"),
        ({"looks": -1}, ValueError, "looks: expected an integer >= 0"),
        ({"threshold": 1.5}, ValueError, r"threshold: expected a number in \[0, 1\]"),
        ({"annealing": -1.0}, ValueError, "annealing: expected a number >= 0"),
        ({"pick": "worst"}, ValueError, "pick: expected 'best' or 'draw'"),
        ({"rule": "ddim"}, TypeError, "rule: expected a StepRule"),
        ({"grid": 20}, TypeError, "grid: expected a Grid"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        cg.ParticleResampling(**options)


def test_steps_without_noise_and_moves_without_end_are_refused_before_any_compute() -> None:
    quiet, calls = prior(), []
    cost = BlackBoxCost(lambda x: calls.append(len(x)) or x.sum(1))
    with pytest.raises(ValueError, match="rule: expected one with fresh noise"):
        cg.ParticleResampling(rule=DDIM(0.0), dtype=DOUBLE)(quiet, cost, seeds=SEEDS)
    with pytest.raises(ValueError, match="depth: expected at most the 4 steps of the grid, got 5"):
        cg.ParticleResampling(grid=cg.Uniform(4), moves=1, dtype=DOUBLE)(quiet, cost, seeds=SEEDS)
    assert not calls and quiet.flow.evaluations.forward == 0
