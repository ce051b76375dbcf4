"""Recipes of the embedded image networks, and the one function that trains them.

    train("mnist", data="data/mnist", minutes=35)

trains, writes weights, card and log beside one another, and checkpoints under runs/. Called again
it resumes; with a longer budget it extends the run (the learning rate rises to where the longer
schedule has it). The mathematics is in `trainer`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from ctrlgen.domains.images.classifier import ClassifierTrainer
from ctrlgen.domains.images.data import fetch, read
from ctrlgen.domains.images.trainer import Recipe, Trainer
from ctrlgen.errors import CardError
from ctrlgen.plugins import resolve
from ctrlgen.priors import Card, load_weights

__all__ = ["RECIPES", "WEIGHTS", "export", "run", "train"]

WEIGHTS = Path(__file__).parent / "weights"

_MNIST = {"shape": [1, 28, 28], "classes": 10, "mean": -0.7387, "std": 0.6162}
_CIFAR10 = {"shape": [3, 32, 32], "classes": 10, "mean": -0.0533, "std": 0.5031}

RECIPES = {
    "mnist": Recipe(
        name="mnist",
        dataset="mnist",
        config={"network": "unet", **_MNIST, "widths": [32, 64, 128]},
        dropout=0.9,
        times="logit-normal",
    ),
    "cifar10": Recipe(
        name="cifar10",
        dataset="cifar10",
        config={"network": "unet", **_CIFAR10, "widths": [64, 96, 160]},
        flips=True,
        dropout=0.5,
    ),
    "mnist-classifier": Recipe(
        name="mnist-classifier",
        dataset="mnist",
        config={"shape": [1, 28, 28], "classes": 10, "widths": [32, 64, 128]},
        dropout=0.0,
        flat=0.2,
    ),
}

_DATA = {
    "mnist": "MNIST training split (LeCun, Cortes & Burges 1998), 59,000 of 60,000 images",
    "cifar10": "CIFAR-10 training split (Krizhevsky 2009), 49,000 of 50,000 images",
}


def export(trainer: Trainer, out: Path, command: str) -> None:
    """Write the averaged weights in half precision with their model card.

    Args:
        trainer: the run, finished or not.
        out: folder of `<name>.safetensors` and `<name>.json`.
        command: the command that reproduces the run.
    """
    recipe, config = trainer.recipe, trainer.recipe.config
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{recipe.name}.safetensors"
    half = {k: v.half().contiguous().cpu() for k, v in trainer.average.state_dict().items()}
    partial = weights.with_suffix(".partial")
    save_file(half, partial)
    partial.chmod(0o644)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("name", "dataset", "config")}
    factory = "classifier" if isinstance(trainer, ClassifierTrainer) else "networks"
    card = Card(
        name=recipe.name,
        domain="images",
        factory=f"ctrlgen.domains.images.{factory}:build",
        config=config,
        path={},
        prediction="",
        source={},
        data=_DATA[recipe.dataset],
        recipe={
            **settings,
            "seed": trainer.seed,
            "steps": trainer.steps,
            "seconds": round(trainer.seconds),
            "device": trainer.device.type,
            **({"earlier": trainer.earlier} if trainer.earlier else {}),
        },
        command=command,
        licence="MIT",
        sha256=digest,
        weights=weights.name,
    )
    if factory == "networks":
        card.path, card.prediction = {"type": "CondOT"}, "velocity"
        card.source = {"type": "Gaussian", "shape": config["shape"]}
        card.conditions = {"label": {"classes": config["classes"], "null": config["classes"]}}
    os.replace(partial, weights)
    card.write(out / f"{recipe.name}.json")


def _continue(trainer: Trainer, card: Card) -> None:
    """Start from embedded weights and their counts; what was trained before goes on record.

    The recipe's network may have grown since: parts that the weights lack start as built.

    Raises:
        CardError: the weights hold what the recipe's network has no place for.
    """
    source = resolve(card.factory)(**card.config)
    load_weights(source, card, WEIGHTS)
    fresh = trainer.network.state_dict()
    for network in (trainer.network, trainer.average):
        try:
            network.load_state_dict(fresh | source.state_dict())
        except RuntimeError as error:
            raise CardError(
                f"weights of {card.name}: they do not fit the recipe: {error}"
            ) from error
    earlier = dict(card.recipe)
    if card.config != trainer.recipe.config:
        earlier["config"] = card.config
    trainer.earlier = [*earlier.pop("earlier", []), earlier]
    trainer.steps, trainer.seconds = earlier["steps"], earlier["seconds"]


def run(
    trainer: Trainer,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    checkpoint: Path | None = None,
    log: Path | None = None,
    log_every: int = 50,
    validate_every: int = 500,
    save_minutes: float = 3.0,
    on_save: Callable[[Trainer], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Train until the budget is spent; returns the last validation loss.

    Budgets count over all resumed parts; minutes are those of the steps alone, by `clock`.

    Raises:
        ValueError: not exactly one budget was given.
    """
    if (steps is None) == (minutes is None):
        raise ValueError(f"budget: expected one of steps and minutes, got {steps} and {minutes}")

    def spent() -> float:
        done = trainer.steps / steps if steps else trainer.seconds / (60 * (minutes or 0.0))
        return min(1.0, done)

    def write(entry: dict[str, float]) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def keep() -> None:
        if checkpoint is not None:
            trainer.save(checkpoint)
        if on_save is not None:
            on_save(trainer)

    losses: list[float] = []
    norm, validation, saved = 0.0, math.nan, time.monotonic()
    while spent() < 1:
        started = clock()
        loss, norm = trainer.step(spent())
        trainer.seconds += clock() - started
        losses.append(loss)
        if trainer.steps % log_every == 0:
            entry = {
                "step": trainer.steps,
                "seconds": round(trainer.seconds, 1),
                "loss": round(sum(losses) / len(losses), 5),
                "gradient": round(norm, 4),
                "lr": round(trainer.rate(spent()), 6),
            }
            losses.clear()
            if trainer.steps % validate_every == 0:
                entry["validation"] = validation = round(trainer.validate(), 5)
            write(entry)
            if progress is not None:
                text = f"step {trainer.steps} loss {entry['loss']:.4f} validation {validation:.4f}"
                progress(spent(), text)
        if time.monotonic() - saved > 60 * save_minutes:
            keep()
            saved = time.monotonic()
    validation = round(trainer.validate(len(trainer.validation_set.images)), 5)
    write({"step": trainer.steps, "seconds": round(trainer.seconds, 1), "final": validation})
    keep()
    return validation


