"""Throughput of training, recipe by recipe, and where the time goes.

    OMP_NUM_THREADS=1 python benchmarks/training.py [RECIPE ...] [--device cuda] [--out FILE]

Samples per second are those of whole steps, without a word from the device in between. Then a few
steps are taken apart, the device waited for at every seam: `data` is the choice of the samples,
their noise, times and augmentation, `alignment` the matching of noise to molecules, `network` the
forward and the backward pass, `optimiser` the clipping, the update and the averaged weights.
Samples are made up, of the shapes and sizes of the data sets: the times are the same, and no data
are needed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ctrlgen.commands.console import dumps
from ctrlgen.domains.images import training as images
from ctrlgen.domains.images.classifier import ClassifierTrainer
from ctrlgen.domains.images.data import Images
from ctrlgen.domains.images.trainer import Trainer as ImageTrainer
from ctrlgen.domains.molecules import trainer as molecule_trainer
from ctrlgen.domains.molecules import training as molecules
from ctrlgen.domains.molecules.batches import Molecule
from ctrlgen.domains.molecules.layers import centred
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.quality import draw_counts
from ctrlgen.domains.molecules.regressor_trainer import RegressorTrainer
from ctrlgen.domains.molecules.trainer import PriorTrainer, Recipe
from ctrlgen.training.trainer import Trainer

LARGE = ("cifar10-large",)
"""Recipes that are left out on a CPU unless they are named."""


def made_up(recipe: Any, count: int) -> Molecule:
    """Molecules of the sizes of the recipe's data, atoms in any place."""
    draw = torch.Generator().manual_seed(0)
    counts, places = draw_counts(recipe.dataset, range(count)), recipe.places[-1]
    classes = torch.randint(recipe.config["classes"], (count, places), generator=draw)
    classes[torch.arange(places) >= counts.unsqueeze(1)] = -1
    positions = centred(1.4 * torch.randn(count, places, 3, generator=draw), classes >= 0)
    return Molecule(positions, classes, counts)


def trainer_of(name: str, device: str, batch: int | None = None) -> Trainer:
    """A fresh run of a recipe, with another batch if one is given, on samples that are made up.

    Raises:
        ValueError: an unknown name.
    """
    known: dict[str, Any] = {**images.RECIPES, **molecules.RECIPES}
    if name not in known:
        raise ValueError(f"recipe: expected one of {', '.join(known)}, got {name!r}")
    recipe = known[name].on(device)
    recipe = replace(recipe, batch=batch or recipe.batch)
    count = 16 * recipe.batch
    if name in images.RECIPES:
        shape = (count + recipe.validation, *recipe.config["shape"])
        data = Images(torch.rand(shape) * 2 - 1, torch.arange(shape[0]) % 10)
        kind = ClassifierTrainer if name == "mnist-classifier" else ImageTrainer
        return kind(recipe, data, device=device)
    group = made_up(recipe, count)
    if isinstance(recipe, Recipe):
        return PriorTrainer(recipe, group, group, device=device)
    if recipe.dataset == "moses-heavy":
        recipe = replace(recipe, config={**recipe.config, "names": ["qed", "logp", "sa"]})
    size = len(recipe.config.get("names", PROPERTIES))
    targets = torch.randn(count, size)
    parts = (group, targets, group, targets, [0.0] * size, [1.0] * size)
    return RegressorTrainer(recipe, *parts, device=device)


class Stopwatch:
    """Seconds spent in functions of a run, the device waited for before and after each."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.seconds = trainer, dict[str, float]()

    def wrap(self, holder: Any, name: str, label: str) -> Callable[[], None]:
        """Time a function of an object or a module; returns what undoes it."""
        original = getattr(holder, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            self.trainer.wait()
            started = time.perf_counter()
            result = original(*arguments, **options)
            self.trainer.wait()
            self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - started
            return result

        setattr(holder, name, timed)
        return lambda: setattr(holder, name, original)


def shares(trainer: Trainer, steps: int) -> dict[str, float]:
    """Shares of a step's time, adding up to one."""
    watch = Stopwatch(trainer)
    network = trainer.network
    forward = next(name for name in ("estimate", "scaled", "forward") if hasattr(network, name))
    undo = [
        watch.wrap(trainer, "step", "step"),
        watch.wrap(trainer, "loss", "loss"),
        watch.wrap(trainer, "update", "optimiser"),
        watch.wrap(network, forward, "forward"),
        watch.wrap(molecule_trainer, "align", "alignment"),
    ]
    for _ in range(steps):
        trainer.step(0.5)
    for restore in undo:
        restore()
    spent = {"alignment": 0.0, **watch.seconds}
    data = spent["loss"] - spent["forward"] - spent["alignment"]
    passes = spent["step"] - spent["optimiser"] - data - spent["alignment"]
    parts = {"data": data, "alignment": spent["alignment"], "network": passes}
    parts["optimiser"] = spent["optimiser"]
    return {key: round(value / spent["step"], 3) for key, value in parts.items()}


def measure(
    name: str, device: str, seconds: float, batch: int | None = None, compiled: bool = False
) -> dict[str, Any]:
    """Samples per second of a recipe and the shares of a step.

    Args:
        name: of the recipe.
        device: where to train.
        seconds: of the whole steps, two at least, after some that do not count.
        batch: in place of the recipe's.
        compiled: compile the step, as recipes for a card do anyway.
    """
    trainer = trainer_of(name, device, batch)
    if compiled or trainer.schedule.compiled:
        trainer.compiled = trainer.compile()
    begun = time.perf_counter()
    # An epoch of a compiled run holds every shape; otherwise one step wakes everything.
    for _ in range(16 if trainer.compiled else 1):
        trainer.step(0.5)
    trainer.wait()
    warm = time.perf_counter() - begun
    steps, started = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - started < seconds:
        trainer.step(0.5)
        steps += 1
    trainer.wait()
    took = time.perf_counter() - started
    size = trainer.schedule.batch
    return {
        "recipe": name,
        "device": device,
        "precision": str(trainer.precision).removeprefix("torch."),
        "compiled": trainer.compiled,
        "batch": size,
        "parameters": sum(part.numel() for part in trainer.network.parameters()),
        "samples_per_second": round(steps * size / took, 1),
        "milliseconds_per_step": round(1000 * took / steps, 1),
        "steps": steps,
        "seconds_before": round(warm, 1),
        "skipped": trainer.read().skipped,
        "share": shares(trainer, max(1, math.ceil(steps / 4))),
    }


def main() -> None:
    """Command line: measure recipes, show a table, write JSON."""
    parser = argparse.ArgumentParser(description="Throughput of training.")
    parser.add_argument("recipes", nargs="*", help="all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each recipe")
    parser.add_argument("--batch", type=int, help="in place of the recipes'")
    parser.add_argument("--compile", action="store_true", help="compile the steps")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    names = [*images.RECIPES, *molecules.RECIPES]
    if options.device == "cpu":
        names = [name for name in names if name not in LARGE]
    rows = []
    for name in options.recipes or names:
        row = measure(name, options.device, options.seconds, options.batch, options.compile)
        rows.append(row)
        share = "  ".join(f"{key} {value:4.0%}" for key, value in row["share"].items())
        print(
            f"{name:16s} {row['precision']:8s} batch {row['batch']:5d} "
            f"{row['samples_per_second']:9.1f} /s   {share}",
            flush=True,
        )
        if options.out is not None:
            versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(dumps({**versions, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
