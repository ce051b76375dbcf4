"""What the parts measure: priors, batches, repeats; the embedded ones, or tiny ones to rehearse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.molecules import Problem, problem, untrained
from ctrlgen.domains.images.networks import build
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.scoring import GUIDES
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior, load
from ctrlgen.priors.sources import Gaussian

__all__ = ["REAL", "TINY", "Sizes", "Workbench", "synchronise"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        batches: of the overhead, in order of value.
        repeats: of a timing.
        budget: network evaluations of a method's run.
        images, molecules: in a batch of D-Flow.
        alone: of them one by one with torch's L-BFGS.
        calls: of the objective, at most.
        steps: midpoint steps of the molecules.
        peaks: midpoint steps of the solves whose memory is measured.
        training_steps: optimiser steps of a throughput, after as many to warm up.
        trained: optimiser steps of the training; None for as long as there is time.
    """

    batches: tuple[int, ...] = (256, 16, 1, 1024)
    repeats: int = 3
    budget: int = 24
    images: int = 256
    molecules: int = 256
    alone: int = 3
    calls: int = 200
    steps: int = 20
    peaks: tuple[int, ...] = (3, 50)
    training_steps: int = 30
    trained: int | None = None


REAL = Sizes()
TINY = Sizes(
    batches=(2,), repeats=1, budget=3, images=3, molecules=3, alone=1, calls=3, steps=2,
    peaks=(2,), training_steps=2, trained=3,
)  # fmt: skip


def synchronise(device: torch.device) -> None:
    """Wait for what was launched on a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Workbench:
    """The priors of a session.

    Attributes:
        device: where they live.
        sizes: how much is measured.
        tiny: random networks of a few weights in place of the embedded ones.
        data: packed training data by data set, e.g. {"qm9": file}.
        networks: those that are trained; all whose data are there when empty.
    """

    device: torch.device
    sizes: Sizes
    tiny: bool
    data: dict[str, Path]
    networks: tuple[str, ...] = ()

    @cached_property
    def no_compiler(self) -> str:
        """Why torch.compile cannot be used, as for want of a compiler; empty where it can."""
        if self.tiny:
            return "not tried: it takes a processor minutes"
        try:
            torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=self.device))
        except Exception as error:  # torch wraps it in one of many
            return f"{type(error).__name__}: {error}"[:500]
        return ""

    @cached_property
    def images(self) -> Prior:
        """Of images."""
        if not self.tiny:
            return load("cifar10", device=self.device)
        torch.manual_seed(0)
        shape = (3, 8, 8)
        network = build("transformer", shape=shape, classes=10, width=16, depth=1, heads=2)
        for parameter in network.parameters():
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.02)
        network.eval().requires_grad_(False).to(self.device)
        return Prior(Flow(network, CondOT()), Gaussian(shape))

    def truth(self, count: int) -> Tensor:
        """Images (count, C, H, W) in [-1, 1] to measure: draws of the prior."""
        seeds, prior = torch.arange(count), self.images
        drawn = [prior.sample(part, prior.solver(10)) for part in seeds.split(256)]
        return torch.cat(drawn).clamp(-1, 1)

    @cached_property
    def molecules(self) -> Problem:
        """Molecules on their way to a gap."""
        sizes = self.sizes
        if self.tiny:
            model, guide = untrained("qm9-heavy", width=16, depth=1, guide_width=16)
            model.flow.to(self.device)
            guide.to(self.device)
        else:
            model = load("qm9-heavy", device=self.device)
            guide = regressor(GUIDES[alphabet_of(model)], str(self.device))
        return problem(model, guide, sizes.molecules, sizes.steps, min(sizes.calls, 25))
