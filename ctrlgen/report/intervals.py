r"""Means with intervals: the bias-corrected and accelerated bootstrap (BCa).

B. Efron, "Better bootstrap confidence intervals", J. Am. Stat. Assoc. 82 (1987), as
`scipy.stats.bootstrap` computes it. Values that are missing or not finite have no part in a mean;
they are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ctrlgen.extras import require

__all__ = ["LEVEL", "Mean", "mean_of"]

LEVEL = 0.95


class Mean(NamedTuple):
    """A mean with its interval, and how many values it could not have.

    Attributes:
        mean: of the finite values; NaN where there is none.
        low, high: ends of the interval at 95 %; NaN for fewer than two values.
        missing: values that are not finite, of `total`.
        total: all values.
    """

    mean: float
    low: float
    high: float
    missing: int
    total: int

    def text(self, digits: int) -> str:
        """As a cell of a table: what is missing is said beside the number."""
        if self.missing == self.total:
            return "-"
        text = f"{self.mean:.{digits}f}"
        if self.low < self.high:
            text += f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return text + (f" ({self.missing} of {self.total} without)" if self.missing else "")


def mean_of(values: Sequence[float | None], resamples: int = 1999) -> Mean:
    """The mean of the finite values, with its interval.

    Args:
        values: numbers, or None where there is none.
        resamples: of the bootstrap, of a fixed seed.
    """
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    missing = len(values) - len(finite)
    if not finite:
        return Mean(math.nan, math.nan, math.nan, missing, len(values))
    mean = math.fsum(finite) / len(finite)
    if len(finite) == 1:
        return Mean(mean, math.nan, math.nan, missing, len(values))
    if len(set(finite)) == 1:  # there is nothing to resample
        return Mean(mean, finite[0], finite[0], missing, len(values))
    numpy, stats = require("numpy", "report"), require("scipy.stats", "report")
    ends = stats.bootstrap(
        (numpy.array(finite),),
        numpy.mean,
        confidence_level=LEVEL,
        n_resamples=resamples,
        batch=1000,
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    return Mean(mean, float(ends.low), float(ends.high), missing, len(values))
