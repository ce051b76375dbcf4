"""Cost functions: what a sample should be like, one number per sample."""

from __future__ import annotations

from ctrlgen.costs.base import Cost, FunctionCost, ScaledCost, SumCost, ThroughCodec
from ctrlgen.costs.classifier import ClassifierCost
from ctrlgen.costs.measurement import (
    LevelSet,
    MeasurementCost,
    NegativePSNR,
    Reversed,
    SquaredError,
)

__all__ = [
    "ClassifierCost",
    "Cost",
    "FunctionCost",
    "LevelSet",
    "MeasurementCost",
    "NegativePSNR",
    "Reversed",
    "ScaledCost",
    "SquaredError",
    "SumCost",
    "ThroughCodec",
]
