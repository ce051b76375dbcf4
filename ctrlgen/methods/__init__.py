"""Methods: algorithms from prior and cost to result, one family a module."""

from __future__ import annotations

from ctrlgen.methods.base import Method
from ctrlgen.methods.dflow import DFlow

__all__ = ["DFlow", "Method"]
