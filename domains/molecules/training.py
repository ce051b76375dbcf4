"""Recipes of the embedded molecular networks; `ctrlgen.training` says how they train.

    train("qm9-heavy", data="data/qm9", minutes=95)
    train("qm9", data="qm9.safetensors", minutes=10, device="cuda", out="trained")

The mathematics is in `trainer` and `regressors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ctrlgen.domains.molecules.batches import Molecule
from ctrlgen.domains.molecules.data import Molecules, fetch, pack_file, read
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressor_trainer import RegressorRecipe, RegressorTrainer
from ctrlgen.domains.molecules.splits import Split
from ctrlgen.domains.molecules.trainer import GRID, PriorTrainer, Recipe
from ctrlgen.priors.cards import Card
from ctrlgen.training.training import Training

__all__ = ["RECIPES", "WEIGHTS", "card_of", "pack", "train"]

WEIGHTS = Path(__file__).parent / "weights"

_PLACES = (12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 29)

# On a card a batch is filled eight times as fast, from four buckets that all hold several.
_CUDA = {"batch": 1024, "lr": 1.2e-2, "warmup": 0.02, "places": (16, 18, 20, 29), "compiled": True}
_CUDA_HEAVY = {"batch": 2048, "lr": 1.2e-2, "warmup": 0.02, "compiled": True}
_CUDA_REGRESSOR = {**_CUDA, "batch": 768, "lr": 8e-3}

RECIPES: dict[str, Recipe | RegressorRecipe] = {
    "qm9-heavy": Recipe(
        name="qm9-heavy",
        dataset="qm9-heavy",
        config={"network": "geot", "classes": 14, "width": 128, "depth": 6},
        batch=256,
        lr=9e-3,
        places=(9,),
        cuda=_CUDA_HEAVY,
    ),
    "qm9": Recipe(
        name="qm9",
        dataset="qm9",
        config={"network": "geot", "classes": 5, "width": 128, "depth": 6},
        batch=128,
        lr=9e-3,
        places=_PLACES,
        cuda=_CUDA,
    ),
    "qm9-evaluator": RegressorRecipe(
        name="qm9-evaluator",
        dataset="qm9",
        split="D_a",
        config={"classes": 5, "width": 96, "depth": 4},
        batch=96,
        lr=6e-3,
        places=_PLACES,
        cuda=_CUDA_REGRESSOR,
    ),
    "qm9-guide": RegressorRecipe(
        name="qm9-guide",
        dataset="qm9",
        split="D_b",
        config={"classes": 5, "width": 96, "depth": 4},
        batch=96,
        lr=6e-3,
        jitter=0.05,
        soften=0.3,
        places=_PLACES,
        cuda=_CUDA_REGRESSOR,
    ),
    "qm9-heavy-guide": RegressorRecipe(
        name="qm9-heavy-guide",
        dataset="qm9-heavy",
        split="D_b",
        config={"classes": 14, "width": 96, "depth": 4},
        batch=128,
        lr=6e-3,
        jitter=0.05,
        soften=0.3,
        places=(9,),
        cuda={**_CUDA_HEAVY, "batch": 1024, "lr": 8e-3},
    ),
}

_DATA = "QM9 (Ramakrishnan et al. 2014; qm9pack 1.0.3), {} of EDM's splits"
_VALIDATION = 2048


def card_of(trainer: PriorTrainer | RegressorTrainer, command: str) -> Card:
    """What is known of a network beside its training."""
    recipe = trainer.recipe
    split = "D_b" if isinstance(recipe, Recipe) else recipe.split
    card = Card(
        name=recipe.name,
        domain="molecules",
        factory="ctrlgen.domains.molecules.regressors:build",
        config=trainer.config,
        path={},
        prediction="",
        source={},
        data=_DATA.format(split),
        command=command,
        licence="MIT",
    )
    if isinstance(recipe, Recipe):
        places, states = recipe.places[-1], "ctrlgen.domains.molecules.states"
        card.factory = "ctrlgen.domains.molecules.networks:build"
        card.path, card.prediction = {"type": "CondOT"}, "velocity"
        features = 3 + recipe.config["classes"]
        card.source = {"type": f"{states}:Atoms", "places": places, "features": features}
        scales = {"position": recipe.position, "one_hot": recipe.one_hot}
        card.codec = {"type": f"{states}:AtomCodec", **scales}
        card.grid = {"type": "Power", **GRID.config()}  # chosen by weights/quality/grid.json
        card.conditions = {"counts": {"least": 2, "most": places}}
    return card


def group_of(found: Molecules, count: int | None = None) -> Molecule:
    """The first molecules of a data set, all where count is None."""
    return Molecule(found.positions[:count], found.classes[:count], found.counts[:count])


def targets_of(found: Molecules, count: int | None = None) -> Tensor:
    """Their properties in units and order of `PROPERTIES`, shape (N, 6)."""
    return torch.stack([found.properties[name][:count] for name in PROPERTIES], dim=1)


def _trainer(
    recipe: Recipe | RegressorRecipe,
    data: str | Path | None,
    seed: int,
    device: torch.device | str,
) -> PriorTrainer | RegressorTrainer:
    folder = _source(data)
    held = read(recipe.dataset, folder, "valid")
    if isinstance(recipe, Recipe):
        molecules = group_of(read(recipe.dataset, folder, "D_b"))
        return PriorTrainer(recipe, molecules, group_of(held, _VALIDATION), seed, device)
    known = read(recipe.dataset, folder, cast(Split, recipe.split))
    values = targets_of(held).double()
    mean = values.mean(0)
    deviation = (values - mean).abs().mean(0)
    return RegressorTrainer(
        recipe,
        group_of(known),
        targets_of(known),
        group_of(held, _VALIDATION),
        targets_of(held, _VALIDATION),
        [round(float(part), 6) for part in mean],
        [round(float(part), 6) for part in deviation],
        seed,
        device,
    )


def pack(
    name: str, path: str | Path, *, data: str | Path | None = None, samples: int | None = None
) -> Path:
    """Write QM9 to one file that `train` takes as data, whatever the recipe.

    Args:
        name: a key of `RECIPES`.
        path: file to write.
        data: folder of QM9; downloaded into data/qm9 when None.
        samples: None, the only choice: splits are drawn from all molecules.

    Raises:
        ValueError: an unknown name, or a number of samples.
    """
    train.recipe(name)
    if samples is not None:
        raise ValueError(f"samples: expected none, QM9 is packed whole, got {samples}")
    return pack_file(_source(data), path)


def _source(data: str | Path | None) -> Path:
    return Path(data) if data is not None else fetch(Path("data") / "qm9")


train = Training("molecules", RECIPES, trainer=_trainer, card_of=card_of, weights=WEIGHTS)
