"""Settings of a training run, and what each kind of device changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch

__all__ = ["DESCRIPTIVE", "Schedule"]

DESCRIPTIVE = ("name", "dataset", "config", "compiled", "cuda")
"""Settings of a recipe that the other parts of a card tell."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the weights move; recipes extend it by what is trained.

    Attributes:
        name: of the network and its files.
        config: keywords that build the network.
        batch: samples per step.
        optimizer: "muon" (hidden matrices by Muon, the rest by AdamW) or "adamw".
        lr: peak learning rate.
        weight_decay: decoupled decay per unit of learning rate.
        average: decay of the averaged weights, approached from below.
        warmup: fraction of the budget until the peak.
        flat: fraction of the budget after which the rate falls.
        autocast: bfloat16 is safe; it is used where the machine has units for it.
        compiled: compile the step, whatever the caller says.
        cuda: settings that are others on a CUDA device, see `on`.
    """

    name: str
    config: dict[str, Any]
    batch: int = 64
    optimizer: str = "muon"
    lr: float = 4e-3
    weight_decay: float = 0.01
    average: float = 0.999
    warmup: float = 0.03
    flat: float = 0.5
    autocast: bool = True
    compiled: bool = False
    cuda: Mapping[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device | str) -> Self:
        """The recipe as a kind of device runs it."""
        return replace(self, **self.cuda) if torch.device(device).type == "cuda" else self

    def settings(self) -> dict[str, Any]:
        """What decides on the result, in plain values."""
        known: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in known.items() if key not in ("compiled", "cuda")}

    def rate(self, progress: float) -> float:
        """Learning rate at a fraction of the budget: warm-up, flat, linear to zero."""
        fall = (1 - progress) / (1 - self.flat)
        return self.lr * max(0.0, min(1.0, fall, 0.01 + progress / self.warmup))
