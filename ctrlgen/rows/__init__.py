"""What belongs to one sample of a batch: its seeds, status, counts and share of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.rows.batching import PerSample, take
    from ctrlgen.rows.counts import Evaluations
    from ctrlgen.rows.errors import CardError, CostError, MissingExtra, ResultError, UnknownName
    from ctrlgen.rows.seeds import Seeds, as_seeds, normal, rademacher, uniform
    from ctrlgen.rows.status import Status

__all__ = [
    "CardError",
    "CostError",
    "Evaluations",
    "MissingExtra",
    "PerSample",
    "ResultError",
    "Seeds",
    "Status",
    "UnknownName",
    "as_seeds",
    "normal",
    "rademacher",
    "take",
    "uniform",
]

__getattr__, __dir__ = attach(__name__)
