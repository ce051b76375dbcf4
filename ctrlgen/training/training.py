"""The networks that a domain trains: recipes by name, and the one call that trains them.

    train = Training("images", RECIPES, trainer=..., card_of=..., weights=WEIGHTS)
    train("mnist", data="data/mnist", minutes=35)

trains, writes weights, card and log beside one another, and checkpoints under runs/. Called again
it resumes; with a longer budget it extends the run (the learning rate rises to where the longer
schedule has it). On a machine with a card and a packed file nothing else is needed:

    train("mnist", data="mnist.safetensors", minutes=10, device="cuda", out="trained")

there the recipe has a larger batch and compiles its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from ctrlgen.priors.cards import Card
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.session import Options, check_run, places, session
from ctrlgen.training.trainer import Trainer

__all__ = ["Training"]

Recipe = TypeVar("Recipe", bound=Schedule)


@dataclass(frozen=True)
class Training(Generic[Recipe]):
    """Trains the networks of a domain; the recipes, the data and the cards are the domain's.

    Attributes:
        domain: its name.
        recipes: by the name of the network.
        trainer: a fresh run from recipe, data (a path or None), seed and device; it reads the data.
        card_of: what is known of a network beside its training, from trainer and command.
        weights: folder of the weights that the package brings.
        closed: for recipes that need no run: from recipe, data, folder and command it writes
            weights, card and log and returns the card's path, or None for a recipe that trains.
    """

    domain: str
    recipes: Mapping[str, Recipe]
    trainer: Callable[[Recipe, str | Path | None, int, torch.device | str], Trainer]
    card_of: Callable[[Any, str], Card]
    weights: Path
    closed: Callable[[Recipe, str | Path | None, Path, str], Path | None] | None = None

    def recipe(self, name: str) -> Recipe:
        """The recipe of a name.

        Raises:
            ValueError: an unknown name.
        """
        if name not in self.recipes:
            raise ValueError(f"name: expected one of {sorted(self.recipes)}, got {name!r}")
        return self.recipes[name]

    def __call__(
        self,
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
        overwrite: bool = False,
    ) -> Path:
        """Train a network, or go on training it.

        Args:
            name: a key of `recipes`.
            data: folder of the data set, or a packed file; the domain's own place when None.
            out: folder of weights, card and log; runs/<domain>-<name> when None. Checkpoints
                always lie in runs/<domain>-<name>.
            minutes: budget in minutes of training, over all resumed parts on this kind of device.
            steps: budget in optimiser steps instead; a run by steps is reproducible from its seed.
            resume: continue from the checkpoint when there is one.
            seed: of the weights and of every draw.
            device: where to train.
            threads: CPU threads; unchanged when None.
            compiled: compile the network first (needs a C++ compiler): up to twice as fast.
            resume_from_embedded: without a checkpoint, continue from the embedded weights with a
                fresh optimiser; the card keeps the recipe of the earlier part.
            overwrite: replace the card and weights of another training.

        Returns:
            The path of the model card.

        Raises:
            ValueError: an unknown name, not exactly one budget, a checkpoint of another recipe, or
                a card of another training in `out`.
            FileNotFoundError: no data, and none that could be fetched.
        """
        recipe, title = self.recipe(name).on(device), f"{self.domain}/{name}"
        options = Options(out, minutes, steps, resume, compiled, resume_from_embedded, overwrite)
        check_run(title, options)
        if threads is not None:
            torch.set_num_threads(threads)
        if self.closed is not None:
            folder, command = places(title, out)[0], f"ctrlgen train {title} --steps 1"
            card = self.closed(recipe, data, folder, command)
            if card is not None:
                return card
        trainer = self.trainer(recipe, data, seed, device)
        return session(trainer, title, options, card_of=self.card_of, embedded=self.weights)
