r"""How tightly `ctrlgen molecule optimize` is to hold its lead: radius and likeness, measured.

    python -m ctrlgen.experiments.molecules.leads --data data/qm9

Held-out molecules of QM9 are leads; of each a property is wanted by `--gain` mean absolute
deviations of QM9 above its own value. A run holds its lead in two ways, by the ball around the
lead's source points (`--radius`) and by the weight of unlikeness in the cost (`LIKENESS`), and what
is asked is both: to have the property and still be like the lead, by the Tanimoto coefficient of
Morgan fingerprints of radius 2. That is strict for molecules of nine heavy atoms, where one other
atom changes most of the neighbourhoods. By the guide a molecule has the property within the
tolerance; by the evaluator where that sees at least half of the gain, against its own value of the
lead. Every cell is one start of every molecule, without restarts, of the same leads and seeds; the
settings are those of the command.
"""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.costs import Cost, PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes
from ctrlgen.domains.molecules.costs import SimilarityCost
from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.lead_optimization import Ball, source_of
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.scoring import EVALUATOR, GUIDES, Guide, score
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.verdicts import likeness
from ctrlgen.experiments.shared.options import Out
from ctrlgen.experiments.shared.rows import RESULTS
from ctrlgen.experiments.shared.tables import head
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.storage import load
from ctrlgen.runs.json_files import write_results

__all__ = ["LIKE", "Leads", "best", "cell", "main", "shares", "table"]

LIKE = (0.25, 0.4)
"""Tanimoto coefficients above which a molecule is like its lead."""


@dataclass
class Leads:
    """Molecules to start from, and what is wanted of each.

    Attributes:
        signals: shape (L, N, 3 + K).
        counts: atoms of each, shape (L,).
        wanted: least value of the property, in the package's unit, shape (L,).
        least: value of the evaluator that confirms it, shape (L,).
        mols: complete molecules of RDKit.
        smiles: of each.
    """

    signals: Tensor
    counts: Tensor
    wanted: Tensor
    least: Tensor
    mols: list[Any]
    smiles: list[str]


def leads_of(
    prior: Prior, guide: Any, evaluator: Any, name: str, data: Path, count: int, gain: float
) -> Leads:
    """The first held-out molecules, in an order drawn once, whose aim QM9's molecules reach."""
    kind = alphabet_of(prior)
    held = read(kind, data, "test")
    limits = sizes(kind).limits(name, held.counts.clamp(min=2), True)
    draw = torch.randperm(len(held.counts), generator=torch.Generator().manual_seed(0))
    signals = join(held.positions, held.classes, len(alphabet(kind)))
    chosen: list[int] = []
    for row in draw.tolist():
        aim = float(held.properties[name][row]) + gain * DEVIATION[name]
        if held.counts[row] >= 7 and aim < float(limits[row]):
            chosen.append(row)
        if len(chosen) == count:
            break
    own = signals[chosen]
    scores = score(own, kind, guide=guide, evaluator=evaluator)
    column = list(PROPERTIES).index(name)
    return Leads(
        own,
        held.counts[chosen],
        scores.guide[:, column] + gain * DEVIATION[name],
        scores.evaluator[:, column] + gain * DEVIATION[name] / 2,
        scores.mols,
        [str(names.smiles) for names in scores.names],
    )


