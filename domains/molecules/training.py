"""Recipes of the embedded molecular networks, and the one function that trains them.

    train("qm9-heavy", data="data/qm9", minutes=95)

trains, writes weights, card and log beside one another, and checkpoints under runs/. Called again
it resumes; with a longer budget it extends the run (the learning rate rises to where the longer
schedule has it). The mathematics is in `trainer` and `regressors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ctrlgen.cards import Card
from ctrlgen.domains.molecules.data import fetch, read
from ctrlgen.domains.molecules.trainer import Molecule, PriorTrainer, Recipe
from ctrlgen.training.session import check_budget, continue_from, export, session

__all__ = ["RECIPES", "WEIGHTS", "prior_card", "train"]

WEIGHTS = Path(__file__).parent / "weights"

RECIPES: dict[str, Recipe] = {
    "qm9-heavy": Recipe(
        name="qm9-heavy",
        dataset="qm9-heavy",
        config={"network": "geot", "classes": 14, "width": 128, "depth": 6},
        batch=256,
        optimizer="muon",
        lr=9e-3,
        places=(9,),
    ),
    "qm9": Recipe(
        name="qm9",
        dataset="qm9",
        config={"network": "geot", "classes": 5, "width": 128, "depth": 6},
        batch=128,
        optimizer="muon",
        lr=9e-3,
        places=(12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 29),
    ),
}

_DATA = "QM9 (Ramakrishnan et al. 2014; qm9pack 1.0.3), {} of EDM's splits"
_VALIDATION = 2048


def prior_card(trainer: PriorTrainer, command: str) -> Card:
    """What is known of a prior beside its training."""
    recipe = trainer.recipe
    places = recipe.places[-1]
    return Card(
        name=recipe.name,
        domain="molecules",
        factory="ctrlgen.domains.molecules.networks:build",
        config=trainer.config,
        path={"type": "CondOT"},
        prediction="velocity",
        source={
            "type": "ctrlgen.domains.molecules.states:Atoms",
            "places": places,
            "features": 3 + trainer.kinds,
        },
        codec={
            "type": "ctrlgen.domains.molecules.states:AtomCodec",
            "position": recipe.position,
            "one_hot": recipe.one_hot,
        },
        conditions={"counts": {"least": 2, "most": places}},
        data=_DATA.format("D_b"),
        command=command,
        licence="MIT",
    )


def _group(name: str, folder: Path, split: Any, count: int | None = None) -> Molecule:
    found = read(name, folder, split)
    return Molecule(found.positions[:count], found.classes[:count], found.counts[:count])


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
    """Train one of the molecular networks.

    Args:
        name: a key of `RECIPES`.
        data: folder of QM9; downloaded into data/qm9 when None.
        out: folder of weights, card and log; runs/molecules-<name> when None. Checkpoints always
            lie in runs/molecules-<name>.
        minutes: budget in minutes of training, over all resumed parts.
        steps: budget in optimiser steps instead; a run by steps is reproducible from its seed.
        resume: continue from the checkpoint when there is one.
        seed: of the weights and of every draw.
        device: where to train.
        threads: CPU threads; unchanged when None.
        compiled: compile the network first (needs a C++ compiler): nearly twice as fast.
        resume_from_embedded: without a checkpoint, continue from the embedded weights with a
            fresh optimiser; the card keeps the recipe of the earlier part.

    Returns:
        The path of the model card.

    Raises:
        ValueError: an unknown name, not exactly one budget, or a checkpoint of another recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"name: expected one of {sorted(RECIPES)}, got {name!r}")
    check_budget(minutes, steps)
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = RECIPES[name]
    folder = Path("runs") / f"molecules-{name}"
    source = Path(data) if data is not None else fetch(Path("data") / "qm9")
    trainer = PriorTrainer(
        recipe,
        _group(recipe.dataset, source, "D_b"),
        _group(recipe.dataset, source, "valid", _VALIDATION),
        seed,
        device,
    )
    if compiled:
        trainer.compile()
    budget = f"--steps {steps}" if steps else f"--minutes {minutes:g}"
    options = " --compile" * compiled + " --resume-from-embedded" * resume_from_embedded
    command = f"ctrlgen train molecules/{name} {budget} --seed {seed}{options}"

    def begin() -> None:
        continue_from(trainer, Card.read(WEIGHTS / f"{name}.json"), WEIGHTS, trainer.config)

    target = folder if out is None else Path(out)
    return session(
        trainer,
        name,
        folder=folder,
        out=target,
        minutes=minutes,
        steps=steps,
        resume=resume,
        begin=begin if resume_from_embedded else None,
        on_save=lambda trained: export(trained, prior_card(trained, command), target),
    )
