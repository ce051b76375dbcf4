"""What `rare` says of the molecules of a row, and its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit_scores import RDKitScore
from ctrlgen.domains.molecules.scoring import score
from ctrlgen.domains.molecules.verdicts import CONFIRMED
from ctrlgen.experiments.shared.tables import head
from ctrlgen.report.comparison import paired
from ctrlgen.report.intervals import mean_of
from ctrlgen.report.sections import Metric

if TYPE_CHECKING:
    from ctrlgen.experiments.molecules.rare_rows import Bench

__all__ = ["measure", "table"]

COLUMNS = (
    "evaluator, MAD", "guide, MAD", "their difference, MAD", "DFT label, MAD", "met", "stable",
    "valid", "not in QM9", "SA score", "strain, kcal/mol", "network evaluations", "s/molecule",
)  # fmt: skip
COMPARED = (
    *(("D-Flow", other) for other in ("best whole of K", "evolution", "guidance")),
    *(("renoising", other) for other in ("best whole of K", "evolution", "D-Flow", "guidance")),
    ("renoising any size", "renoising"),
    *(("renoising stochastic", other) for other in ("best whole of K", "renoising")),
    *(("renoising steered", other) for other in ("best whole of K", "D-Flow", "renoising")),
)
"""Rows whose errors are compared, pair by pair."""
ERRORS = ("evaluator", "guide", "difference", "label")


def measure(bench: Bench, signals: Tensor) -> dict[str, Any]:
    """A row in numbers, a list of one per molecule each; errors in deviations, their mean."""
    scores = score(signals, alphabet_of(bench.prior), guide=bench.guide, evaluator=bench.evaluator)
    columns, wanted = bench.targets.columns, bench.targets.values
    scale = torch.tensor([DEVIATION[name] for name in PROPERTIES])[columns]
    named = [names.mol if names.valid else None for names in scores.names]
    labels = bench.labels(named)

    def errors(values: Tensor, aim: Tensor) -> Tensor:
        return ((values.gather(1, columns) - aim) / scale).abs()

    judged = errors(scores.evaluator, wanted)
    return {
        "evaluator": judged.mean(1).tolist(),
        "guide": errors(scores.guide, wanted).mean(1).tolist(),
        "difference": errors(scores.guide, scores.evaluator.gather(1, columns)).mean(1).tolist(),
        "label": errors(labels, wanted).mean(1).tolist(),
        "met": ((judged <= CONFIRMED).all(1) & scores.valid).tolist(),
        "stable": scores.assessment.stable.tolist(),
        "valid": scores.valid.tolist(),
        "novel": [bool(flag) for flag in scores.novel["QM9"]],
        "sa": [math.nan if sa is None else sa for sa in RDKitScore("sa")(named)],
        "strain": [relaxed.strain for relaxed in chemistry.relax(scores.mols)],
        "smiles": [names.smiles for names in scores.names],
    }


def _median(values: Sequence[float]) -> str:
    finite = [float(v) for v in values if math.isfinite(float(v))]
    return f"{np.median(finite):.1f}" if finite else "-"


def table(results: dict[str, Any]) -> str:
    """Markdown: one table per kind, and what steering gains over others, pair by pair."""
    lines = ["# Rare and joint targets, prior `qm9-heavy`\n"]
    metric = Metric("error", "MAD", "lower")
    for kind, content in results["kinds"].items():
        rows, number = content["rows"], len(content["counts"])
        lines += [f"## {kind}, {number} molecules\n", *head(f"| row | {' | '.join(COLUMNS)} |")]
        for name, row in rows.items():
            errors = [mean_of(row[who]).text(2) for who in ERRORS]
            shares = [f"{100 * np.mean(row[k]):.0f} %" for k in ("met", "stable", "valid", "novel")]
            cells = [
                *errors, *shares, _median(row["sa"]), _median(row["strain"]),
                f"{row['evaluations']:.0f}", f"{row['seconds'] / number:.1f}",
            ]  # fmt: skip
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
        for name, other in COMPARED:
            if name not in rows or other not in rows:
                continue
            told = paired(rows[other]["evaluator"], rows[name]["evaluator"], metric)
            if told.low is None or not told.first or told.second is None:
                continue
            lines.append(
                f"- {name}'s error is {told.second / told.first:.2f} of that of {other} "
                f"({told.difference:+.2f} MAD [{told.low:+.2f}, {told.high:+.2f}], "
                f"{told.valued} of {told.pairs} pairs)."
            )
        lines.append("")
        if "near" in content:
            lines += [*_by_target(content), ""]
    return "\n".join(lines)


def _by_target(content: dict[str, Any]) -> list[str]:
    """Markdown: the evaluator's error of each target, and how many molecules of D_b have it."""
    rows, labels = content["rows"], list(PROPERTIES)
    names = " | ".join(rows)
    lines = head(f"| target | heavy atoms | molecules of D_b that have it | whole ones | {names} |")
    each = zip(
        content["columns"], content["targets"], content["counts"], content["near"], strict=True
    )
    for place, (columns, values, atoms, (there, whole)) in enumerate(each):
        pairs = zip(columns, values, strict=True)
        target = ", ".join(f"{labels[column]} {value:.5g}" for column, value in pairs)
        errors = (row["evaluator"][place] for row in rows.values())
        cells = " | ".join(f"{e:.2f}" if math.isfinite(float(e)) else "-" for e in errors)
        lines.append(f"| {target} | {atoms} | {there} | {whole} | {cells} |")
    return lines
