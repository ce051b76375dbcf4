"""Time grids, and the rules that take a sampler from one of their levels to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.sampling.fresh import Mix
    from ctrlgen.sampling.grids import DDPMUniform, Grid, Karras, Power, Respaced, Times, Uniform
    from ctrlgen.sampling.samplers import Sampler
    from ctrlgen.sampling.steps import (
        DDIM,
        Ancestral,
        EDMStep,
        EulerStep,
        HeunStep,
        ShareStep,
        StepRule,
    )

__all__ = [
    "DDIM",
    "Ancestral",
    "DDPMUniform",
    "EDMStep",
    "EulerStep",
    "Grid",
    "HeunStep",
    "Karras",
    "Mix",
    "Power",
    "Respaced",
    "Sampler",
    "ShareStep",
    "StepRule",
    "Times",
    "Uniform",
]

__getattr__, __dir__ = attach(__name__)
