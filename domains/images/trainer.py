r"""The training loop of the embedded image priors: conditional flow matching.

With x_0 ~ N(0, I), x_1 from the data, x_t = t x_1 + (1 - t) x_0, the network minimises
E |v(x_t, t, label) - (x_1 - x_0)|^2 (Lipman et al. 2023, eqs. 22-23). Labels are dropped with
some probability, so that one network is conditional and unconditional (Ho & Salimans 2022).
Optimisers, schedule and checkpoints are those of `ctrlgen.training.trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.domains.images.data import Images
from ctrlgen.domains.images.networks import build
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.trainer import Order, generator
from ctrlgen.training.trainer import Trainer as Base

__all__ = ["Recipe", "Trainer", "flow_matching_loss"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        dataset: "mnist" or "cifar10".
        flips: mirror half of the images.
        dropout: probability of the null label.
        times: "uniform" or "logit-normal" training times.
        validation: images held back from the end of the training split.
    """

    dataset: str
    flips: bool = False
    dropout: float = 0.1
    times: str = "uniform"
    validation: int = 1000


def flow_matching_loss(
    network: Callable[..., Tensor], data: Tensor, noise: Tensor, t: Tensor, label: Tensor | None
) -> Tensor:
    """|v(x_t, t, label) - (x_1 - x_0)|^2 averaged over the coordinates, one value per sample."""
    time_ = t.view(-1, *[1] * (data.ndim - 1))
    error = network(time_ * data + (1 - time_) * noise, t, label=label) - (data - noise)
    return error.square().flatten(1).mean(dim=1)


class Trainer(Base):
    """Training of an image network.

    Args:
        recipe: what to train.
        data: the whole training split; its last `recipe.validation` images are only validated on.
        seed: of the weights and of every draw.
        device: where to train.
    """

    outside = ("stem", "head", "conditioning", "position", "offset", "bias", "smooth", "final")

    def __init__(
        self, recipe: Recipe, data: Images, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.recipe = recipe
        super().__init__(recipe, seed, device)
        self.train_set = Images(*(part[: -recipe.validation].to(device) for part in data))
        self.validation_set = Images(*(part[-recipe.validation :].to(device) for part in data))
        self.order = Order(len(self.train_set.labels), recipe.batch, seed, device)

    def build(self) -> nn.Module:
        return build(**self.recipe.config)

    def loss(self, draw: torch.Generator) -> Tensor:
        images, labels = self.train_set
        rows = self.order(self.steps)
        return self.batch_loss(images[rows], labels[rows], draw)

    def batch_loss(self, data: Tensor, label: Tensor, draw: torch.Generator) -> Tensor:
        """The mean training loss of one batch; every random number comes from draw."""
        recipe = self.recipe
        options: dict[str, Any] = {"generator": draw, "device": self.device}
        noise = torch.randn(data.shape, **options)
        t = torch.rand(len(data), **options)
        if recipe.times == "logit-normal":
            t = torch.randn(len(data), **options).sigmoid()
        drop = torch.rand(len(data), **options) < recipe.dropout
        label = label.masked_fill(drop, recipe.config["classes"])
        if recipe.flips:
            mirror = torch.rand(len(data), **options) < 0.5
            data = torch.where(mirror[:, None, None, None], data.flip(-1), data)
        with self.autocast():
            return flow_matching_loss(self.network, data, noise, t, label).mean()

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        """Loss of the averaged weights, with fixed noise and evenly spread times."""
        draw = generator(0, 3, device=self.device)
        options: dict[str, Any] = {"generator": draw, "device": self.device}
        images, labels = (part[:count] for part in self.validation_set)
        t = (torch.randperm(len(images), **options) + 0.5) / len(images)
        noise = torch.randn(images.shape, **options)
        total = torch.zeros((), device=self.device)
        for rows in torch.arange(len(images), device=self.device).split(128):
            parts = (part[rows] for part in (images, noise, t, labels))
            total += flow_matching_loss(self.average, *parts).sum()
        return float(total) / len(images)
