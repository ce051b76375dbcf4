r"""The training loop of the embedded image priors: conditional flow matching.

With x_0 ~ N(0, I), x_1 from the data, x_t = t x_1 + (1 - t) x_0, the network minimises
E |v(x_t, t, label) - (x_1 - x_0)|^2 (Lipman et al. 2023, eqs. 22-23). Labels are dropped with
some probability, so that one network is conditional and unconditional (Ho & Salimans 2022). Hidden
matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW; the learning rate
warms up, stays flat for half of the budget and falls linearly to zero; the weights kept are an
exponential moving average.

Every draw depends on (seed, step) alone. A checkpoint (weights, average, optimiser, step) is one
safetensors file, replaced atomically; training again with a longer budget extends the run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctrlgen.domains.images.data import Images
from ctrlgen.domains.images.muon import Muon
from ctrlgen.domains.images.networks import build

__all__ = ["Recipe", "Trainer", "batch_indices", "flow_matching_loss"]


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        name: of the prior and its files.
        dataset: "mnist" or "cifar10".
        config: network configuration for `networks.build`.
        batch: images per step.
        optimizer: "muon" (hidden matrices by Muon, the rest by AdamW) or "adamw".
        lr: peak learning rate.
        flips: mirror half of the images.
        dropout: probability of the null label.
        times: "uniform" or "logit-normal" training times.
        validation: images held back from the end of the training split.
    """

    name: str
    dataset: str
    config: dict[str, Any]
    batch: int = 64
    optimizer: str = "muon"
    lr: float = 4e-3
    weight_decay: float = 0.01
    flips: bool = False
    dropout: float = 0.1
    times: str = "uniform"
    average: float = 0.999
    warmup: float = 0.03
    flat: float = 0.5
    validation: int = 1000
    autocast: bool = True


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on the key alone."""
    mixed = 0x9E3779B97F4A7C15
    for part in key:
        mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed)


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of one step: epochs of fresh permutations, the remainder dropped."""
    epoch, offset = divmod(step, count // batch)
    order = torch.randperm(count, generator=_generator(seed, 1, epoch))
    return order[offset * batch : (offset + 1) * batch]


def flow_matching_loss(
    network: Callable[..., Tensor], data: Tensor, noise: Tensor, t: Tensor, label: Tensor | None
) -> Tensor:
    """|v(x_t, t, label) - (x_1 - x_0)|^2 averaged over the coordinates, one value per sample."""
    time_ = t.view(-1, *[1] * (data.ndim - 1))
    error = network(time_ * data + (1 - time_) * noise, t, label=label) - (data - noise)
    return error.square().flatten(1).mean(dim=1)


def _optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices inside the network, AdamW for the rest."""
    if recipe.optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer: expected 'muon' or 'adamw', got {recipe.optimizer!r}")
    outside = ("stem", "head", "conditioning", "position", "offset", "bias", "smooth", "final")
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        inside = parameter.ndim >= 2 and not any(part in name for part in outside)
        (hidden if inside and recipe.optimizer == "muon" else other).append(parameter)
    adamw = torch.optim.AdamW(
        other, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    return [adamw, *([Muon(hidden, recipe.lr, recipe.weight_decay)] if hidden else [])]


class Trainer:
    """One training run: `step` until the budget is spent, `save` and `load` at any time.

    Args:
        recipe: what to train.
        data: the whole training split; its last `recipe.validation` images are only validated on.
        seed: of the weights and of every draw.
        device: where to train.
    """

    def __init__(
        self, recipe: Recipe, data: Images, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.recipe, self.seed, self.device = recipe, seed, torch.device(device)
        self.train_set = Images(*(part[: -recipe.validation] for part in data))
        self.validation_set = Images(*(part[-recipe.validation :] for part in data))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self.build().to(self.device)
            self.average = self.build().to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizers = _optimizers(self.network, recipe)
        self.steps, self.seconds = 0, 0.0
        self.earlier: list[dict[str, Any]] = []
        self.velocity: Callable[..., Tensor] = self.network

    def compile(self) -> None:
        """Compile the training step's network: half as fast again on a CPU, last digits differ.

        Needs a C++ compiler on the machine; the first step takes a minute.
        """
        self.velocity = torch.compile(self.network)

    def build(self) -> nn.Module:
        """The network of the recipe."""
        return build(**self.recipe.config)

    def rate(self, progress: float) -> float:
        """Learning rate at a fraction of the budget: warm-up, flat, linear to zero."""
        fall = (1 - progress) / (1 - self.recipe.flat)
        return self.recipe.lr * max(0.0, min(1.0, fall, 0.01 + progress / self.recipe.warmup))

    def step(self, progress: float) -> tuple[float, float]:
        """One optimiser step; returns the loss and the norm of the gradient."""
        recipe, (images, labels) = self.recipe, self.train_set
        draw = _generator(self.seed, 2, self.steps)
        chosen = batch_indices(len(images), recipe.batch, self.seed, self.steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self.rate(progress)
        loss = self.loss(images[chosen], labels[chosen], draw)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), 1.0))
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        self.steps += 1
        decay = min(recipe.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )
        return float(loss.detach()), norm

    def loss(self, data: Tensor, label: Tensor, draw: torch.Generator) -> Tensor:
        """The mean training loss of one batch; every random number comes from draw."""
        recipe = self.recipe
        noise = torch.randn(data.shape, generator=draw)
        t = torch.rand(len(data), generator=draw)
        if recipe.times == "logit-normal":
            t = torch.randn(len(data), generator=draw).sigmoid()
        drop = torch.rand(len(data), generator=draw) < recipe.dropout
        label = torch.where(drop, recipe.config["classes"], label)
        if recipe.flips:
            mirror = torch.rand(len(data), generator=draw) < 0.5
            data = torch.where(mirror[:, None, None, None], data.flip(-1), data)
        data, noise, t, label = (part.to(self.device) for part in (data, noise, t, label))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.autocast):
            return flow_matching_loss(self.velocity, data, noise, t, label).mean()

    @torch.no_grad()
    def validate(self, count: int = 512) -> float:
        """Loss of the averaged weights, with fixed noise and evenly spread times."""
        draw = _generator(0, 3)
        images, labels = (part[:count] for part in self.validation_set)
        t = (torch.randperm(len(images), generator=draw) + 0.5) / len(images)
        noise = torch.randn(images.shape, generator=draw)
        total = 0.0
        for rows in torch.arange(len(images)).split(128):
            parts = (p[rows].to(self.device) for p in (images, noise, t, labels))
            total += float(flow_matching_loss(self.average, *parts).sum())
        return total / len(images)

    def save(self, path: Path) -> None:
        """Write the whole state as one safetensors file, atomically."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in slots.items()}
        counts = {"steps": self.steps, "seconds": self.seconds, "earlier": self.earlier}
        state = {**counts, "seed": self.seed, "recipe": asdict(self.recipe)}
        metadata = {"state": json.dumps(state)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Continue from `save`.

        Raises:
            ValueError: the checkpoint belongs to another recipe or seed.
        """
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
        ours = json.loads(json.dumps(asdict(self.recipe)))
        if state["recipe"] != ours or state["seed"] != self.seed:
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
