r"""A training run: optimisers, averaged weights, schedule, checkpoints.

Hidden matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW, or all by AdamW.
The learning rate warms up, stays flat for a part of the budget and falls linearly to zero; the
weights kept are an exponential moving average. Every draw depends on (seed, step) alone. A
checkpoint (weights, average, optimisers, step) is one safetensors file, replaced atomically;
training again with a longer budget extends the run.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctrlgen.training.muon import Muon
from ctrlgen.training.precision import precision, supports_bfloat16

__all__ = ["Schedule", "Trainer", "batch_indices", "generator"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the weights move; recipes extend it by what is trained.

    Attributes:
        batch: samples per step.
        optimizer: "muon" (hidden matrices by Muon, the rest by AdamW) or "adamw".
        lr: peak learning rate.
        weight_decay: decoupled decay per unit of learning rate.
        average: decay of the averaged weights, approached from below.
        warmup: fraction of the budget until the peak.
        flat: fraction of the budget after which the rate falls.
        autocast: bfloat16 is safe; it is used where the machine has units for it.
    """

    batch: int = 64
    optimizer: str = "muon"
    lr: float = 4e-3
    weight_decay: float = 0.01
    average: float = 0.999
    warmup: float = 0.03
    flat: float = 0.5
    autocast: bool = True

    def rate(self, progress: float) -> float:
        """Learning rate at a fraction of the budget: warm-up, flat, linear to zero."""
        fall = (1 - progress) / (1 - self.flat)
        return self.lr * max(0.0, min(1.0, fall, 0.01 + progress / self.warmup))


def generator(*key: int) -> torch.Generator:
    """A generator that depends on the key alone."""
    mixed = 0x9E3779B97F4A7C15
    for part in key:
        mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed)


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of one step: epochs of fresh permutations, the remainder dropped."""
    epoch, offset = divmod(step, count // batch)
    order = torch.randperm(count, generator=generator(seed, 1, epoch))
    return order[offset * batch : (offset + 1) * batch]


def optimizers(
    network: nn.Module, schedule: Schedule, outside: Sequence[str], dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices whose names hold no word of outside, AdamW for the rest.

    Args:
        network: what is trained.
        schedule: kind and settings.
        outside: words in the names of matrices that Muon leaves to AdamW.
        dtype: of Muon's products.

    Raises:
        ValueError: an unknown kind of optimiser.
    """
    if schedule.optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer: expected 'muon' or 'adamw', got {schedule.optimizer!r}")
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        inside = parameter.ndim >= 2 and not any(part in name for part in outside)
        (hidden if inside and schedule.optimizer == "muon" else other).append(parameter)
    lr, decay = schedule.lr, schedule.weight_decay
    adamw = torch.optim.AdamW(other, lr=lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    return [adamw, *([Muon(hidden, lr, decay, dtype=dtype)] if hidden else [])]


class Trainer(ABC):
    """One training run: `step` until the budget is spent, `save` and `load` at any time.

    Args:
        recipe: what to train, and how.
        seed: of the weights and of every draw.
        device: where to train.

    Attributes:
        outside: words in the names of matrices that Muon leaves to AdamW.
        network, average: the weights and their moving average.
        steps, seconds: spent so far.
        precision: of the steps, by recipe and machine (`ctrlgen.training.precision`).
        compiled: the step runs compiled code.
        shape: of the last step's batch, where shapes differ; each is compiled once.
        earlier: recipes of earlier parts, when the run began from trained weights.
    """

    outside: ClassVar[tuple[str, ...]] = ("stem", "head")

    def __init__(self, recipe: Schedule, seed: int, device: torch.device | str) -> None:
        self.schedule, self.seed, self.device = recipe, seed, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self.build().to(self.device)
            self.average = self.build().to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.precision = precision(recipe.autocast, self.device)
        products = torch.bfloat16 if supports_bfloat16(self.device) else torch.float32
        self.optimizers = optimizers(self.network, recipe, self.outside, products)
        self.compiled, self.shape = False, tuple[int, ...]()
        self.steps, self.seconds = 0, 0.0
        self.earlier: list[dict[str, Any]] = []

    @abstractmethod
    def build(self) -> nn.Module:
        """The network of the recipe, untrained."""

    @abstractmethod
    def compile(self) -> None:
        """Compile the training step's network: 1.5 to 2 times as fast, last digits differ.

        Needs a C++ compiler on the machine; the first steps take minutes.
        """

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

    def step(self, progress: float) -> tuple[float, float]:
        """One optimiser step; returns the loss and the norm of the gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.rate(progress)
        loss = self.loss(generator(self.seed, 2, self.steps))
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), 1.0))
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        self.steps += 1
        decay = min(self.schedule.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )
        return float(loss.detach()), norm

    def save(self, path: Path) -> None:
        """Write the whole state as one safetensors file, atomically."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in slots.items()}
        counts = {"steps": self.steps, "seconds": self.seconds, "earlier": self.earlier}
        state = {**counts, "seed": self.seed, "recipe": asdict(self.schedule)}
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
        ours = json.loads(json.dumps(asdict(self.schedule)))
        # An older checkpoint lacks settings that recipes have gained: it had their defaults.
        gained = {f.name: f.default for f in fields(self.schedule) if f.default is not MISSING}
        theirs = {**json.loads(json.dumps(gained)), **state["recipe"]}
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
