"""Ablation of the image training recipe: validation flow-matching loss at equal cost.

Usage: OMP_NUM_THREADS=1 python benchmarks/ablation.py mnist|cifar10 DATA_FOLDER MINUTES [ONLY ...]

Every candidate trains for the same processor time on one thread, learning-rate decay included, and
is scored by its averaged weights on training images held back. One table row a candidate.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import torch

from ctrlgen.domains.images.data import read
from ctrlgen.domains.images.trainer import Trainer
from ctrlgen.domains.images.training import RECIPES
from ctrlgen.training.runs import run

UNETS: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "unet": {"widths": [48, 96, 128]},
        "unet-small": {"widths": [32, 64, 96]},
        "hybrid": {"widths": [48, 128], "attention": 4},
        "transformer": {"width": 128, "depth": 6},
    },
    "cifar10": {
        "unet": {"widths": [64, 128, 256]},
        "unet-small": {"widths": [64, 96, 160]},
        "hybrid": {"widths": [64, 192], "attention": 5},
        "transformer": {"width": 256, "depth": 5},
    },
}

OPTIMISERS: list[dict[str, Any]] = [
    {"optimizer": "muon", "lr": 2e-3},
    {"optimizer": "muon", "lr": 6e-3},
    {"optimizer": "adamw", "lr": 1e-3},
    {"optimizer": "adamw", "lr": 3e-3},
    {"optimizer": "muon", "lr": 2e-3, "times": "logit-normal"},
]


def main(name: str, folder: str, minutes: float, only: list[str]) -> None:
    """Print one row per candidate "network:optimiser number", all of them when none is given."""
    torch.set_num_threads(1)
    data = read(name, folder)
    base = replace(RECIPES[name], dropout=0.1, times="uniform")
    fixed = {key: base.config[key] for key in ("shape", "classes", "mean", "std")}
    for candidate in only or [f"{k}:{i}" for k in UNETS[name] for i in range(len(OPTIMISERS))]:
        kind, number = candidate.split(":")
        network = "transformer" if kind == "transformer" else "unet"
        config = {"network": network, **fixed, **UNETS[name][kind]}
        recipe = replace(base, config=config, **OPTIMISERS[int(number)])
        trainer = Trainer(recipe, data)
        loss = run(trainer, minutes=minutes, clock=time.process_time)
        size = sum(p.numel() for p in trainer.network.parameters()) / 1e6
        images = trainer.steps * recipe.batch
        print(
            f"{name:8s} {kind:12s} {size:5.2f} M  {recipe.optimizer:6s} lr {recipe.lr:.0e}  "
            f"{recipe.times:13s} {minutes:.1f} CPU min  {trainer.steps:5d} steps  "
            f"{images / trainer.seconds:4.0f} images/CPU s  validation {loss:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:])
