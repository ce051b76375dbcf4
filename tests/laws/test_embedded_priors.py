"""Law 1 on the priors that ship: whole runs of D-Flow, alone and in a batch.

Ten iterations of L-BFGS through six evaluations of a network magnify a rounding error of 1e-7 ten
thousand times, so the networks of these priors round alike in every batch.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen import load
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.operators import OPERATORS
from ctrlgen.methods import DFlow
from ctrlgen.methods.result import Result
from ctrlgen.operators.base import measure
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.prior import Prior, available
from ctrlgen.solvers import Midpoint

SEEDS = [101, 7, 33]
DTYPES = [torch.float32, torch.float64]
# Operators, ranges and tasks are those of images; molecules have laws of their own.
IMAGES = sorted(name for name, card in available().items() if card.domain == "images")
embedded = pytest.mark.parametrize("name", IMAGES)


@functools.cache
def conditional(name: str, dtype: torch.dtype) -> Prior:
    """With another label for every sample, where the prior takes one."""
    prior = load(name, dtype=dtype)
    assert prior.card is not None
    return prior.bind(**{key: [1, 0, 3] for key in prior.card.conditions})


@embedded
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_network_rounds_alike_in_every_batch(name: str, rows: int) -> None:
    prior = load(name)
    x = prior.source.sample(range(7)).requires_grad_()
    t = torch.linspace(0.1, 0.9, 7)

    def run(index: slice) -> tuple[Tensor, Tensor]:
        v = prior.flow.velocity(x[index], t[index])
        return v, torch.autograd.grad(v.square().sum(), x)[0][index]

    for alone, one in zip(run(slice(2, 2 + rows)), run(slice(None)), strict=True):
        assert torch.equal(alone, one[2 : 2 + rows])


def arguments(task: str, prior: Prior) -> dict[str, Any]:
    if task == "inpaint-centre":
        return {"size": 10, "shape": prior.source.shape}
    return {"factor": 2} if task in ("block-average", "super-resolution") else {}


def relative(a: Tensor, b: Tensor) -> float:
    """Largest distance of rows of a from those of b, relative to these."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("task", ["block-average", "super-resolution", "gaussian-blur"])
def test_an_operator_rounds_alike_in_every_batch(task: str) -> None:
    """Beside the network the only part of these runs that is more than elementwise."""
    prior = load("cifar10")
    operator = OPERATORS[task](**arguments(task, prior))
    x = prior.source.sample(range(7)).requires_grad_()

    def run(index: slice) -> tuple[Tensor, Tensor]:
        y = operator(x[index])
        return y, torch.autograd.grad(y.square().sum(), x)[0][index]

    for rows in (1, 2, 5):
        for alone, one in zip(run(slice(2, 2 + rows)), run(slice(None)), strict=True):
            assert torch.equal(alone, one[2 : 2 + rows])


@pytest.mark.parametrize(
    ("name", "dtype", "task", "iterations", "tolerance"),
    [
        ("mnist", torch.float32, "super-resolution", 10, 1e-4),
        ("cifar10", torch.float32, "gaussian-blur", 10, 1e-4),
        ("mnist", torch.float64, "block-average", 3, 1e-10),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_a_sample_does_not_see_its_batch(
    name: str, dtype: torch.dtype, task: str, iterations: int, tolerance: float
) -> None:
    prior = conditional(name, dtype)
    truth = prior.sample([1, 2, 3], Midpoint(3), dtype=dtype).clamp(-1, 1)
    operator = OPERATORS[task](**arguments(task, prior))
    cost = NegativePSNR(operator, measure(operator, truth, 0.05, seeds=SEEDS), 0.05)
    method = DFlow(optimizer=LBFGS(max_iterations=iterations), dtype=dtype)

    def run(index: list[int]) -> Result:
        at = torch.tensor(index)
        return method(prior.take(at), cost.take(at), seeds=[SEEDS[i] for i in index])

    whole = run([2, 0, 1]).take(torch.tensor([1, 2, 0]))
    assert whole.iterations.tolist() == [iterations] * 3
    assert bool((whole.costs < whole.history["cost"][0] - 3).all())  # 3 dB and more
    alone, one = run([1]), whole.take(torch.tensor([1]))
    assert relative(alone.samples, one.samples) <= tolerance
    assert torch.allclose(alone.costs, one.costs, rtol=tolerance, atol=0)
    assert torch.equal(alone.evaluations, one.evaluations)


@embedded
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_are_those_of_their_seeds(name: str, dtype: torch.dtype) -> None:
    prior = conditional(name, dtype)
    together = prior.sample(SEEDS, Midpoint(3), dtype=dtype)
    assert together.shape[1:] == prior.source.shape and together.isfinite().all()
    alone = prior.take(torch.tensor([1])).sample(SEEDS[1:2], Midpoint(3), dtype=dtype)
    assert relative(alone, together[1:2]) <= (1e-4 if dtype == torch.float32 else 1e-12)
    assert torch.equal(prior.sample(SEEDS, Midpoint(3), dtype=dtype), together)
