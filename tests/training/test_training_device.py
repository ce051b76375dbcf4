"""A training step on an accelerator, pretended: nothing is read from it, nothing copied to it.

Every trainer takes steps on the device "meta", whose tensors hold no data: torch refuses to read
one or to mix it with others, and copies between host and device are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import adam, adamw, optimizer
from torch.utils import _foreach_utils as foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from ctrlgen.domains.audio import trainer as audio_trainer
from ctrlgen.domains.audio import training as audio_training
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.encodec_trainer import EnCodecRecipe, EnCodecTrainer
from ctrlgen.domains.audio.resident import Resident
from ctrlgen.domains.images import trainer as image_trainer
from ctrlgen.domains.images import training as image_training
from ctrlgen.domains.images.classifier import ClassifierTrainer
from ctrlgen.domains.images.data import Images
from ctrlgen.domains.molecules import trainer as molecule_trainer
from ctrlgen.domains.molecules import training as molecule_training
from ctrlgen.domains.molecules.batches import Molecule
from ctrlgen.domains.molecules.layers import centred
from ctrlgen.domains.molecules.regressor_trainer import RegressorTrainer
from ctrlgen.domains.molecules.trainer import PriorTrainer
from ctrlgen.training import trainer as trainers
from ctrlgen.training.trainer import Trainer

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Copies between devices, by what was called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            devices = {part.device for part in (*args, out) if isinstance(part, Tensor)}
            if len(devices) > 1:
                self.names.append(func._schema.name)
        return out


def images(kind: type[image_trainer.Trainer], name: str) -> Trainer:
    recipe = image_training.RECIPES[name].on("cuda")
    shape = recipe.config["shape"]
    widths = [4, 4, 4][: len(recipe.config["widths"])]
    recipe = replace(recipe, batch=8, validation=4, config={**recipe.config, "widths": widths})
    draw = torch.Generator().manual_seed(0)
    data = Images(torch.rand(20, *shape, generator=draw) * 2 - 1, torch.arange(20) % 10)
    return kind(recipe, data, device=META)


def group() -> Molecule:
    draw = torch.Generator().manual_seed(0)
    counts = torch.tensor([5, 3, 2, 4] * 6)
    classes = torch.randint(5, (24, 5), generator=draw)
    classes[torch.arange(5) >= counts.unsqueeze(1)] = -1
    return Molecule(centred(torch.randn(24, 5, 3, generator=draw), classes >= 0), classes, counts)


def codec() -> Trainer:
    pytest.importorskip("transformers")
    recipe = audio_training.RECIPES["encodec-16k"].on("cuda")
    assert isinstance(recipe, EnCodecRecipe)
    config = {**recipe.config, "num_filters": 2, "upsampling_ratios": [4, 2]}
    music = Music((np.arange(4000, dtype=np.int16),), ("ramp",))
    small = replace(recipe, config=config, batch=2, length=800, validation=2)
    trainer = EnCodecTrainer(small, music, music, device=META)
    trainer.music.clips(torch.zeros(2, device=META), 800)  # where pieces begin is copied once
    return trainer


SMALL = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}


def prior() -> Trainer:
    recipe = molecule_training.RECIPES["qm9"].on("cuda")
    config = {"network": "geot", "classes": 5, **SMALL}
    return PriorTrainer(
        replace(recipe, config=config, batch=4, places=(3, 5)), group(), group(), device=META
    )


def regressor() -> Trainer:
    recipe = molecule_training.RECIPES["qm9-guide"].on("cuda")
    recipe = replace(recipe, config={"classes": 5, **SMALL}, batch=4, places=(3, 5))
    targets = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    parts = (group(), targets, group(), targets, [0.0] * 6, [1.0] * 6)
    return RegressorTrainer(recipe, *parts, device=META)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        lambda: images(image_trainer.Trainer, "cifar10"),
        lambda: images(image_trainer.Trainer, "mnist"),
        lambda: images(ClassifierTrainer, "mnist-classifier"),
        prior,
        regressor,
        codec,
    ],
    ids=["cifar10", "mnist", "mnist-classifier", "qm9", "qm9-guide", "encodec-16k"],
)
@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_step_leaves_the_device_alone(
    build: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainers.generator

    def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator | None:
        return None if torch.device(device).type == "meta" else made(*key)

    for module in (trainers, audio_trainer, image_trainer, molecule_trainer):
        monkeypatch.setattr(module, "generator", generator)
    monkeypatch.setattr(audio_trainer, "resident", Resident)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no "meta"
    supported = [*foreach_utils._get_fused_kernels_supported_devices(), "meta"]
    for module in (adam, adamw, optimizer):
        monkeypatch.setattr(
            module, "_get_fused_kernels_supported_devices", lambda: supported, raising=False
        )

    trainer = build()
    # The order of an epoch is drawn on the host and copied once: it is there before the step.
    order = getattr(trainer, "order", None) or getattr(trainer, "batches", None)
    if order is not None:
        order(0)
    with Copies() as copies:
        for _ in range(2):  # the optimisers' state is made in the first
            loss, norm = trainer.step(0.5)
        assert loss.device == norm.device == META
    assert copies.names == []
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        trainer.read()  # what a word from the device looks like
