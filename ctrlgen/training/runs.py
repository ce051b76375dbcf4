"""Spending a budget on a training run: logging, validating, checkpointing on the way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctrlgen.runs.json_files import dumps
from ctrlgen.training.trainer import Trainer

__all__ = ["rewind", "run"]


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
    on_save: Callable[[Any], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Train until the budget is spent; returns the last validation loss.

    Budgets count over all resumed parts; minutes are those of the steps alone, by `clock`. The
    first step of each shape of a compiled run is left out of them: it is compilation for the most
    part, and logged as such. The device is read every `log_every` steps, no more often; an entry
    gives means over them, and how many were skipped for a gradient that was not finite. At every
    tenth of the budget the trainer's `quality` is logged.

    Raises:
        ValueError: not exactly one budget was given.
    """
    if (steps is None) == (minutes is None):
        raise ValueError(f"budget: expected one of steps and minutes, got {steps} and {minutes}")

    def spent() -> float:
        done = trainer.steps / steps if steps else trainer.seconds / (60 * (minutes or 0.0))
        return min(1.0, done)

    def write(entry: dict[str, Any]) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(dumps(entry, indent=None) + "\n")

    def keep() -> None:
        if checkpoint is not None:
            trainer.save(checkpoint)
        if on_save is not None:
            on_save(trainer)

    def judge() -> None:
        quality = trainer.quality()
        if quality:
            entry = {"step": trainer.steps, "seconds": round(trainer.seconds, 1)}
            write({**entry, "quality": {k: round(v, 5) for k, v in quality.items()}})

    validation, saved, tenth = math.nan, time.monotonic(), math.floor(10 * spent())
    compiled_shapes, compilation = set[tuple[int, ...]](), 0.0
    machine = {
        "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
    }
    write({"step": trainer.steps, "seconds": round(trainer.seconds, 1), **machine})
    while spent() < 1:
        started = clock()
        trainer.step(spent())
        reading = trainer.read() if trainer.steps % log_every == 0 else None
        if trainer.compiled and trainer.shape not in compiled_shapes:
            trainer.wait()
            compiled_shapes.add(trainer.shape)
            compilation += clock() - started
        else:
            trainer.seconds += clock() - started
        if reading is not None:
            entry: dict[str, Any] = {"step": trainer.steps, "seconds": round(trainer.seconds, 1)}
            if math.isfinite(reading.loss):
                entry |= {"loss": round(reading.loss, 5), "gradient": round(reading.gradient, 4)}
            if reading.skipped:
                entry["skipped"] = reading.skipped
            entry["lr"] = round(trainer.schedule.rate(spent()), 6)
            if trainer.compiled:
                entry["compilation"] = round(compilation, 1)
            if trainer.steps % validate_every == 0:
                entry["validation"] = validation = round(trainer.validate(512), 5)
            write(entry)
            if progress is not None:
                text = f"step {trainer.steps} loss {reading.loss:.4f} validation {validation:.4f}"
                progress(spent(), text)
        if math.floor(10 * spent()) > tenth:
            tenth = math.floor(10 * spent())
            judge()
        if time.monotonic() - saved > 60 * save_minutes:
            keep()
            saved = time.monotonic()
    validation = round(trainer.validate(), 5)
    write({"step": trainer.steps, "seconds": round(trainer.seconds, 1), "final": validation})
    keep()
    return validation


def rewind(log: Path, steps: int) -> None:
    """Drop what was logged after the checkpoint."""
    if log.is_file():
        lines = log.read_text().splitlines()
        log.write_text("".join(f"{x}\n" for x in lines if json.loads(x)["step"] <= steps))
