"""DAPS against its closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from ctrlgen.costs import FunctionCost, SquaredError
from ctrlgen.methods import DAPS
from ctrlgen.operators.base import LinearOperator, dense
from ctrlgen.priors.paths import EDM, CondOT, Path
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import Karras
from ctrlgen.testing.oracles import Mixture, gaussian
from tests.methods.gaussian_runs import DOUBLE, SEEDS, SMALL, D, M, a_run, denoised, rows

Build = Callable[..., Any]


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.fixture
def law(mixture: Build) -> Mixture:
    """A Gaussian."""
    return mixture(1, D, seed=2)


@pytest.mark.parametrize("likelihood", ["derived", "released"])
@pytest.mark.parametrize("path", [EDM(0.002, 100.0), CondOT()], ids=["edm", "condot"])
def test_daps_by_hand(
    path: Path, likelihood: Any, law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    """Variance-exploding states, whatever the clock: Euler in r, Langevin, noise."""
    y = rows(M, stream=4)
    cost, matrix = SquaredError(operator, y), dense(operator, (D,))
    method = DAPS(
        grid=Karras(3, 0.2, 50.0), clock=path, ode_steps=2, langevin_steps=2, rate=1e-3,
        noise=0.3, rate_end=0.1, likelihood=likelihood, **DOUBLE,
    )  # fmt: skip
    run = a_run(method, prior_of(law), cost)
    twice = 2 if likelihood == "released" else 1
    radii = [50.0, (50 ** (1 / 7) / 2 + 0.2 ** (1 / 7) / 2) ** 7, 0.2, 0.0]
    x = 50.0 * rows(D, stream=0)
    for step, (r, after) in enumerate(pairwise(radii)):
        middle = (r ** (1 / 7) / 2 + 0.01 ** (1 / 7) / 2) ** 7
        for now, then in ((r, middle), (middle, 0.01)):
            x = x + (then - now) * (x - denoised(law, x, 1.0, now)) / now
        centre, rate = x, 1e-3 * (1 - 0.9 * step / 3)
        for turn in range(2):
            drift = (centre - x) / r**2 - twice * (x @ matrix.T - y) @ matrix / 0.09
            x = x + rate * drift + math.sqrt(2 * rate) * run.noise(step, x, turn + 1)
        x = x + after * run.noise(step, x)
    result = method(prior_of(law), cost, seeds=SEEDS)
    assert torch.allclose(result.samples, x, rtol=0, atol=1e-7)


def test_daps_samples_the_posterior_of_a_gaussian(matrix_operator: Build, prior_of: Build) -> None:
    """Spread and mean of many runs against the closed form, to the bias of the method."""
    law = gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 4.0]).double()))
    seeds, noise = list(range(400)), 0.5
    operator = matrix_operator(torch.tensor([[1.0, 0.0]]).double())
    y = torch.full((len(seeds), 1), 1.5, dtype=torch.float64)
    method = DAPS(
        grid=Karras(12, 0.1, 60.0),
        langevin_steps=15,
        rate=0.05,
        rate_end=0.2,
        noise=noise,
        **DOUBLE,
    )
    result = method(prior_of(law), SquaredError(operator, y), seeds=seeds)
    truth = law.posterior(dense(operator, (2,)), y[0], noise)
    error = (result.samples.mean(0) - truth.mean).abs()
    spread = result.samples.std(0) / truth.covariance.diagonal().sqrt()
    assert (error < 0.3).all(), error
    assert ((spread > 0.8) & (spread < 1.3)).all(), spread


def test_daps_takes_the_noise_of_the_measurement(
    law: Mixture, operator: LinearOperator, prior_of: Build
) -> None:
    y, method = rows(M, stream=4), SMALL["daps"]
    known = method(prior_of(law), SquaredError(operator, y, 0.1), seeds=SEEDS)
    asked = replace(method, noise=None)(prior_of(law), SquaredError(operator, y, 0.1), seeds=SEEDS)
    assert torch.equal(known.samples, asked.samples)
    for cost in (SquaredError(operator, y), FunctionCost(lambda x: x.square().sum(1))):
        with pytest.raises(ValueError, match="noise"):
            replace(method, noise=None, fidelity="cost")(prior_of(law), cost, seeds=SEEDS)
