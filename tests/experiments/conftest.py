"""What tests of experiments share: a prior that costs nothing, and a check that none was asked."""

from __future__ import annotations

import pytest
import torch

import ctrlgen
from ctrlgen.domains.images.networks import build
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name and the card of the MNIST prior, over a network of a few weights."""
    card = ctrlgen.load("mnist").card
    shape = [1, 28, 28]
    network = build("unet", shape=shape, classes=3, mean=-0.7, std=0.6, widths=[4])
    prior = Prior(Flow(network, CondOT()), Gaussian(shape), card=card)
    monkeypatch.setattr(ctrlgen, "load", lambda name, device: prior)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation of a network fails."""

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("the network was evaluated")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
