"""One call from a recipe to weights, card and log: resume, train within a budget, export."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
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

__all__ = ["check_budget", "continue_from", "export", "session"]


def check_budget(minutes: float | None, steps: int | None) -> None:
    """Raise ValueError unless exactly one budget was given."""
    if (steps is None) == (minutes is None):
        raise ValueError(f"budget: expected one of minutes and steps, got {minutes} and {steps}")


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
    settings = trainer.schedule.settings()
    card.recipe = {
        **{key: value for key, value in settings.items() if key not in DESCRIPTIVE},
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


def continue_from(trainer: Trainer, card: Card, folder: Path, config: dict[str, Any]) -> None:
    """Start from the weights of a card and their counts; the earlier part goes on record.

    The recipe's network may have grown since: parts that the weights lack start as built.

    Args:
        trainer: a fresh run.
        card: of the weights.
        folder: of the weights.
        config: of the trainer's network.

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
    if card.config != config:
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
    *,
    card_of: Callable[[Any, str], Card],
    config: dict[str, Any],
    embedded: Path,
    out: str | Path | None,
    minutes: float | None,
    steps: int | None,
    resume: bool,
    compiled: bool,
    resume_from_embedded: bool,
) -> Path:
    """Train with a progress bar, checkpoints in runs/<domain>-<name>, log and export in out.

    Args:
        trainer: the run, fresh.
        recipe: "<domain>/<name>", as `ctrlgen train` takes it.
        card_of: what is known of the network beside its training, from trainer and command.
        config: of the trainer's network.
        embedded: folder of the weights that the package brings.
        out: of weights, card and log; that of the checkpoint when None.
        minutes, steps: the budget, one of them.
        resume: continue from the checkpoint when there is one.
        compiled: compile the network first; a recipe that asks for it gets it where it can be.
        resume_from_embedded: start a run without a checkpoint from the embedded weights; the log
            goes on.

    Returns:
        The path of the card.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    name = recipe.split("/", 1)[1]
    folder = Path("runs") / recipe.replace("/", "-")
    target = folder if out is None else Path(out)
    if compiled or (trainer.schedule.compiled and compiles(trainer.device)):
        trainer.compile()
        trainer.compiled = True
    budget = f"--steps {steps}" if steps else f"--minutes {minutes:g}"
    options = " --compile" * compiled + " --resume-from-embedded" * resume_from_embedded
    if trainer.device.type != "cpu":
        options += f" --device {trainer.device.type}"
    command = f"ctrlgen train {recipe} {budget} --seed {trainer.seed}{options}"
    target.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.safetensors", target / f"{name}.log.jsonl"
    if resume and checkpoint.is_file():
        trainer.load(checkpoint)
        rewind(log, trainer.steps)
    elif resume_from_embedded:
        continue_from(trainer, Card.read(embedded / f"{name}.json"), embedded, config)
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
            steps=steps,
            minutes=minutes,
            checkpoint=checkpoint,
            log=log,
            on_save=lambda trained: export(trained, card_of(trained, command), target),
            progress=lambda done, text: bar.update(task, completed=done, description=text),
        )
    return target / f"{name}.json"
