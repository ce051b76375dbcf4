"""Images: data, networks, operators, metrics and pretrained priors."""

from __future__ import annotations

from pathlib import Path

from ctrlgen.plugins import Domain

__all__ = ["domain"]

_TRAIN = "ctrlgen.domains.images.training:train"

domain = Domain(
    name="images",
    cards=Path(__file__).parent / "weights",
    command="image",
    app="ctrlgen.domains.images.cli:app",
    operators="ctrlgen.domains.images.operators:OPERATORS",
    recipes={
        "mnist": _TRAIN,
        "cifar10": _TRAIN,
        "cifar10-large": _TRAIN,
        "mnist-classifier": _TRAIN,
    },
    demo="ctrlgen.domains.images.demo:run",
    builders=("ctrlgen.domains.images.networks:build", "ctrlgen.domains.images.classifier:build"),
)