def cell(
    prior: Prior,
    guide: Any,
    evaluator: Any,
    name: str,
    leads: Leads,
    per_lead: int,
    radius: float,
    weight: float,
) -> dict[str, Any]:
    """One start of `per_lead` seeds of every lead; shares over all of them, none left out."""
    kind, settings = alphabet_of(prior), Settings(restarts=0, draws=1, batch=len(leads.counts) * 8)
    place = torch.arange(len(leads.counts)).repeat_interleave(per_lead)
    seeds = torch.arange(per_lead).repeat(len(leads.counts))
    wanted = leads.wanted[place, None]
    aim_of = PropertyCost(
        Guide(guide, [name]), wanted, torch.full_like(wanted, torch.inf), scale=DEVIATION[name]
    )

    def cost(rows: Tensor, counts: Tensor) -> Cost:
        aim: Cost = aim_of.take(rows)
        if not weight:
            return aim
        return aim + weight * SimilarityCost(leads.signals[place[rows]], kind)

    def start(rows: Tensor, own: Tensor, atoms: Tensor) -> tuple[Tensor, Ball]:
        bound = prior.bind(counts=atoms)
        points = source_of(
            bound, leads.signals[place[rows]], own, solver=prior.solver(settings.steps)
        )
        d = bound.source.degrees_of_freedom(points)
        return points, Ball(points, radius * (2 * d).sqrt())

    begun = time.process_time()
    task = Task(
        cost=cost,
        counts=lambda rows, own: leads.counts[place[rows]],
        start=start,
        aim=lambda rows, counts: aim_of.take(rows),
    )
    with warnings.catch_warnings():  # the leads share their seeds, and are not the same
        warnings.filterwarnings("ignore", message="seeds: ")
        found = generate(prior, task, seeds, settings)
    scores = score(found.samples, kind, guide=guide, evaluator=evaluator)
    column = list(PROPERTIES).index(name)
    rows = []
    for i, names in enumerate(scores.names):
        alike = likeness(leads.mols[int(place[i])], names.mol) if names.valid else None
        low, unit = float(wanted[i, 0]), DEVIATION[name]
        rows.append(
            {
                "lead": int(place[i]),
                "seed": int(seeds[i]),
                "smiles": names.smiles,
                "valid": names.valid,
                "tanimoto": alike,
                "guide": names.valid
                and float(scores.guide[i, column]) >= low - settings.tolerance * unit,
                "evaluator": names.valid
                and float(scores.evaluator[i, column]) >= float(leads.least[int(place[i])]),
            }
        )
    return {
        "radius": radius,
        "likeness": weight,
        "processor_seconds": round(time.process_time() - begun, 1),
        "rows": rows,
    }


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of a cell, over all its starts, none left out."""
    alike = [row["tanimoto"] or 0.0 for row in rows]
    told = {
        "valid": mean(row["valid"] for row in rows),
        "unchanged": mean(value == 1 for value in alike),
        "tanimoto": mean(alike),
        "guide": mean(row["guide"] for row in rows),
    }
    for least in LIKE:
        for who in ("guide", "evaluator"):
            both = (row[who] and value > least for row, value in zip(rows, alike, strict=True))
            told[f"{who}, {least}"] = mean(both)
    return told


def best(results: dict[str, Any]) -> tuple[float, float]:
    """Radius and likeness of the cell with the most that have the property and are like their lead.

    By the guide, then by the evaluator, above the lower coefficient; of equals the smallest ball.
    """
    least = LIKE[0]

    def merit(row: dict[str, Any]) -> tuple[float, float, float]:
        told = shares(row["rows"])
        return told[f"guide, {least}"], told[f"evaluator, {least}"], -row["radius"]

    chosen = max(results["cells"], key=merit)
    return chosen["radius"], chosen["likeness"]


def table(results: dict[str, Any]) -> str:
    """Markdown of the cells, the radius slow, the likeness fast."""
    lines = head(
        "| radius | likeness | valid | unchanged | Tanimoto, mean | property (guide) "
        + "".join(f"| guide and > {x} | evaluator and > {x} " for x in LIKE)
        + "|"
    )
    for row in sorted(results["cells"], key=lambda r: (r["radius"], r["likeness"])):
        told = shares(row["rows"])
        mean_likeness = told.pop("tanimoto")
        parts = [f"{100 * share:.0f} %" for share in told.values()]
        parts.insert(2, f"{mean_likeness:.2f}")
        cells = [f"{row['radius']:g}", f"{row['likeness']:g}", *parts]
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        f"{len(results['leads'])} held-out leads, {results['seeds']} seeds each, one start each; "
        f"wanted: {results['property']} by {results['gain']:g} mean absolute deviations of QM9 "
        "above the lead's. "
        "Shares are of all starts."
    )
    return "\n".join([text, "", *lines]) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="folder of QM9")] = Path("data/qm9"),
    prior: Annotated[str, typer.Option(help="qm9-heavy, qm9 or a card")] = "qm9-heavy",
    name: Annotated[str, typer.Option("--property", help="that is wanted higher")] = "gap",
    leads: Annotated[int, typer.Option(help="held-out molecules")] = 8,
    seeds: Annotated[int, typer.Option(help="of each")] = 4,
    gain: Annotated[float, typer.Option(help="of the property, in deviations of QM9")] = 0.5,
    radii: Annotated[str, typer.Option(help="with commas between")] = "0.05,0.1,0.2,0.4",
    weights: Annotated[str, typer.Option(help="of unlikeness")] = "0,2,10",
    out: Out = None,
) -> None:
    """Run the sweep, or what is left of it; writes results and a table."""
    model = load(prior)
    kind = alphabet_of(model)
    guide, evaluator = regressor(GUIDES[kind]), regressor(EVALUATOR)
    chosen = leads_of(model, guide, evaluator, name, data, leads, gain)
    assert model.card is not None
    key = {
        "command": "python -m ctrlgen.experiments.molecules.leads",
        "prior": {"name": model.card.name, "sha256": model.card.sha256},
        "property": name,
        "gain": gain,
        "seeds": seeds,
        "leads": [
            {"smiles": smiles, "wanted": round(float(low), 3)}
            for smiles, low in zip(chosen.smiles, chosen.wanted, strict=True)
        ],
    }
    out = out or RESULTS / "molecule_leads"
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: dict[str, Any] = {**key, "cells": []}
    if file.is_file():
        earlier = json.loads(file.read_text())
        if all(earlier.get(k) == v for k, v in key.items()):
            results = earlier
    done = {(row["radius"], row["likeness"]) for row in results["cells"]}
    for radius in map(float, radii.split(",")):
        for weight in map(float, weights.split(",")):
            if (radius, weight) in done:
                continue
            row = cell(model, guide, evaluator, name, chosen, seeds, radius, weight)
            results["cells"].append(row)
            write_results(file, results, named=False)
            (out / "table.md").write_text(table(results))
            console.say(f"radius {radius:g}, likeness {weight:g}: {shares(row['rows'])}")
    console.say(table(results))


if __name__ == "__main__":
    typer.run(main)
