"""Recipes of the embedded image networks; `ctrlgen.training` says how they train.

    train("mnist", data="data/mnist", minutes=35)
    train("cifar10", data="cifar10.safetensors", minutes=10, device="cuda", out="trained")

The mathematics is in `trainer`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ctrlgen.domains.images import packed
from ctrlgen.domains.images.classifier import ClassifierTrainer
from ctrlgen.domains.images.data import fetch, read
from ctrlgen.domains.images.trainer import Recipe, Trainer
from ctrlgen.priors.cards import Card
from ctrlgen.training.training import Training

__all__ = ["RECIPES", "WEIGHTS", "card_of", "pack", "train"]

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
        cuda={"batch": 512, "lr": 6e-3, "warmup": 0.02, "compiled": True},
    ),
    "cifar10": Recipe(
        name="cifar10",
        dataset="cifar10",
        config={"network": "unet", **_CIFAR10, "widths": [64, 96, 160]},
        flips=True,
        dropout=0.5,
        cuda={"batch": 512, "lr": 6e-3, "warmup": 0.02, "compiled": True},
    ),
    # For one card: as large as the package has room for beside the others.
    "cifar10-large": Recipe(
        name="cifar10-large",
        dataset="cifar10",
        config={"network": "unet", **_CIFAR10, "widths": [96, 128, 176]} | {"attention": 4},
        flips=True,
        dropout=0.2,
        cuda={"batch": 512, "warmup": 0.02, "compiled": True},
    ),
    "mnist-classifier": Recipe(
        name="mnist-classifier",
        dataset="mnist",
        config={"shape": [1, 28, 28], "classes": 10, "widths": [32, 64, 128]},
        dropout=0.0,
        flat=0.2,
        cuda={"batch": 512, "warmup": 0.02, "compiled": True},
    ),
}

_DATA = {
    "mnist": "MNIST training split (LeCun, Cortes & Burges 1998), 59,000 of 60,000 images",
    "cifar10": "CIFAR-10 training split (Krizhevsky 2009), 49,000 of 50,000 images",
}


def card_of(trainer: Trainer, command: str) -> Card:
    """What is known of a network beside its training."""
    recipe, config = trainer.recipe, trainer.recipe.config
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
        command=command,
        licence="MIT",
    )
    if factory == "networks":
        card.path, card.prediction = {"type": "CondOT"}, "velocity"
        card.source = {"type": "Gaussian", "shape": config["shape"]}
        card.conditions = {"label": {"classes": config["classes"], "null": config["classes"]}}
    return card


def _folder(dataset: str, data: str | Path | None) -> Path:
    """The folder or packed file to read, downloaded into data/<dataset> when none was given."""
    if data is not None:
        return Path(data)
    default = Path("data") / dataset
    return default if default.is_dir() else fetch(dataset, default)


def pack(
    name: str, path: str | Path, *, data: str | Path | None = None, samples: int | None = None
) -> Path:
    """Write the training images of a recipe to one file that `train` takes as data.

    Args:
        name: a key of `RECIPES`.
        path: file to write.
        data: folder of the data set; downloaded into data/ when None.
        samples: the first images of the training split; all when None.

    Raises:
        ValueError: an unknown name, or more images than there are.
    """
    dataset = train.recipe(name).dataset
    images, labels = read(dataset, _folder(dataset, data))
    if samples is not None and not 1 <= samples <= len(images):
        raise ValueError(f"samples: expected 1..{len(images)}, got {samples}")
    pixels = ((images[:samples] + 1) * 127.5).round().to(torch.uint8).numpy()
    return packed.save(pixels, labels[:samples].numpy(), dataset, path)


def _trainer(
    recipe: Recipe, data: str | Path | None, seed: int, device: torch.device | str
) -> Trainer:
    kind = ClassifierTrainer if recipe.name == "mnist-classifier" else Trainer
    return kind(recipe, read(recipe.dataset, _folder(recipe.dataset, data)), seed, device)


train = Training("images", RECIPES, trainer=_trainer, card_of=card_of, weights=WEIGHTS)
