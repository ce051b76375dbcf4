"""Measurement operators of images (B, C, H, W) in [-1, 1], any size.

`OPERATORS` names every one of them by its constructor, for tables and for the tests of the laws.
"""

from __future__ import annotations

from collections.abc import Callable

from ctrlgen.domains.images.operators.blur import Blur, GaussianBlur, MotionBlur
from ctrlgen.domains.images.operators.colour import Colourise
from ctrlgen.domains.images.operators.jpeg import JPEG
from ctrlgen.domains.images.operators.masks import Denoise, Inpainting
from ctrlgen.domains.images.operators.nonlinear import NonlinearBlur
from ctrlgen.domains.images.operators.phase import PhaseRetrieval
from ctrlgen.domains.images.operators.resampling import BlockAverage, SuperResolution
from ctrlgen.domains.images.operators.separable import Separable
from ctrlgen.domains.images.operators.tone import HDR, Quantise
from ctrlgen.operators.base import Operator

__all__ = [
    "HDR",
    "JPEG",
    "OPERATORS",
    "BlockAverage",
    "Blur",
    "Colourise",
    "Denoise",
    "GaussianBlur",
    "Inpainting",
    "MotionBlur",
    "NonlinearBlur",
    "PhaseRetrieval",
    "Quantise",
    "Separable",
    "SuperResolution",
]

OPERATORS: dict[str, Callable[..., Operator]] = {
    "denoise": Denoise,
    "inpaint-mask": Inpainting,
    "inpaint-centre": Inpainting.centre,
    "inpaint-random": Inpainting.random,
    "inpaint-free-form": Inpainting.free_form,
    "super-resolution": SuperResolution,
    "block-average": BlockAverage,
    "gaussian-blur": GaussianBlur,
    "blur": Blur,
    "motion-blur": MotionBlur,
    "colourise": Colourise,
    "nonlinear-blur": NonlinearBlur,
    "phase-retrieval": PhaseRetrieval,
    "hdr": HDR,
    "quantise": Quantise,
    "jpeg": JPEG,
}
