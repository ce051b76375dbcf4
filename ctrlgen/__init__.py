"""Controlled generation with pretrained flow and diffusion models, without training.

prior = ctrlgen.load("mnist")
result = DFlow.preset("sr2")(prior, cost, seeds=range(64))
"""

from __future__ import annotations

from ctrlgen.priors.prior import Prior, load

__all__ = ["Prior", "__version__", "load"]

__version__ = "0.1.0"