def _rewind(log: Path, steps: int) -> None:
    """Drop what was logged after the checkpoint."""
    if log.is_file():
        lines = log.read_text().splitlines()
        log.write_text("".join(f"{x}\n" for x in lines if json.loads(x)["step"] <= steps))


def _folder(dataset: str, data: str | Path | None) -> Path:
    """The folder to read, downloaded into data/<dataset> when none was given."""
    if data is not None:
        return Path(data)
    default = Path("data") / dataset
    return default if default.is_dir() else fetch(dataset, default)


def train(
    name: str,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    compiled: bool = False,
    resume_from_embedded: bool = False,
) -> Path:
    """Train one of the image networks.

    Args:
        name: a key of `RECIPES`.
        data: folder of the data set; downloaded into data/ when None.
        out: folder of weights, card and log; runs/images-<name> when None. Checkpoints always lie
            in runs/images-<name>.
        minutes: budget in minutes of training, over all resumed parts.
        steps: budget in optimiser steps instead; a run by steps is reproducible from its seed.
        resume: continue from the checkpoint when there is one.
        seed: of the weights and of every draw.
        device: where to train.
        threads: CPU threads; unchanged when None.
        compiled: compile the network first (needs a C++ compiler): about half as fast again.
        resume_from_embedded: without a checkpoint, continue from the embedded weights with a
            fresh optimiser; the card keeps the recipe of the earlier part.

    Returns:
        The path of the model card.

    Raises:
        ValueError: an unknown name, not exactly one budget, or a checkpoint of another recipe.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if name not in RECIPES:
        raise ValueError(f"name: expected one of {sorted(RECIPES)}, got {name!r}")
    if (steps is None) == (minutes is None):
        raise ValueError(f"budget: expected one of minutes and steps, got {minutes} and {steps}")
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = RECIPES[name]
    folder = Path("runs") / f"images-{name}"
    out = folder if out is None else Path(out)
    kind = ClassifierTrainer if name == "mnist-classifier" else Trainer
    trainer = kind(recipe, read(recipe.dataset, _folder(recipe.dataset, data)), seed, device)
    if compiled:
        trainer.compile()
    # Only now: data that cannot be read leave nothing behind.
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.safetensors", out / f"{name}.log.jsonl"
    if resume and checkpoint.is_file():
        trainer.load(checkpoint)
        _rewind(log, trainer.steps)
    elif resume_from_embedded:
        _continue(trainer, Card.read(WEIGHTS / f"{name}.json"))
    else:
        log.unlink(missing_ok=True)
    budget = f"--steps {steps}" if steps else f"--minutes {minutes:g}"
    options = " --compile" * compiled + " --resume-from-embedded" * resume_from_embedded
    command = f"ctrlgen train images/{name} {budget} --seed {seed}{options}"
    columns = (TextColumn(name), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=1.0)
        run(
            trainer,
            steps=steps,
            minutes=minutes,
            checkpoint=checkpoint,
            log=log,
            on_save=lambda trained: export(trained, out, command),
            progress=lambda done, text: bar.update(task, completed=done, description=text),
        )
    return out / f"{name}.json"
