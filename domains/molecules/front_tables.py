r"""A front of molecules in numbers: who is on it, and how much it is worth beside plain draws.

The evaluator says who is on the front, never the guide, which was made small on purpose: a row's
rank is 1 where no valid molecule of the run is at least as good in every property and better in
one, 2 where that is so among the others, and so on. Worth is the hypervolume (`costs.pareto`) in
products of mean absolute deviations, by either network: of the molecules, of the draws of the prior
that were screened for them (with --compare as many more as steering costs), and of both together.
What is no valid molecule is on no front.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs.pareto import hypervolume, nondominated, ranks
from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.runs.schema import HISTORY

__all__ = ["DRAWS", "JUDGES", "in_words", "mark", "points", "settled"]

DRAWS = "draws {} {}"
"""Name of a history: the draws of each row by whom, and of which property; shape (J, B)."""

JUDGES = ("guide", "evaluator")
"""Who says what the properties of a molecule are."""

_DRAWN = 2000  # points of draws that files and pages hold


def points(front: Front, rows: Sequence[Mapping[str, Any]], who: str) -> Tensor:
    """Property values of rows by a network, shape (B, K); NaN where a row is no molecule."""
    keys = [f"{who} {name} ({PROPERTIES[name].unit})" for name in front.names]
    valid = [bool(row.get("valid")) for row in rows]
    table = [
        [row[key] if there and row.get(key) is not None else math.nan for key in keys]
        for row, there in zip(rows, valid, strict=True)
    ]
    return torch.tensor(table, dtype=torch.float64).reshape(len(rows), len(keys))


def mark(front: Front, rows: Sequence[dict[str, Any]]) -> None:
    """Add to rows whether they are on the front, and their rank; None where nothing is known."""
    rank = ranks(front.costs(points(front, rows, "evaluator"))).tolist()
    for row, place in zip(rows, rank, strict=True):
        judged = bool(place) or row.get("valid") is False
        row["front"] = place == 1 if judged else None
        row["front rank"] = place or None


def settled(
    about: Mapping[str, Any], rows: Sequence[dict[str, Any]], units: Iterable[Any]
) -> dict[str, Any]:
    """Mark the rows of a run, and say what its front is worth.

    Args:
        about: `Front.about`, as the manifest has it.
        rows: of all molecules.
        units: of the run, with histories of draws in `tensors`.

    Returns:
        JSON-able: the front, its "reference", and for "molecules", "draws" and "together" how many
        are "valid", the "hypervolume (guide)" and "hypervolume (evaluator)", and passes of the
        network "evaluations", forward and backward, for each molecule of the run; "points" of
        draws by the evaluator.
    """
    front = Front(tuple(about["properties"]), tuple(about["large"]))
    mark(front, rows)
    draws = _draws(front, units)
    made = {who: points(front, rows, who) for who in JUDGES}
    each = len(draws["guide"]) // max(len(rows), 1)
    steered = [row["evaluations"] + row["backward passes"] for row in rows]
    told: dict[str, Any] = {**about, "unit": " ".join(["MAD"] * len(front.names))}
    for name, values, evaluations in (
        ("molecules", made, sum(steered) / len(steered)),
        ("draws", draws, 2 * about["steps"] * each),
        ("together", {who: torch.cat((made[who], draws[who])) for who in JUDGES}, None),
    ):
        told[name] = _worth(front, values, about["reference"])
        if evaluations is not None:
            told[name]["evaluations"] = evaluations
    told["points"] = _thinned(front, draws["evaluator"]).tolist()
    return told


def _worth(
    front: Front, values: Mapping[str, Tensor], reference: Sequence[float]
) -> dict[str, Any]:
    limit = front.costs(torch.tensor(reference, dtype=torch.float64))
    worth: dict[str, Any] = {"valid": int(values["guide"].isfinite().all(1).sum())}
    for who, table in values.items():
        costs = front.costs(table)
        known = bool(costs.isfinite().all(1).any())
        worth[f"hypervolume ({who})"] = hypervolume(costs, limit) if known else None
    worth["on the front"] = int(nondominated(front.costs(values["evaluator"])).sum())
    return worth


def _draws(front: Front, units: Iterable[Any]) -> dict[str, Tensor]:
    """Property values of all draws of a run by either network, shape (M, K)."""
    parts: dict[str, list[Tensor]] = {who: [] for who in JUDGES}
    for unit in units:
        for who, tables in parts.items():
            names = [HISTORY + DRAWS.format(who, name) for name in front.names]
            if all(name in unit.tensors for name in names):
                own = torch.stack([unit.tensors[name] for name in names], 2)
                tables.append(own.transpose(0, 1).flatten(0, 1).double())
    none = torch.empty(0, len(front.names), dtype=torch.float64)
    return {who: torch.cat([none, *tables]) for who, tables in parts.items()}


def _thinned(front: Front, values: Tensor) -> Tensor:
    """Draws that are valid, at most so many; those on their front are all there."""
    values = values[values.isfinite().all(1)]
    best = nondominated(front.costs(values))
    others = values[~best]
    return torch.cat((values[best], others[:: max(1, -(-len(others) // _DRAWN))]))


def in_words(told: Mapping[str, Any]) -> list[str]:
    """What a front is worth, in two or three lines."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = []
    for name, words in (
        ("molecules", "of these molecules"),
        ("draws", "of the draws that were screened"),
        ("together", "of both together"),
    ):
        own = told[name]
        cost = f", {own['evaluations']:.0f} evaluations each" if "evaluations" in own else ""
        lines.append(
            f"hypervolume {words}: {number(own['hypervolume (evaluator)'])} by the evaluator, "
            f"{number(own['hypervolume (guide)'])} by the guide ({told['unit']}{cost})"
        )
    ends = [
        f"{name} {value:.{PROPERTIES[name].decimals}f} {PROPERTIES[name].unit}"
        for name, value in zip(told["properties"], told["reference"], strict=True)
    ]
    lines.append(f"[dim]measured from {', '.join(ends)}: the least of QM9 (0.5 %)")
    return lines
