"""Parts 4 and 5: how fast networks train, and training them for the time that is left.

Throughput is measured on the trainer of a recipe after a warm-up of as many steps. Training goes on
from the embedded weights where the recipe has their network, from a checkpoint where there is one,
and leaves checkpoint, log, card and weights of every network in the folder of the session.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accelerated.session import Clock, Record
from benchmarks.accelerated.workbench import Workbench, synchronise
from ctrlgen.domains.audio import training as audio_training
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.encodec_trainer import EnCodecRecipe, EnCodecTrainer
from ctrlgen.domains.audio.trainer import FlowRecipe, FlowTrainer
from ctrlgen.domains.images import training as image_training
from ctrlgen.domains.images.data import Images
from ctrlgen.domains.images.trainer import Trainer as ImageTrainer
from ctrlgen.domains.molecules import training as molecule_training
from ctrlgen.domains.molecules.batches import Molecule
from ctrlgen.domains.molecules.regressor_trainer import RegressorRecipe, RegressorTrainer
from ctrlgen.domains.molecules.trainer import PriorTrainer
from ctrlgen.priors.cards import Card
from ctrlgen.rows.errors import CardError
from ctrlgen.training.runs import run as spend
from ctrlgen.training.session import continue_from, export
from ctrlgen.training.trainer import Trainer
from ctrlgen.training.training import Training

__all__ = ["SHARES", "headline", "throughput", "train"]

DATA: dict[str, Training[Any]] = {
    "qm9": molecule_training.train, "cifar10": image_training.train, "music": audio_training.train,
    "moses": molecule_training.train,
}  # fmt: skip
"""Data sets, as --data names them, and what is trained on them."""

SHARES = {
    "moses-heavy": 0.4, "moses-heavy-guide": 0.1,
    "qm9": 0.2, "cifar10-large": 0.15, "qm9-heavy": 0.075, "freedoom-music": 0.075,
    "encodec-16k": 0.1,
}  # fmt: skip
"""Networks to train in order of value, and what each takes of the time; those whose data are there
share it all, or those that `--networks` names.
"""

_ENDING = 15.0  # seconds kept for the last validation and the export

_MEASURED = ("qm9", "cifar10", "qm9-heavy", "cifar10-large", "freedoom-music", "moses-heavy")


def _molecules(count: int, places: int, kinds: int) -> Molecule:
    """Random atoms, to rehearse."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(2, places + 1, (count,), generator=draw)
    classes = torch.randint(kinds, (count, places), generator=draw)
    classes[torch.arange(places) >= counts[:, None]] = -1
    return Molecule(torch.randn(count, places, 3, generator=draw), classes, counts)


def _tiny(name: str, device: torch.device) -> Trainer:
    if name in image_training.RECIPES:
        config = {
            "network": "transformer", "shape": [3, 8, 8], "classes": 10, "width": 16, "depth": 1,
            "heads": 2,
        }  # fmt: skip
        recipe = replace(image_training.RECIPES[name], config=config, batch=4, validation=4)
        draw = torch.Generator().manual_seed(0)
        pixels = torch.rand(16, 3, 8, 8, generator=draw) * 2 - 1
        return ImageTrainer(recipe, Images(pixels, torch.arange(16) % 10), 0, device)
    if name in audio_training.RECIPES:
        return _tiny_music(name, device)
    known = molecule_training.RECIPES[name]
    kinds = known.config["classes"]
    data, held = _molecules(32, 9, kinds), _molecules(8, 9, kinds)
    small: dict[str, Any] = {"classes": kinds, "width": 16, "depth": 1}
    if isinstance(known, RegressorRecipe):
        config = {**small, "names": ["qed", "logp", "sa"]}
        targets, scale = torch.zeros(32, 3), ([0.0] * 3, [1.0] * 3)
        recipe = replace(known, config=config, batch=4, places=(9,))
        return RegressorTrainer(recipe, data, targets, held, targets[:8], *scale, 0, device)
    prior = replace(known, config={**small, "network": "geot"}, batch=4, places=(9,))
    return PriorTrainer(prior, data, held, 0, device)


def _tiny_music(name: str, device: torch.device) -> Trainer:
    known = audio_training.RECIPES[name]
    if isinstance(known, EnCodecRecipe):
        tiny = {"hidden_size": 4, "num_filters": 2, "upsampling_ratios": [4, 2]}
        codec = replace(known, config={**known.config, **tiny}, batch=2, length=1600, validation=2)
        noise = torch.randn(8000, generator=torch.Generator().manual_seed(0))
        music = Music(((3000 * noise).short().numpy(),), ("noise",))
        return EnCodecTrainer(codec, music, music, 0, device)
    assert isinstance(known, FlowRecipe)
    config = {"features": 8, "width": 16, "depth": 1, "heads": 2}
    recipe = replace(known, config=config, batch=4, validation=4)
    draw = torch.Generator().manual_seed(0)
    frames = torch.randn(16, 9, 8, generator=draw)

    def latents(places: torch.Tensor) -> torch.Tensor:
        return frames[(places * len(frames)).long()].to(device)

    return FlowTrainer(recipe, latents, frames[:4].to(device), torch.ones(8), 0, device)


def source_of(name: str) -> str:
    """The data set of a network, as --data names it."""
    if name in molecule_training.RECIPES:
        return "moses" if name.startswith("moses") else "qm9"
    return next(source for source, side in DATA.items() if name in side.recipes)


