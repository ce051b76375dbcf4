"""Cost functions: what a sample should be like, one number per sample."""

from __future__ import annotations

from ctrlgen.costs.base import Cost, FunctionCost, ScaledCost, SumCost, ThroughCodec
from ctrlgen.costs.blackbox import BlackBoxCost, Command, best_of
from ctrlgen.costs.chebyshev import ChebyshevCost
from ctrlgen.costs.classifier import ClassifierCost
from ctrlgen.costs.measurement import (
    LevelSet,
    MeasurementCost,
    NegativePSNR,
    Reversed,
    SquaredError,
    psnr,
)
from ctrlgen.costs.pareto import hypervolume, nondominated
from ctrlgen.costs.problems import InverseProblem, solve
from ctrlgen.costs.property import PropertyCost

__all__ = [
    "BlackBoxCost",
    "ChebyshevCost",
    "ClassifierCost",
    "Command",
    "Cost",
    "FunctionCost",
    "InverseProblem",
    "LevelSet",
    "MeasurementCost",
    "NegativePSNR",
    "PropertyCost",
    "Reversed",
    "ScaledCost",
    "SquaredError",
    "SumCost",
    "ThroughCodec",
    "best_of",
    "hypervolume",
    "nondominated",
    "psnr",
    "solve",
]
