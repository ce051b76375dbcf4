"""What the tests of priors share: a network of a user, and cards of it, whole and damaged."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian

load = partial(ctrlgen.load, trust=["tests"])
FACTORY, CONFIG = f"{__name__}:Small", {"dimensions": 4, "width": 8}


class Small(nn.Module):
    """A user's network: two layers, time and an optional label as further inputs."""

    def __init__(self, dimensions: int, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes + 1, width)
        self.first = nn.Linear(dimensions + 1, width)
        self.last = nn.Linear(width, dimensions)
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            label = torch.full((len(x),), self.classes, device=x.device)
        hidden = self.first(torch.cat((x, t.unsqueeze(1)), 1)) + self.embed(label)
        return self.last(torch.tanh(hidden))


def user_prior() -> Prior:
    network = Small(**CONFIG)
    flow = Flow(network, Cosine(), "v")
    return Prior(flow, Gaussian((4,)), Scaled([2.0, 1.0, 3.0, 1.0], 0.5))


def saved(folder: Path, **card: Any) -> Path:
    conditions = {"label": {"classes": 3, "null": 3}}
    return user_prior().save(
        folder, "toy", factory=FACTORY, config=CONFIG, conditions=conditions, **card
    )


def edited(folder: Path, **changes: Any) -> Path:
    file = saved(folder)
    content = json.loads(file.read_text())
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    file.write_text(json.dumps(content))
    return file
