"""A target that noise meets asks for nothing, and is questioned before any compute."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.operators import Denoise
from ctrlgen.methods import DFlow, DMPlug, FlowGrad, Method, OCFlow, OptimalControl
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import Doubtful

FEW = Adam(max_iterations=1)
METHODS: dict[str, type[Method]] = {
    m.__name__: m for m in (DFlow, DMPlug, FlowGrad, OCFlow, OptimalControl)
}


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return -x


def built(name: str, target: float) -> Method:
    if name == "OptimalControl":
        return OptimalControl(iterations=1, rank=0, target=target)
    optimizer = LBFGS(max_iterations=1) if name == "DFlow" else FEW
    return METHODS[name](optimizer=optimizer, target=target)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", METHODS)
def test_a_target_that_noise_meets_is_questioned(name: str) -> None:
    prior = Prior(Flow(velocity, CondOT()), Gaussian((1, 4, 4)))
    cost = NegativePSNR(Denoise(), torch.full((2, 1, 4, 4), 0.5))
    with pytest.warns(Doubtful, match=r"target: 40.0 is met by noise.*40 dB of NegativePSNR"):
        built(name, 40.0)(prior, cost, seeds=range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Doubtful)
        built(name, -40.0)(prior, cost, seeds=range(2))


def test_every_sample_may_have_a_target_of_its_own() -> None:
    """Each row ends where it would alone, whatever its mates are sent for."""
    prior = Prior(Flow(velocity, CondOT()), Gaussian((1, 4, 4)))
    y = torch.stack([torch.full((1, 4, 4), level) for level in (0.5, -0.2)])
    targets = torch.tensor([-12.0, -30.0])
    steps = LBFGS(max_iterations=20)
    both = DFlow(optimizer=steps, target=targets)(prior, NegativePSNR(Denoise(), y), seeds=[4, 5])
    assert bool((both.costs <= targets).all())
    for row in range(2):
        cost = NegativePSNR(Denoise(), y[row : row + 1])
        alone = DFlow(optimizer=steps, target=float(targets[row]))(prior, cost, seeds=[4 + row])
        assert torch.equal(alone.objective_calls, both.objective_calls[row : row + 1])
        torch.testing.assert_close(alone.samples, both.samples[row : row + 1])
    with pytest.raises(ValueError, match="target: expected one number or shape"):
        DFlow(target=targets)(prior, NegativePSNR(Denoise(), y[:1]), seeds=[4])
