"""Law 5: nothing is assumed of a state beyond its batch dimension, in whole runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi, TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, GuidedStart, SourceSample
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.likelihood import log_likelihood
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Dopri5, Midpoint

SIZE = 12
SHAPES = [(12,), (3, 4), (2, 3, 2), (1, 2, 3, 2), (12, 1)]
SEEDS = [5, 1, 9]
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"initializer": SourceSample()},
    "blend": {"initializer": Blend(0.3, rescale=True), "regularizer": Chi(0.1)},
    "guided": {"initializer": GuidedStart(3), "regularizer": TargetNLL(0.1)},
    "adam": {"optimizer": Adam(max_iterations=3), "solver": Dopri5(1e-3, 1e-3)},
}


class Weights(LinearOperator):
    """y = w ⊙ x for states of any shape of twelve numbers."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weight = torch.linspace(0.2, 1.3, SIZE, dtype=torch.float64).reshape(1, *shape)

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(self.weight.to(x), *([lambda v: v] * 4))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The same function of the twelve numbers, however they are laid out."""
    flat = x.reshape(len(x), SIZE)
    rolled = torch.tanh(flat + flat.roll(1, dims=1)) - expand_like(t, flat) * flat
    return rolled.reshape(x.shape)


def prior(shape: tuple[int, ...]) -> Prior:
    return Prior(Flow(velocity, CondOT()), Gaussian(shape))


def run(shape: tuple[int, ...], name: str) -> Result:
    y = normal(SEEDS, shape, 8, dtype=torch.float64)
    cost = NegativePSNR(Weights(shape), y, floor=1e-3) + 0.1 * Reversed(y)
    settings = {"optimizer": LBFGS(max_iterations=3), **METHODS[name], "dtype": torch.float64}
    return DFlow(**settings)(prior(shape), cost, seeds=SEEDS)


@pytest.mark.parametrize("name", METHODS)
def test_runs_are_the_same_in_every_layout(name: str) -> None:
    first = run(SHAPES[0], name)
    for shape in SHAPES[1:]:
        other = run(shape, name)
        assert other.samples.shape == other.controls.shape == (3, *shape)
        assert torch.allclose(other.samples.reshape(3, SIZE), first.samples, rtol=0, atol=1e-9)
        assert torch.allclose(other.costs, first.costs, rtol=0, atol=1e-8)
        assert torch.equal(other.evaluations, first.evaluations)


@pytest.mark.parametrize("seeds", [None, SEEDS], ids=["exact", "estimated"])
def test_likelihoods_are_the_same_in_every_layout(seeds: Any) -> None:
    x = normal(SEEDS, (SIZE,), 3, dtype=torch.float64)
    first = log_likelihood(prior(SHAPES[0]), x, Midpoint(2), seeds=seeds)
    for shape in SHAPES[1:]:
        other = log_likelihood(prior(shape), x.reshape(3, *shape), Midpoint(2), seeds=seeds)
        assert torch.allclose(other, first, rtol=0, atol=1e-10)


def test_states_of_one_number() -> None:
    """Scalars per sample, shape (B, 1): the smallest problem there is."""
    small = Prior(Flow(lambda x, t: torch.tanh(x), CondOT()), Gaussian((1,)))

    class Same(Weights):
        def __init__(self) -> None:
            self.weight = torch.ones(1, 1, dtype=torch.float64)

    y = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    result = DFlow(dtype=torch.float64)(small, SquaredError(Same(), y), seeds=[1, 2])
    assert torch.allclose(result.samples, y, rtol=0, atol=1e-4)
    assert math.isfinite(float(result.costs.max()))
