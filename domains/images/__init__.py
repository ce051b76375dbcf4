"""Images: data, networks, operators, metrics and pretrained priors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctrlgen.lazy import attach
from ctrlgen.plugins import Domain

if TYPE_CHECKING:
    from ctrlgen.domains.images.data import held_out
    from ctrlgen.domains.images.files import ImageFile, read_image, write_image
    from ctrlgen.domains.images.operators import (
        HDR,
        JPEG,
        BlockAverage,
        Blur,
        Colourise,
        Denoise,
        GaussianBlur,
        Inpainting,
        MotionBlur,
        NonlinearBlur,
        PhaseRetrieval,
        Quantise,
        SuperResolution,
    )

__all__ = [
    "HDR",
    "JPEG",
    "BlockAverage",
    "Blur",
    "Colourise",
    "Denoise",
    "GaussianBlur",
    "ImageFile",
    "Inpainting",
    "MotionBlur",
    "NonlinearBlur",
    "PhaseRetrieval",
    "Quantise",
    "SuperResolution",
    "domain",
    "held_out",
    "read_image",
    "write_image",
]

__getattr__, __dir__ = attach(__name__)

_TRAIN = "ctrlgen.domains.images.training:train"

domain = Domain(
    name="images",
    cards=Path(__file__).parent / "weights",
    command="image",
    app="ctrlgen.domains.images.cli:app",
    recipes={
        "mnist": _TRAIN,
        "cifar10": _TRAIN,
        "cifar10-large": _TRAIN,
        "mnist-classifier": _TRAIN,
    },
    demo="ctrlgen.domains.images.demo:run",
    panel="ctrlgen.domains.images.panel:PANEL",
    pose="ctrlgen.domains.images.posing:pose",
    builders=("ctrlgen.domains.images.networks:build", "ctrlgen.domains.images.classifier:build"),
)
