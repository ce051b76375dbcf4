"""What the tests of D-Flow share: seeds, small networks, settings, when two results agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi, TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, GuidedStart
from ctrlgen.optimizers import LBFGS, Adam, GradientDescent
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Dopri5, Euler

D, M = 4, 2
SEEDS = [11, 5, 7, 2]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}

METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chi, target": {"regularizer": Chi(0.05), "target": -12.0},
    "target nll": {"regularizer": TargetNLL(0.05, probes=2), "solver": Euler(3)},
    "blend": {"initializer": Blend(0.3)},
    "guided": {"initializer": GuidedStart(4)},
    "adam": {"optimizer": Adam(learning_rate=0.05, max_iterations=8)},
    "descent": {"optimizer": GradientDescent(learning_rate=1e-3, max_iterations=8)},
    # The steps follow from an error estimate, a small difference: rounding is magnified there.
    "adaptive": {"solver": Dopri5(1e-6, 1e-6), "optimizer": LBFGS(max_iterations=2)},
}


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


class Network(nn.Module):
    """A small random velocity network of vectors, with a label."""

    def __init__(self, d: int = D, width: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.first = nn.Parameter(torch.randn(d + 1, width, generator=generator) / 2)
        self.last = nn.Parameter(torch.randn(width, d, generator=generator) / 2)
        self.embed = nn.Parameter(torch.randn(5, width, generator=generator))
        self.double().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        inputs = torch.cat((x, t.unsqueeze(1)), 1)
        return torch.tanh(inputs @ self.first + self.embed[label]) @ self.last


def method_of(name: str) -> DFlow:
    return DFlow(**{"optimizer": LBFGS(max_iterations=6), **METHODS[name], **DOUBLE})


def same(a: Result, b: Result, tolerance: float = 1e-10) -> None:
    """Results agree in everything, relative to the size of the numbers."""
    for name in ("samples", "controls", "costs"):
        left, right = getattr(a, name), getattr(b, name)
        assert torch.allclose(left, right, rtol=tolerance, atol=tolerance), name
    for name in ("status", "seeds", "iterations", "evaluations"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    length = min(len(a.history["cost"]), len(b.history["cost"]))
    for name in a.history:
        left, right = a.history[name][:length], b.history[name][:length]
        assert torch.allclose(left.double(), right.double(), rtol=tolerance, atol=tolerance), name
