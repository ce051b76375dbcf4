"""Measurement operators of inverse problems, and linear systems in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.operators.base import (
        Composed,
        LinearOperator,
        Measurement,
        Operator,
        Spectrum,
        dense,
        measure,
    )
    from ctrlgen.operators.matrix import Matrix
    from ctrlgen.operators.systems import conjugate_gradients

__all__ = [
    "Composed",
    "LinearOperator",
    "Matrix",
    "Measurement",
    "Operator",
    "Spectrum",
    "conjugate_gradients",
    "dense",
    "measure",
]

__getattr__, __dir__ = attach(__name__)
