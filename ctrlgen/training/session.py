"""One call from a recipe to weights, card and log: resume, train within a budget, export."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ctrlgen.commands import console
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.rows.errors import CardError
from ctrlgen.training.runs import rewind, run
from ctrlgen.training.schedule import DESCRIPTIVE
from ctrlgen.training.trainer import Trainer

__all__ = ["Options", "check_run", "continue_from", "export", "places", "session"]


@dataclass(frozen=True)
class Options:
    """How far a training goes, where it begins, and where it is written.

    Attributes:
        out: folder of weights, card and log; that of the checkpoint when None.
        minutes, steps: the budget, one of them.
        resume: continue from the checkpoint when there is one.
        compiled: compile the network first; a recipe that asks for it gets it where it can be.
        resume_from_embedded: start a run without a checkpoint from the embedded weights; the log
            goes on.
        overwrite: replace the card and weights of another training.
    """

    out: str | Path | None = None
    minutes: float | None = None
    steps: int | None = None
    resume: bool = True
    compiled: bool = False
    resume_from_embedded: bool = False
    overwrite: bool = False


def check_run(recipe: str, options: Options) -> None:
    """What can be refused before the data are read.

    Raises:
        ValueError: not exactly one budget was given, or a card lies where this run would write its
            own, and no checkpoint goes on from there.
    """
    minutes, steps = options.minutes, options.steps
    if (steps is None) == (minutes is None):
        raise ValueError(f"budget: expected one of minutes and steps, got {minutes} and {steps}")
    target, checkpoint = places(recipe, options.out)
    if not (options.overwrite or (options.resume and checkpoint.is_file())):
        _refuse(target, recipe)


def places(recipe: str, out: str | Path | None) -> tuple[Path, Path]:
    """The folder of weights, card and log, and the file of checkpoints."""
    folder = Path("runs") / recipe.replace("/", "-")
    return (folder if out is None else Path(out)), folder / "checkpoint.safetensors"


def _refuse(target: Path, recipe: str) -> None:
    """Raise ValueError where a card or weights of that name are in a folder."""
    name = recipe.split("/", 1)[1]
    for file in (target / f"{name}.json", target / f"{name}.safetensors"):
        if os.path.lexists(file):
            raise ValueError(
                f"out: {file} is there, of another training; name another folder or add --overwrite"
            )


def _ours(file: Path, trainer: Trainer) -> bool:
    """Whether a card came of an earlier part of a run, by its recipe, its seed and its steps."""
    try:
        recipe = Card.read(file).recipe
        steps = recipe["steps"]
    except (CardError, KeyError, TypeError):
        return False
    ours = {**_settings(trainer), "seed": trainer.seed}
    if recipe.get("device", "cpu") != trainer.device.type:  # which has its own batch and rate
        ours = {key: value for key, value in ours.items() if key not in trainer.schedule.cuda}
    return steps <= trainer.steps and all(
        recipe.get(key, value) == value for key, value in ours.items()
    )


def _settings(trainer: Trainer) -> dict[str, Any]:
    """The settings of a recipe as cards tell them."""
    settings = trainer.schedule.settings()
    return {key: value for key, value in settings.items() if key not in DESCRIPTIVE}


def export(trainer: Trainer, card: Card, out: Path) -> None:
    """Write the averaged weights in half precision, and their card with sha256 and recipe.

    Args:
        trainer: the run, finished or not.
        card: what is known beside the training; its name is that of the files.
        out: folder of `<name>.safetensors` and `<name>.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{card.name}.safetensors"
    half = {k: v.half().contiguous().cpu() for k, v in trainer.average.state_dict().items()}
    partial = weights.with_suffix(".partial")
    save_file(half, partial)
    partial.chmod(0o644)
    card.recipe = {
        **_settings(trainer),
        "seed": trainer.seed,
        "steps": trainer.steps,
        "seconds": round(trainer.seconds),
        "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
        "compiled": trainer.compiled,
        **({"earlier": trainer.earlier} if trainer.earlier else {}),
    }
    card.weights, card.sha256 = weights.name, hashlib.sha256(partial.read_bytes()).hexdigest()
    os.replace(partial, weights)
    card.write(out / f"{card.name}.json")


def continue_from(trainer: Trainer, card: Card, folder: Path) -> None:
    """Start from the weights of a card and their counts; the earlier part goes on record.

    The recipe's network may have grown since: parts that the weights lack start as built.

    Args:
        trainer: a fresh run.
        card: of the weights.
        folder: of the weights.

    Raises:
        CardError: the weights hold what the recipe's network has no place for.
    """
    source = network_of(card, folder)
    fresh = trainer.network.state_dict()
    for network in (trainer.network, trainer.average):
        try:
            network.load_state_dict(fresh | source.state_dict())
        except RuntimeError as error:
            raise CardError(
                f"weights of {card.name}: they do not fit the recipe: {error}"
            ) from error
    earlier = dict(card.recipe)
    if card.config != trainer.config:
        earlier["config"] = card.config
    trainer.earlier = [*earlier.pop("earlier", []), earlier]
    # Minutes of another kind of device are worth others: the budget begins anew.
    same = earlier.get("device", "cpu") == trainer.device.type
    trainer.steps, trainer.seconds = earlier["steps"], earlier["seconds"] if same else 0.0
    trainer.read()


def compiles(device: torch.device) -> bool:
    """Whether torch compiles on this machine: not every one with a card has a compiler."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception:  # torch wraps what went wrong in one of many kinds
        return False
    return True


def session(
    trainer: Trainer,
    recipe: str,
    options: Options,
    *,
    card_of: Callable[[Any, str], Card],
    embedded: Path,
) -> Path:
    """Train with a progress bar, checkpoints in runs/<domain>-<name>, log and export in out.

    Args:
        trainer: the run, fresh.
        recipe: "<domain>/<name>", as `ctrlgen train` takes it.
        options: of the training.
        card_of: what is known of the network beside its training, from trainer and command.
        embedded: folder of the weights that the package brings.

    Returns:
        The path of the card.

    Raises:
        ValueError: as `check_run`, or the checkpoint goes on from another training than that of the
            card in `out`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    check_run(recipe, options)
    name = recipe.split("/", 1)[1]
    target, checkpoint = places(recipe, options.out)
    if options.compiled or (trainer.schedule.compiled and compiles(trainer.device)):
        trainer.compiled = trainer.compile()
    command = _command(recipe, trainer, options)
    target.mkdir(parents=True, exist_ok=True)
    log = target / f"{name}.log.jsonl"
    if options.resume and checkpoint.is_file():
        trainer.load(checkpoint)
        if not (options.overwrite or _ours(target / f"{name}.json", trainer)):
            _refuse(target, recipe)
        rewind(log, trainer.steps)
    elif options.resume_from_embedded:
        continue_from(trainer, Card.read(embedded / f"{name}.json"), embedded)
    else:
        log.unlink(missing_ok=True)
    columns = (TextColumn(name), BarColumn(), TimeRemainingColumn())
    kind = str(trainer.precision).removeprefix("torch.")
    how = "compiled" if trainer.compiled else "not compiled"
    console.screen.print(f"[bold]{name}[/]: training in {kind} on {trainer.device}, {how}")
    with Progress(*columns, TextColumn("{task.description}"), console=console.screen) as bar:
        task = bar.add_task("", total=1.0)
        run(
            trainer,
            steps=options.steps,
            minutes=options.minutes,
            checkpoint=checkpoint,
            log=log,
            on_save=lambda trained: export(trained, card_of(trained, command), target),
            progress=lambda done, text: bar.update(task, completed=done, description=text),
        )
    return target / f"{name}.json"


def _command(recipe: str, trainer: Trainer, options: Options) -> str:
    """The command line of a training, for its card."""
    budget = f"--steps {options.steps}" if options.steps else f"--minutes {options.minutes:g}"
    words = ["ctrlgen train", recipe, budget, f"--seed {trainer.seed}"]
    words += ["--compile"] * options.compiled
    words += ["--resume-from-embedded"] * options.resume_from_embedded
    if trainer.device.type != "cpu":
        words.append(f"--device {trainer.device.type}")
    return " ".join(words)