def trainer_of(bench: Workbench, name: str) -> Trainer:
    """A fresh run of a recipe on packed data.

    Raises:
        FileNotFoundError: if the session has no data for it.
    """
    if bench.tiny:
        return _tiny(name, bench.device)
    source = source_of(name)
    if source not in bench.data:
        raise FileNotFoundError(f"--data: expected {source}=FILE, got {sorted(bench.data)}")
    side = DATA[source]
    return side.trainer(side.recipe(name).on(bench.device), bench.data[source], 0, bench.device)


def throughput(bench: Workbench, record: Record, clock: Clock) -> None:
    """Samples a second of every recipe, plain and, on a card, compiled."""
    rows: dict[str, Any] = {}
    record.put(no_compiler=bench.no_compiler)
    forms = (False,) if bench.no_compiler else (False, True)
    for name in _MEASURED:
        if bench.networks and name not in bench.networks:
            continue
        rows[name] = {}
        for compiled in forms:
            form = "compiled" if compiled else "plain"
            if clock.left < 0:
                record.put(note=f"no time for {name}, {form}")
                return
            try:
                rows[name][form] = _speed(bench, name, compiled)
            except Exception as error:  # the other recipes may have their data
                rows[name][form] = {"error": f"{type(error).__name__}: {error}"[:500]}
            record.put(rows=rows)
    _check([row for forms_of in rows.values() for row in forms_of.values()])


def _speed(bench: Workbench, name: str, compiled: bool) -> dict[str, Any]:
    trainer, steps = trainer_of(bench, name), bench.sizes.training_steps
    if compiled:
        trainer.compile()

    def seconds() -> float:
        synchronise(bench.device)
        began = time.perf_counter()
        for _ in range(steps):
            trainer.step(0.3)
        synchronise(bench.device)
        return time.perf_counter() - began

    first, then = seconds(), seconds()
    weights = sum(parameter.numel() for parameter in trainer.network.parameters())
    return {
        "samples_per_second": steps * trainer.schedule.batch / then,
        "batch": trainer.schedule.batch, "steps": steps, "first_seconds": first,
        "precision": str(trainer.precision).removeprefix("torch."), "weights": weights,
    }  # fmt: skip


def train(bench: Workbench, record: Record, clock: Clock) -> None:
    """Train the networks one after the other for the time that is left, a little kept to export."""
    whole = clock.left - min(0.07 * clock.left, _ENDING)
    done, rows = 0.0, dict[str, Any]()
    torch.backends.cudnn.benchmark = True  # shapes are few
    asked = bench.networks or tuple(SHARES)
    shares = {n: SHARES[n] for n in asked if bench.tiny or source_of(n) in bench.data}
    for name in set(asked) - shares.keys():
        rows[name] = {"error": f"--data: expected {source_of(name)}=FILE"}
    for name, share in shares.items():
        done += share / sum(shares.values())
        # What a network did not need, for want of data say, is there for the next.
        seconds = done * whole - clock.spent
        if seconds <= 0:
            rows[name] = {"error": "no time"}
            continue
        try:
            rows[name] = _trained(bench, name, seconds, record.file.parent / "training" / name)
        except Exception as error:  # the next network may fare better
            rows[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        record.put(rows=rows)
    _check(list(rows.values()))


def _check(rows: list[dict[str, Any]]) -> None:
    """Raise RuntimeError where no row of a part holds anything but an error."""
    if rows and all("error" in row for row in rows):
        raise RuntimeError(f"nothing ran: {rows[0]['error']}")


def _trained(bench: Workbench, name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Train one network for some seconds, all included."""
    began = time.monotonic()
    trainer = trainer_of(bench, name)
    side = DATA[source_of(name)]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.safetensors", folder / f"{name}.log.jsonl"
    origin, known = "random weights", side.weights / f"{name}.json"
    if checkpoint.is_file():
        trainer.load(checkpoint)
        origin = "checkpoint"
    elif known.is_file() and not bench.tiny:
        try:
            continue_from(trainer, Card.read(known), side.weights)
            origin = "embedded weights"
        except CardError as error:  # the recipe has grown another network
            origin += f" ({error})"[:200]
    earlier = trainer.steps
    # It is not said to be compiled: here compilation is a part of the time.
    compiled = not bench.no_compiler and trainer.compile()
    command = f"python benchmarks/accelerator.py --only training --data {name}=FILE"
    # A run counts minutes over all its parts, and those of the steps alone.
    left = max(1.0, seconds - (time.monotonic() - began))
    budget: dict[str, Any] = {"minutes": (trainer.seconds + left) / 60}
    if bench.sizes.trained is not None:
        budget = {"steps": earlier + bench.sizes.trained}

    def keep(trained: Trainer) -> None:
        trained.compiled = compiled  # the card tells it
        export(trained, side.card_of(trained, command), folder)
        trained.compiled = False

    loss = spend(
        trainer, **budget, checkpoint=checkpoint, log=log, save_minutes=0.5, on_save=keep
    )  # fmt: skip
    return {
        "origin": origin, "steps": trainer.steps - earlier, "validation": loss,
        "samples": (trainer.steps - earlier) * trainer.schedule.batch,
        "quality": trainer.quality(), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """Samples a second, or what the training came to."""
    told: dict[str, Any] = {}
    for name, row in content["rows"].items():
        forms = {k: v.get("samples_per_second") for k, v in row.items() if isinstance(v, dict)}
        speeds = {form: round(speed, 1) for form, speed in forms.items() if speed}
        told[name] = speeds or {k: row[k] for k in ("steps", "validation", "error") if k in row}
    return told
