"""Variants of samples: rows of prior and cost, V for each sample, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import rows_of
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.errors import CostError

__all__ = ["first_variants", "metered"]


def first_variants(
    prior: Prior, cost: CostLike, samples: int, variants: int
) -> tuple[Prior, CostLike]:
    """Prior and cost of the first variant of each sample.

    Args:
        prior: of all variants, or of no rows.
        cost: of all variants, or of no rows.
        samples: B.
        variants: V.

    Raises:
        ValueError: if the prior holds other than BV rows.
        CostError: if the cost does.
    """
    count = samples * variants
    prior.check_rows(count, f"{samples} seeds of {variants} variants")
    held = rows_of(cost)
    if held is not None and held != count:
        raise CostError(
            f"cost: holds data of {held} samples, expected {count}, {variants} variants of "
            f"{samples} seeds"
        )
    index = torch.arange(samples, device=prior.device) * variants
    return prior.take(index), cost_rows(cost, index)


def metered(prior: Prior, rows: Tensor, variants: int) -> tuple[Prior, Meter]:
    """As `Prior.metered`; what the variants of a sample take is counted for the sample."""
    own, meter = prior.metered(rows)
    if variants > 1:
        sample = torch.arange(len(rows), device=rows.device)
        own.flow.meter = meter.take(sample.repeat_interleave(variants))
    return own, meter
