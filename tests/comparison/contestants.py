"""A Gaussian prior of six numbers, its problems, and methods of known rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

import ctrlgen as cg
from ctrlgen.costs import SquaredError
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import as_seeds, normal
from ctrlgen.rows.status import Status
from ctrlgen.testing.oracles import gaussian

SHAPE, NOISE = (1, 2, 3), 0.3
LAW = gaussian(torch.zeros(6), torch.diag(torch.linspace(0.05, 0.4, 6)), SHAPE)


def prior() -> Prior:
    return Prior(LAW.flow(), cg.Gaussian(SHAPE))


def problem(count: int = 6, truth: bool = True) -> cg.InverseProblem:
    made = cg.InverseProblem.of(cg.images.Denoise(), LAW.sample(range(count)), NOISE, range(count))
    return made if truth else cg.InverseProblem(made.operator, made.y, NOISE)


@dataclass(frozen=True)
class Shrunk(Method):
    """S(S + σ²)⁻¹y, the posterior's mean, times a number; or draws of the posterior.

    Attributes:
        factor: 1 is the best there is.
        sample: whether to draw.
        fails: seeds that raise.
        spends: evaluations of the network.
        dies: a file; where it is missing it is made, and the process killed.
    """

    control: ClassVar[str] = "nothing"
    needs: ClassVar[str] = "a measurement"
    knob: ClassVar[tuple[str, ...]] = ("factor",)
    cost_form = "squared"

    factor: float = 1.0
    sample: bool = False
    fails: tuple[int, ...] = ()
    spends: int = 2
    dies: str = ""

    def __call__(self, prior: Prior, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
        if self.dies and not Path(self.dies).exists():
            Path(self.dies).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if set(self.fails) & set(map(int, seeds)):
            raise ArithmeticError("no root of this one")
        assert isinstance(cost, SquaredError)
        rows = as_seeds(seeds)
        x0 = prior.start(rows)
        metered, meter = prior.metered(rows)
        for _ in range(self.spends):
            metered.predict(x0, torch.full((len(rows),), 0.5))
        s = torch.linspace(0.05, 0.4, 6).reshape(SHAPE)
        x = self.factor * s / (s + NOISE**2) * cost.y
        if self.sample:
            x = x + (s * NOISE**2 / (s + NOISE**2)).sqrt() * normal(rows, SHAPE, 77)
        zero = torch.zeros_like(rows)
        return Result(
            samples=x, controls=x0, costs=cost(x), seeds=rows, iterations=zero,
            status=torch.full_like(rows, int(Status.FINISHED)), evaluations=meter.evaluations,
            backward_passes=meter.backward_passes, objective_calls=zero, network=meter.total,
            method=repr(self),
        )  # fmt: skip


Fixed = Callable[[int], Method]
"""Methods whose settings do not depend on the budget."""


def fixed(**settings: Any) -> Fixed:
    return lambda _: Shrunk(**settings)
