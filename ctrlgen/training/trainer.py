r"""A training run: optimisers, averaged weights, schedule, checkpoints.

Hidden matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW, or all by AdamW.
The learning rate warms up, stays flat for a part of the budget and falls linearly to zero; the
weights kept are an exponential moving average. Every draw depends on (seed, step) alone and is made
on the device, the order of the data on the host, once an epoch, so that it is the same everywhere.

A step reads nothing back: losses and gradient norms add up on the device until they are asked for,
and a gradient that is not finite is left out there, by a flag that the optimisers read.

A checkpoint (weights, average, optimisers, step) is one safetensors file, replaced atomically;
training again with a longer budget extends the run. Another kind of device goes on from it with its
own batch and learning rate; its minutes are counted anew, the steps and their draws go on.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctrlgen.training.compilation import compile_blocks
from ctrlgen.training.optimizers import optimizers, skip_when
from ctrlgen.training.precision import precision, supports_bfloat16
from ctrlgen.training.schedule import DESCRIPTIVE, Schedule

__all__ = ["Order", "Reading", "Trainer", "generator"]


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of a device that depends on the key alone; each kind of device has its bits."""
    mixed = 0x9E3779B97F4A7C15
    for part in key:
        mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed)


class Order:
    """Which samples each step sees: epochs of fresh permutations, the remainder dropped.

    Args:
        count: samples.
        batch: samples of one step.
        seed: of the order.
        device: where the indices are needed.

    Raises:
        ValueError: the samples do not fill a batch.
    """

    def __init__(
        self, count: int, batch: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        if not 1 <= batch <= count:
            raise ValueError(f"batch: expected 1..{count}, the samples, got {batch}")
        self.count, self.batch, self.seed, self.device = count, batch, seed, device
        self._epoch, self._rows = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Indices (batch,) of one step."""
        epoch, offset = divmod(step, self.count // self.batch)
        if epoch != self._epoch:
            order = torch.randperm(self.count, generator=generator(self.seed, 1, epoch))
            self._epoch, self._rows = epoch, order.to(self.device)
        return self._rows[offset * self.batch : (offset + 1) * self.batch]


class Reading(NamedTuple):
    """Means since the last reading, over the steps whose gradient was finite; NaN of none.

    Attributes:
        loss: training loss.
        gradient: norm of the gradient before it was clipped to 1.
        skipped: steps whose gradient was not finite: they moved nothing.
    """

    loss: float
    gradient: float
    skipped: int


class Trainer(ABC):
    """One training run: `step` until the budget is spent, `save` and `load` at any time.

    Args:
        recipe: what to train, and how.
        seed: of the weights and of every draw.
        device: where to train.

    Attributes:
        outside: words in the names of matrices that Muon leaves to AdamW.
        dynamic: shapes of batches are variables to the compiler (`compilation.compile_blocks`).
        network, average: the weights and their moving average.
        steps, seconds: spent so far.
        precision: of the steps, by recipe and machine (`ctrlgen.training.precision`).
        compiled: the step runs compiled code.
        shape: of the last step's batch, where shapes differ; each is compiled once.
        earlier: recipes of earlier parts, when the run began from trained weights.
    """

    outside: ClassVar[tuple[str, ...]] = ("stem", "head")
    dynamic: bool | None = None

    def __init__(self, recipe: Schedule, seed: int, device: torch.device | str) -> None:
        self.schedule, self.seed, self.device = recipe, seed, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self.build().to(self.device)
            self.average = self.build().to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.precision = precision(recipe.autocast, self.device)
        products = torch.bfloat16 if supports_bfloat16(self.device) else torch.float32
        self.optimizers = optimizers(
            self.network, recipe.optimizer, recipe.lr, recipe.weight_decay, self.outside, products
        )
        self.compiled, self.shape = False, tuple[int, ...]()
        self.steps, self.seconds = 0, 0.0
        self.earlier: list[dict[str, Any]] = []
        self._tally, self._since = torch.zeros(3, device=self.device), 0
        self._weights: list[Tensor] = [*self.network.parameters()]
        self._averages: list[Tensor] = [*self.average.parameters()]

    @property
    def config(self) -> dict[str, Any]:
        """Keywords that build the network."""
        return self.schedule.config

    @abstractmethod
    def build(self) -> nn.Module:
        """The network of the recipe, untrained."""

    def compile(self) -> bool:
        """Compile the network's blocks: 1.5 to 2 times as fast, last digits differ.

        Needs a C++ compiler on the machine; the first steps take a minute or more.

        Returns:
            Whether the step runs compiled code.
        """
        compile_blocks(self.network, self.dynamic)
        return True

    def autocast(self) -> torch.autocast:
        """The context of a training step's evaluations: the run's precision."""
        half = self.precision is torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    @abstractmethod
    def loss(self, draw: torch.Generator) -> Tensor:
        """The mean training loss of step number `steps`; every random number comes from draw."""

    @abstractmethod
    def validate(self, count: int | None = None) -> float:
        """Loss of the averaged weights on held-out samples, all of them where count is None."""

    def quality(self) -> dict[str, float]:
        """What samples of the averaged weights are worth, by name; asked at every tenth of a run.

        Nothing is measured unless a domain says what.
        """
        return {}

    def step(self, progress: float) -> tuple[Tensor, Tensor]:
        """One optimiser step, without a word from the device.

        Args:
            progress: fraction of the budget that is spent.

        Returns:
            The loss and the norm of the gradient, scalars on the device.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.loss(generator(self.seed, 2, self.steps, device=self.device))
        loss.backward()
        norm = self.update(progress)
        with torch.no_grad():
            entry = torch.stack((loss.detach().float(), norm, torch.ones_like(norm)))
            self._tally += torch.where(norm.isfinite(), entry, 0)
        return loss.detach(), norm

    def update(self, progress: float) -> Tensor:
        """Move weights and averages by the gradients that lie there; returns their norm."""
        rate = self.schedule.rate(progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        norm = nn.utils.clip_grad_norm_(self._weights, 1.0)
        with skip_when(self.optimizers, ~norm.isfinite()):
            for optimizer in self.optimizers:
                optimizer.step()
        self.steps += 1
        decay = min(self.schedule.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        return norm

    def read(self) -> Reading:
        """What the steps since the last reading were like; waits for the device."""
        loss, norm, moved = self._tally.tolist()
        self._tally.zero_()
        count, self._since = self.steps - self._since, self.steps
        if not moved:
            return Reading(math.nan, math.nan, count)
        return Reading(loss / moved, norm / moved, count - round(moved))

    def wait(self) -> None:
        """Return when the device has done what it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def save(self, path: Path) -> None:
        """Write the whole state as one safetensors file, atomically."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in slots.items()}
        counts = {"steps": self.steps, "seconds": self.seconds, "earlier": self.earlier}
        state = {**counts, "seed": self.seed, "recipe": self.schedule.settings()}
        state["device"] = self.device.type
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, partial, {"state": json.dumps(state)}
        )
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Continue from `save`.

        Raises:
            ValueError: the checkpoint belongs to another recipe or seed.
        """
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
        ours = self.schedule.settings()
        # An older checkpoint lacks settings that recipes have gained: it had their defaults.
        gained = {f.name: f.default for f in fields(self.schedule) if f.default is not MISSING}
        gained = json.loads(json.dumps({key: gained[key] for key in gained if key in ours}))
        theirs = {**gained, **state["recipe"]}
        kind = state.get("device", "cpu")
        moved = kind != self.device.type
        if moved:  # each kind of device has its own batch and learning rate
            theirs |= {key: ours[key] for key in self.schedule.cuda if key in ours}
        if theirs != ours or state["seed"] != self.seed:
            raise ValueError(f"{path}: a checkpoint of another recipe or seed; pass resume=False")
        tensors = load_file(path, device=str(self.device))
        for part, network in (("network.", self.network), ("average.", self.average)):
            network.load_state_dict(
                {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
            )
        for i, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    index, slot = key.split(".")[2:]
                    slots.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.earlier = state.get("earlier", [])
        self._since = self.steps
        if moved:
            spent = {"seed": self.seed, "steps": self.steps, "seconds": round(self.seconds)}
            known = {k: v for k, v in state["recipe"].items() if k not in DESCRIPTIVE}
            self.earlier = [*self.earlier, {**known, **spent, "device": kind}]
            self.seconds = 0.0
