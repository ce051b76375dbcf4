"""Search in a trust region: the guide against its formula, targets hit, what failures do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost, FunctionCost, LevelSet
from ctrlgen.methods.blackbox.surrogate import GaussianProcess
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Euler

SEEDS = torch.tensor([7, 3, 11, 2])
DOUBLE = torch.float64


def still(d: int) -> cg.Prior:
    """x = x_0: the search alone."""
    return cg.Prior(Flow(lambda x, t: 0 * x, CondOT()), cg.Gaussian((d,)))


def test_the_guide_is_the_mean_of_a_gaussian_process() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 12, 3, generator=generator, dtype=DOUBLE)
    values = torch.stack((points.sum(2), points[..., 0]), 2)
    guide = GaussianProcess.fit(points, values)
    assert torch.allclose(guide(points), values, atol=0.06)
    for row in range(2):
        x, length = points[row], guide.length[row]
        gram = torch.exp(-torch.cdist(x, x).square() / (2 * length**2))
        y = (values[row] - values[row].mean(0)) / values[row].std(0, correction=0)
        fits = [torch.linalg.solve(gram + noise * torch.eye(12), y) for noise in (1e-6, 1e-3, 1e-1)]
        assert min(float((guide.alpha[row] - fit).abs().max()) for fit in fits) < 1e-5


def test_a_longer_length_is_found_for_a_smoother_function() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(1, 40, 2, generator=generator, dtype=DOUBLE)
    smooth = GaussianProcess.fit(points, points.sum(2, keepdim=True))
    rough = GaussianProcess.fit(points, (6 * points).sin().sum(2, keepdim=True))
    assert float(smooth.length) > 2 * float(rough.length)


def test_points_without_a_value_say_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(1, 10, 3, generator=generator, dtype=DOUBLE)
    values = points.square().sum(2, keepdim=True)
    holes = torch.cat((values, torch.full((1, 4, 1), math.inf)), 1)
    more = torch.cat((points, torch.randn(1, 4, 3, generator=generator, dtype=DOUBLE)), 1)
    x = torch.randn(1, 5, 3, generator=generator, dtype=DOUBLE)
    assert torch.allclose(
        GaussianProcess.fit(more, holes)(x), GaussianProcess.fit(points, values)(x), atol=1e-5
    )


def test_a_target_of_a_black_box_is_hit_in_a_few_rounds() -> None:
    """In 40 dimensions, far out: f = 9 has 4.5 standard deviations; evolution is not near."""
    weights = torch.linspace(0.1, 0.52, 40, dtype=DOUBLE)

    def f(x: Tensor) -> Tensor:
        return x @ weights + 0.2 * (x[:, 0] + x[:, 1]).sin()

    scale = float(weights.norm())
    wanted = torch.tensor([4.5 * scale, -4.5 * scale, 0.3, 2 * scale], dtype=DOUBLE)
    cost = LevelSet(BlackBoxCost(f), wanted)
    method = cg.TrustRegionSearch(
        draws=16, batch=4, rounds=16, target=1e-6, solver=Euler(1), dtype=DOUBLE
    )
    result = method(still(40), cost, seeds=SEEDS)
    assert (result.status == Status.TARGET).all() and (result.objective_calls <= 80).all()
    assert torch.allclose(f(result.samples), wanted, atol=1e-3)
    other = cg.EvolutionStrategy(
        draws=16, population=16, generations=4, target=1e-6, solver=Euler(1), dtype=DOUBLE
    )(still(40), cost, seeds=SEEDS)
    assert (other.costs[:2] > 1e-2).all()
    assert torch.equal(result.evaluations, result.objective_calls)


def test_a_plain_cost_is_descended() -> None:
    cost = FunctionCost(lambda x, y: (x - y).square().sum(1), {"y": torch.eye(6, dtype=DOUBLE)[:4]})
    method = cg.TrustRegionSearch(draws=12, batch=4, rounds=25, solver=Euler(1), dtype=DOUBLE)
    result = method(still(6), cost, seeds=SEEDS)
    best = cg.BestOf(n=112, solver=Euler(1), dtype=DOUBLE)(still(6), cost, seeds=SEEDS)
    assert (result.costs < 0.02 * best.costs).all()
    assert (result.history["cost"].diff(dim=0) <= 0).all()
    assert (result.history["radius"][0] == 0.5).all()


def test_samples_end_where_the_region_has_shrunk_or_nothing_is_scored() -> None:
    flat = cg.TrustRegionSearch(rounds=40, smallest=0.05, solver=Euler(1), dtype=DOUBLE)
    result = flat(still(3), BlackBoxCost(lambda x: [1.0] * len(x)), seeds=SEEDS)
    assert (result.status == Status.CONVERGED_CHANGE).all()
    assert (result.objective_calls == 16 + 4 * 5).all()  # 0.5 · 0.6⁵ < 0.05

    def half(x: Tensor, y: Tensor) -> list[float]:
        rows = zip(x, y, strict=True)
        return [math.nan if v[0] < 0 else float((v - 1).square().sum() * w) for v, w in rows]

    lost = torch.tensor([1.0, math.nan, 1.0, 1.0])
    box = BlackBoxCost(half, per_sample={"y": lost})
    result = cg.TrustRegionSearch(solver=Euler(1), dtype=DOUBLE)(still(3), box, seeds=SEEDS)
    assert result.status[1] == Status.FAILED and result.costs[1] == math.inf
    assert (result.costs[[0, 2, 3]] < 0.02).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 1}, "draws: expected at least 2, got 1"),
        ({"batch": 0}, "batch: expected a positive integer"),
        ({"radius": 0.0}, "radius: expected a positive number"),
        ({"smallest": -1.0}, "smallest: expected a number >= 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cg.TrustRegionSearch(**options)
