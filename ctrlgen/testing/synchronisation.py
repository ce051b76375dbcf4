"""What a run of a method asks of an accelerator: host synchronisations, mixes, operations.

    with Accelerator() as accelerator:
        ledger = watched(accelerator, method, prior, cost, seeds)

A method may read one number per iteration of its optimizer, how many rows still run; nothing else
may stop the host between the first and the last evaluation of the network (`Ledger.within`), and
before and after them the number of stops does not depend on the number of steps.
"""

from __future__ import annotations

import copy
from typing import Any

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import Seeds
from ctrlgen.testing.accelerator import Accelerator, Ledger

__all__ = ["observed", "watched"]


def observed(accelerator: Accelerator, prior: Prior) -> Prior:
    """The prior with a network whose calls are counted and whose forward is left out."""
    prior = copy.copy(prior)
    prior.flow = copy.copy(prior.flow)
    prior.flow.network = accelerator.network(prior.flow.network)
    return prior


def watched(accelerator: Accelerator, method: Any, prior: Prior, cost: Any, seeds: Seeds) -> Ledger:
    """The ledger of `method(prior, cost, seeds=seeds)`.

    Args:
        accelerator: entered.
        method: whose `device`, where it states one, is the accelerator's.
        prior: on the device.
        cost: on the device.
        seeds: one per sample.
    """
    prior = observed(accelerator, prior)
    with accelerator.watching() as ledger:
        method(prior, cost, seeds=seeds)
    return ledger
