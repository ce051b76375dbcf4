"""Per-sample batched optimizers: B independent minimisations in one batch, without a row loop."""

from __future__ import annotations

from ctrlgen.optimizers.base import (
    Evaluated,
    Event,
    FunctionObjective,
    Objective,
    Observer,
    Optimizer,
    Projection,
    ResidualObjective,
    Solution,
)
from ctrlgen.optimizers.early import WindowedVariance
from ctrlgen.optimizers.first_order import Adam, GradientDescent
from ctrlgen.optimizers.gauss_newton import GaussNewton
from ctrlgen.optimizers.lbfgs import LBFGS
from ctrlgen.rows.status import Status

__all__ = [
    "LBFGS",
    "Adam",
    "Evaluated",
    "Event",
    "FunctionObjective",
    "GaussNewton",
    "GradientDescent",
    "Objective",
    "Observer",
    "Optimizer",
    "Projection",
    "ResidualObjective",
    "Solution",
    "Status",
    "WindowedVariance",
]
