"""Runs in threads that share a prior: the same results, and each counts its own evaluations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods import DPS, DFlow, Method
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.sampling.grids import Uniform

METHODS = (
    DFlow(optimizer=LBFGS(max_iterations=3)),
    DPS(grid=Uniform(7), clock=None),
    DPS(grid=Uniform(13), clock=None),
)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return -torch.tanh(x) * t[:, None]


def cost(x: Tensor) -> Tensor:
    return (x - 0.3).square().sum(1)


def outcome(method: Method, prior: Prior, seeds: range, observer: Any = None) -> tuple[Any, ...]:
    result = method(prior, cost, seeds=seeds, observer=observer)
    return vars(result.network).copy(), result.evaluations.tolist(), result.samples


@pytest.mark.parametrize("rows", [1, 3])
def test_threads_that_share_a_prior_count_for_themselves(rows: int) -> None:
    prior = Prior(Flow(velocity, CondOT()), Gaussian((4,)))
    seeds = [range(10 * i, 10 * i + rows) for i in range(len(METHODS))]
    alone = [outcome(method, prior, s) for method, s in zip(METHODS, seeds, strict=True)]
    before, barrier = prior.flow.evaluations.copy(), Barrier(len(METHODS), timeout=60)

    def run(i: int) -> tuple[Any, ...]:
        waits = [1, 1]  # all are in the middle of their runs at once, twice

        def meet(event: Any) -> None:
            if waits:
                waits.pop()
                barrier.wait()

        return outcome(METHODS[i], prior, seeds[i], meet)

    with ThreadPoolExecutor(len(METHODS)) as pool:
        together = list(pool.map(run, range(len(METHODS))))
    for (network, evaluations, samples), expected in zip(together, alone, strict=True):
        assert network == expected[0] and evaluations == expected[1]
        torch.testing.assert_close(samples, expected[2])
    spent = vars(prior.flow.evaluations - before)
    assert spent["forward"] == sum(network["forward"] for network, _, _ in together)
