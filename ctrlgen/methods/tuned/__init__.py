"""Settings of every method for inverse problems, as the commands and `ctrlgen.solve` use them."""

from __future__ import annotations

from ctrlgen.methods.tuned.case import Case
from ctrlgen.methods.tuned.table import METHODS, Entry, build, named

__all__ = ["METHODS", "Case", "Entry", "build", "named"]
