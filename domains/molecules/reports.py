"""What a run over molecules leaves at its end: FILE.json, FILE.png, and a table on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ctrlgen.commands import console
from ctrlgen.domains.molecules.figures import molecules_figure
from ctrlgen.domains.molecules.front_figures import front_panels
from ctrlgen.domains.molecules.front_tables import in_words, settled
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.result_tables import Table
from ctrlgen.domains.molecules.sizing import limit_text
from ctrlgen.domains.molecules.summaries import summary
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.store import Store

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["asked_of", "finish", "show"]


def asked_of(wish: Wish) -> list[str]:
    """A wish in words."""
    asked = [str(request) for request in wish.requests]
    asked += [f"{name} as large as can be trusted" for name in wish.largest]
    asked += [f"{name} as small as can be trusted" for name in wish.smallest]
    asked += [f"{symbol} {limit_text(*limit)}" for symbol, limit in wish.limits.items()]
    asked += ["a fragment"] if wish.fragment is not None else []
    asked += [str(score) for score in wish.scores]
    asked += ["a scaffold"] if wish.scaffold is not None else []
    asked += ["resemblance to a molecule"] if wish.like is not None else []
    return asked


def finish(
    store: Store,
    out: Path | None,
    prior: Prior | None,
    *,
    names: Sequence[str] = (),
    beside: Mol | None = None,
    **own: Any,
) -> dict[str, Any]:
    """Write all files of a run, complete or not; returns what FILE.json holds, and "file".

    Args:
        store: of the run.
        out: FILE.sdf; molecules.sdf in the folder by default.
        prior: that made them, if any.
        names: the properties that were asked.
        beside: the lead, drawn before the molecules; its row is `lead`.
        **own: what else FILE.json says.
    """
    table, summed = Table.of(store), store.summary()
    file, rows = out or store.folder / "molecules.sdf", table.rows
    card, about = None if prior is None else prior.card, store.manifest["about"]
    complete, missing = store.partial is None and not store.missing, store.missing
    content = {
        "command": store.manifest["command"],
        **about,
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        **own,
        "complete": complete,
        "missing": missing,
        "seconds": round(summed.get("seconds", 0.0), 2),
        "network": None if prior is None else summed["network"],
    }
    drawn_beside: list[Any] = []
    if rows and "front" in about:
        content["front"] = settled(about["front"], rows, store.rows())
        drawn_beside = front_panels(content["front"], rows)
    if rows:
        table.write(file)
        held = {**content, "summary": summary(rows, names), "molecules": rows}
        write_json(file.with_suffix(".json"), held)
        if complete:
            title = ", ".join(about["asked"]) or "molecules"
            mols, drawn = table.mols, rows
            if beside is not None:
                mols, drawn = [beside, *mols], [own["lead"], *rows]
            plain = [
                name for name in names if name not in about.get("front", {}).get("properties", ())
            ]
            molecules_figure(
                file.with_suffix(".png"), mols, drawn, names, title, plain, drawn_beside
            )
        store.write_result(**{k: v for k, v in content.items() if k != "seconds"})
        content = held
    return {"file": str(file), **content}


def show(content: dict[str, Any], names: Sequence[str], most: int = 16) -> None:
    """The table at the end of a run, honest in every column; units stand in the heads."""
    rows, file = content["molecules"], content["file"]
    flags = [flag for flag in _SHORT if any(row.get(flag) is not None for row in rows)]
    columns = ["record>" if "record" in rows[0] else "seed>", "formula", "SMILES"]
    for name in names:
        columns += [f"{name} wanted ({PROPERTIES[name].unit})>", "guide>", "evaluator>"]
    bare = [
        name for name in PROPERTIES
        if not names and f"evaluator {name} ({PROPERTIES[name].unit})" in rows[0]
    ]  # fmt: skip
    scores = [key for key in rows[0] if key.startswith("score ")]
    columns += [f"{name} ({PROPERTIES[name].unit})>" for name in bare]
    columns += [f"{key.removeprefix('score ')}>" for key in scores]
    likeness = [key for key in ("similarity", "similarity to the lead") if key in rows[0]]
    columns += [*(_SHORT[flag] for flag in flags), *(f"{key}>" for key in likeness)]
    refused = any(row.get("reason") for row in rows)
    columns += ["network evaluations>"] * ("evaluations" in rows[0]) + ["reason"] * refused
    lines = []
    for row in rows[:most]:
        first = str(row["record"]) if "record" in row else _seed(row["seed"])
        cells = [first, row["formula"] or "-", escape(row["smiles"] or "-")]
        for name in names:
            cells.append(row[f"target {name} ({PROPERTIES[name].unit})"])
            cells += [_number(row, who, name) for who in ("guide", "evaluator")]
        cells += [_number(row, "evaluator", name) for name in bare]
        cells += ["-" if row.get(key) is None else f"{row[key]:.2f}" for key in scores]
        cells += [_mark(row.get(flag)) for flag in flags]
        cells += ["-" if row.get(key) is None else f"{row[key]:.2f}" for key in likeness]
        cells += [str(row.get("evaluations", "-"))] * ("evaluations" in rows[0])
        lines.append((*cells, *[escape(row.get("reason") or "")] * refused))
    told, count = content["summary"], len(rows)
    title = f"{count} molecules"
    if content["prior"]:
        title += f" with {content['prior']['name']}"
    console.stdout.print(console.table(f"{title}, {content['seconds']:.1f} s", columns, lines))
    if count > most:
        console.stdout.print(f"[dim]and {count - most} more in {escape(file)}")
    parts = []
    for flag in (*_SHORT, "posebusters"):
        if told.get(flag) is not None:
            lost = told.get(f"{flag}, unknown")
            unknown = f" ({lost} of {count} unknown)" if lost else ""
            parts.append(f"{flag} {100 * told[flag]:.0f} %{unknown}")
    if told["median strain (kcal/mol)"] is not None:
        parts.append(f"median strain {told['median strain (kcal/mol)']:.1f} kcal/mol")
    for name in names:
        known = PROPERTIES[name]
        error = told[f"evaluator MAE {name} ({known.unit})"]
        if error is not None:
            parts.append(f"evaluator MAE of {name} {error:.{known.decimals}f} {known.unit}")
    if "front" in content:
        console.stdout.print("\n" + "\n".join(in_words(content["front"])), soft_wrap=True)
    if "lead" in content:
        words = [
            f"{who} {name} {_number(content['lead'], who, name)} {PROPERTIES[name].unit}"
            for name in names
            for who in ("guide", "evaluator")
        ]
        lead = escape(content["lead"]["smiles"] or "")
        console.stdout.print(f"\n[dim]the lead {lead} has {', '.join(words)}", soft_wrap=True)
    console.stdout.print("\n" + ", ".join(parts), soft_wrap=True)
    if "novel (D_b)" in flags:
        console.stdout.print(
            "[dim]new: not among the half of QM9's training molecules that the prior saw (D_b), "
            "and not in QM9 at all"
        )
    console.stdout.print(escape(file), soft_wrap=True)


_SHORT = {
    "front": "on the front",
    "satisfied (guide)": "satisfied: guide",
    "satisfied (evaluator)": "evaluator says",
    "composition": "composition",
    "fragment": "fragment",
    "scaffold": "scaffold",
    "valid": "valid",
    "stable": "stable",
    "stable (EDM)": "stable (EDM)",
    "novel (D_b)": "new to D_b",
    "novel (QM9)": "new to QM9",
}
"""Columns of a table that the table shows, and their heads there."""


def _number(row: Mapping[str, Any], who: str, name: str) -> str:
    known = PROPERTIES[name]
    value = row.get(f"{who} {name} ({known.unit})")
    return "-" if value is None or math.isnan(value) else f"{value:.{known.decimals}f}"


def _seed(seed: int) -> str:
    """A seed; that of a further start, higher by 2^32 each, by the first one and its number."""
    turn, first = divmod(seed, 2**32)
    return f"{first} #{turn + 1}" if turn else str(first)


def _mark(flag: bool | None) -> str:
    return "[dim]?[/]" if flag is None else "[green]yes[/]" if flag else "[red]no[/]"
