"""Whole runs on the priors that ship: the device against the CPU, and alone against in a batch."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen import load
from ctrlgen.costs import FunctionCost
from ctrlgen.methods import DFlow
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.prior import Prior, available
from ctrlgen.solvers import Midpoint

SEEDS = [101, 7, 33]
NAMES = sorted(available())


@functools.cache
def bound(name: str, device: str) -> Prior:
    prior = load(name, device=device)
    assert prior.card is not None
    conditions: dict[str, Any] = {key: [1, 0, 3] for key in prior.card.conditions}
    conditions |= {key: [7, 5, 6] for key in ("counts", "frames") if key in conditions}
    return prior.bind(**conditions).to(device)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).flatten(1).square().mean(1)


def run(name: str, device: str, index: list[int], optimizer: Any) -> Result:
    at = torch.tensor(index)
    prior = bound(name, device).take(at)
    truth = bound(name, "cpu").sample([1, 2, 3], Midpoint(2))[at]
    cost = FunctionCost(distance, {"y": truth}).to(device)
    method = DFlow(solver=Midpoint(2), optimizer=optimizer, device=device)
    return method(prior, cost, seeds=[SEEDS[i] for i in index])


def apart(a: Tensor, b: Tensor) -> float:
    """Largest distance of rows of a from those of b, relative to these."""
    a, b = a.detach().cpu().flatten(1), b.detach().cpu().flatten(1)
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_that_of_the_cpu(name: str, place: torch.device) -> None:
    here, there = (bound(name, device).sample(SEEDS, Midpoint(3)) for device in ("cpu", place.type))
    assert there.device.type == place.type
    assert apart(there, here) <= 1e-3


@pytest.mark.parametrize(
    "optimizer",
    [Adam(learning_rate=0.02, max_iterations=10), LBFGS(max_iterations=10)],
    ids=["adam", "lbfgs"],
)
@pytest.mark.parametrize("name", NAMES)
def test_ten_iterations_are_those_of_the_cpu(
    name: str, optimizer: Any, place: torch.device
) -> None:
    here, there = (run(name, device, [0, 1, 2], optimizer) for device in ("cpu", place.type))
    assert there.samples.device.type == place.type
    assert torch.allclose(there.costs.cpu(), here.costs, rtol=1e-3, atol=1e-6)
    assert apart(there.samples, here.samples) <= 1e-3
    assert torch.equal(there.iterations.cpu(), here.iterations)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_see_its_batch(name: str, place: torch.device) -> None:
    optimizer = Adam(learning_rate=0.02, max_iterations=5)
    whole, alone = (run(name, place.type, rows, optimizer) for rows in ([0, 1, 2], [1]))
    assert apart(alone.samples, whole.samples[1:2]) <= 1e-3
    assert int(alone.iterations[0]) == int(whole.iterations[1])
