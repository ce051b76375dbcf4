"""A table of molecules in numbers: shares over all rows, mean errors, and what has no number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ctrlgen.domains.molecules.properties import PROPERTIES

__all__ = ["FLAGS", "summary"]

FLAGS = (
    "satisfied (guide)", "satisfied (evaluator)", "composition", "fragment", "scaffold", "valid",
    "stable", "stable (EDM)", "valid (EDM)", "novel (D_b)", "novel (QM9)", "duplicate",
    "posebusters", "front",
)  # fmt: skip
"""Columns that hold yes or no, or nothing where nothing was asked or nothing is known."""


def summary(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The table in numbers: shares over all rows, none left out, and mean errors per property.

    Args:
        rows: of a `Table`.
        names: the properties that were asked.
    """
    told: dict[str, Any] = {"molecules": len(rows)}
    for flag in FLAGS:
        values = [row[flag] for row in rows if row.get(flag) is not None]
        # what has no name is no duplicate; what was never asked has no share
        told[flag] = sum(values) / len(rows) if values and rows else None
        if any(flag in row for row in rows):
            told[f"{flag}, unknown"] = len(rows) - len(values)
    strains = [row.get("strain (kcal/mol)", math.nan) for row in rows]
    strains = [strain for strain in strains if not math.isnan(strain)]
    told["median strain (kcal/mol)"] = statistics.median(strains) if strains else None
    told["without strain"] = len(rows) - len(strains)
    for name in names:
        unit = PROPERTIES[name].unit
        errors = [row[f"error {name} ({unit})"] for row in rows]
        known = [error for error in errors if not math.isnan(error)]
        told[f"evaluator MAE {name} ({unit})"] = sum(known) / len(known) if known else None
        told[f"without evaluator {name}"] = len(errors) - len(known)
    return told
