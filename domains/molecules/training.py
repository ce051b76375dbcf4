"""Recipes of the embedded molecular networks; `ctrlgen.training` says how they train.

    train("qm9-heavy", data="data/qm9", minutes=95)
    train("qm9", data="qm9.safetensors", minutes=10, device="cuda", out="trained")
    train("moses-heavy", data="moses.safetensors", minutes=8, device="cuda", out="trained")

The mathematics is in `trainer` and `regressors`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ctrlgen.domains.molecules import moses_data
from ctrlgen.domains.molecules.batches import Molecule
from ctrlgen.domains.molecules.data import Molecules, fetch, pack_file, read
from ctrlgen.domains.molecules.elements import described
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
_CUDA = {"batch": 1024, "lr": 1.2e-2, "warmup": 0.02, "places": (17, 18, 20, 29), "compiled": True}
_CUDA_HEAVY = {"batch": 2048, "lr": 1.2e-2, "warmup": 0.02, "compiled": True}
_CUDA_REGRESSOR = {**_CUDA, "batch": 768, "lr": 8e-3}

# Half of MOSES's molecules have 20 to 23 heavy atoms, none more than 27.
_DRUG_PLACES = (18, 20, 21, 22, 23, 24, 27)
_CUDA_DRUG = {**_CUDA, "batch": 512, "lr": 8e-3, "places": (20, 22, 24, 27)}

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
        cuda={**_CUDA, "lr": 8e-3},
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
    "moses-heavy": Recipe(
        name="moses-heavy",
        dataset="moses-heavy",
        config={"network": "geot", "classes": 13, "width": 128, "depth": 6, "bands": 64},
        batch=64,
        lr=6e-3,
        position=2.3,
        places=_DRUG_PLACES,
        cuda=_CUDA_DRUG,
    ),
    "moses-heavy-guide": RegressorRecipe(
        name="moses-heavy-guide",
        dataset="moses-heavy",
        split="train",
        config={"classes": 13, "width": 96, "depth": 4, "reach": 18.0, "bands": 64},
        batch=96,
        lr=6e-3,
        jitter=0.05,
        soften=0.3,
        places=_DRUG_PLACES,
        cuda={**_CUDA_DRUG, "batch": 768},
    ),
}

_DATA = "QM9 (Ramakrishnan et al. 2014; qm9pack 1.0.3), {} of EDM's splits"
_MOSES = (
    "MOSES (Polykovskiy et al. 2020; molsets 0.3.1), {} molecules of train, positions by ETKDGv3 "
    "and MMFF94s"
)
_VALIDATION = 2048


def card_of(trainer: PriorTrainer | RegressorTrainer, command: str) -> Card:
    """What is known of a network beside its training."""
    recipe = trainer.recipe
    split = "D_b" if isinstance(recipe, Recipe) else recipe.split
    drug_like, network = not described(recipe.dataset).properties, "regressors"
    if drug_like:
        network = "score_networks"
    data = _MOSES.format(len(trainer.data.counts)) if drug_like else _DATA.format(split)
    card = Card(
        name=recipe.name,
        domain="molecules",
        factory=f"ctrlgen.domains.molecules.{network}:build",
        config=trainer.config,
        path={},
        prediction="",
        source={},
        data=data,
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
    if not described(recipe.dataset).properties:
        return _drug_trainer(recipe, data, seed, device)
    folder = _source(data)
    held = read(recipe.dataset, folder, "valid")
    if isinstance(recipe, Recipe):
        molecules = group_of(read(recipe.dataset, folder, "D_b"))
        return PriorTrainer(recipe, molecules, group_of(held, _VALIDATION), seed, device)
    known = read(recipe.dataset, folder, cast(Split, recipe.split))
    return _regressor(
        recipe, known, targets_of(known), held, targets_of(held), targets_of(held), seed, device
    )


def _regressor(
    recipe: RegressorRecipe,
    known: Molecules,
    targets: Tensor,
    held: Molecules,
    checks: Tensor,
    scale: Tensor,
    seed: int,
    device: torch.device | str,
) -> RegressorTrainer:
    """The trainer of properties (N, P), whose mean and deviation are those of `scale` (M, P)."""
    scale = scale.double()
    mean = scale.nanmean(0)
    deviation = (scale - mean).abs().nanmean(0)
    return RegressorTrainer(
        recipe,
        group_of(known),
        targets,
        group_of(held, _VALIDATION),
        checks[:_VALIDATION],
        [round(float(part), 6) for part in mean],
        [round(float(part), 6) for part in deviation],
        seed,
        device,
    )


def _drug_trainer(
    recipe: Recipe | RegressorRecipe,
    data: str | Path | None,
    seed: int,
    device: torch.device | str,
) -> PriorTrainer | RegressorTrainer:
    source = Path("data") / "moses" if data is None else Path(data)
    known, held = (moses_data.read(source, split) for split in ("train", "test"))
    if isinstance(recipe, Recipe):
        return PriorTrainer(recipe, group_of(known), group_of(held, _VALIDATION), seed, device)
    # What no molecule is labelled with is no property of the network.
    names = [
        name for name, values in known.properties.items()
        if not bool(values.isnan().all() | held.properties[name].isnan().all())
    ]  # fmt: skip
    targets, checks = (
        torch.stack([part.properties[name] for name in names], 1) for part in (known, held)
    )
    recipe = replace(recipe, config={**recipe.config, "names": names})
    return _regressor(recipe, known, targets, held, checks, targets, seed, device)


def pack(
    name: str, path: str | Path, *, data: str | Path | None = None, samples: int | None = None
) -> Path:
    """Write QM9, or MOSES's conformers, to one file that `train` takes as data.

    Args:
        name: a key of `RECIPES`, all of a data set taking the same file.
        path: file to write.
        data: folder of the data set; QM9 is downloaded into data/qm9 when None, and the conformers
            are those of data/moses.
        samples: molecules of MOSES to train on, the first ones; all that there are when None, the
            only choice for QM9, whose splits are drawn from all molecules.

    Raises:
        ValueError: an unknown name, or a number of samples that cannot be.
        FileNotFoundError: no conformers; the command that makes them is named.
    """
    if not described(train.recipe(name).dataset).properties:
        return moses_data.pack_file(data or Path("data") / "moses", path, samples)
    if samples is not None:
        raise ValueError(f"samples: expected none, QM9 is packed whole, got {samples}")
    return pack_file(_source(data), path)


def _source(data: str | Path | None) -> Path:
    return Path(data) if data is not None else fetch(Path("data") / "qm9")


train = Training("molecules", RECIPES, trainer=_trainer, card_of=card_of, weights=WEIGHTS)
