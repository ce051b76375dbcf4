"""Runs on points of the plane, with faults on demand; imported by workers too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import Cost
from ctrlgen.methods import DFlow
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.runs.job import Job
from ctrlgen.runs.unsteered import Unsteered
from ctrlgen.solvers import Midpoint
from ctrlgen.testing.oracles import Mixture

RADIUS = 2.0


class Circle(Cost):
    """Squared distance to a circle, of a radius of every sample's own; raises for some seeds."""

    per_sample = ("radius", "raises")

    def __init__(self, radius: Tensor, raises: Tensor) -> None:
        self.radius, self.raises = radius, raises

    def forward(self, signal: Tensor) -> Tensor:
        if bool(self.raises.any()):
            raise ArithmeticError("no root of this one")
        return (signal.norm(dim=1) - self.radius).square()


def distance(signals: Tensor) -> Tensor:
    """From the origin."""
    return signals.norm(dim=1)


distance.unit = "m"  # type: ignore[attr-defined]
distance.better = "lower"  # type: ignore[attr-defined]


def hanging(signals: Tensor) -> list[float]:
    """Never ends for points on the right."""
    while bool((signals[:, 0] > 0.5).any()):
        time.sleep(0.005)
    return signals[:, 0].tolist()


def raising(signals: Tensor) -> list[float]:
    """Raises for points on the right."""
    if bool((signals[:, 0] > 0.5).any()):
        raise LookupError("off the map")
    return signals[:, 0].tolist()


METRICS: dict[str, Callable[[Tensor], Any]] = {
    "distance": distance, "hanging": hanging, "raising": raising,
}  # fmt: skip


@dataclass(frozen=True)
class Dying:
    """A method whose process is killed when it comes to a seed, unless a file is there."""

    method: Any
    seed: int
    file: str
    times: int = 1

    def __call__(self, prior: Prior, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
        if self.seed in list(seeds):
            deaths = Path(self.file)
            count = len(deaths.read_text()) if deaths.exists() else 0
            if count < self.times:
                deaths.write_text("x" * (count + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return self.method(prior, cost, seeds=seeds, observer=observer)


@dataclass(frozen=True)
class Points:
    """A plan of a run on points.

    Attributes:
        samples: seeds 0 to n − 1.
        batch: of a unit.
        steered: by D-Flow; drawn from the prior otherwise.
        raises: seeds whose cost raises.
        nan: seeds whose data is no number.
        metrics: names of `METRICS`.
        patience: of the job.
        dies: a seed at which the worker is killed, and the file that counts how often.
        times: how often.
    """

    samples: int = 24
    batch: int = 4
    steered: bool = True
    raises: tuple[int, ...] = ()
    nan: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ("distance",)
    patience: float | None = 60.0
    dies: tuple[int, str] | None = None
    times: int = 1

    def job(self) -> Job:
        eye = 0.1 * torch.eye(2)
        mixture = Mixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.stack((eye, eye)))
        method: Any = Unsteered(Midpoint(4))
        seeds = torch.arange(self.samples)
        cost = None
        if self.steered:
            method = DFlow(solver=Midpoint(3), optimizer=LBFGS(max_iterations=3))
            radius = torch.full((self.samples,), RADIUS)
            radius[list(self.nan)] = torch.nan
            cost = Circle(radius, torch.isin(seeds, torch.tensor(self.raises)))
        if self.dies is not None:
            method = Dying(method, *self.dies, self.times)
        metrics = {name: METRICS[name] for name in self.metrics}
        prior = Prior(mixture.flow(), Gaussian((2,)))
        return Job(prior, cost, method, seeds, self.batch, metrics, self.patience)
