"""What a run over molecules leaves at its end: FILE.json, FILE.png, and a table on the screen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ctrlgen import console
from ctrlgen.cards import write_whole
from ctrlgen.domains.molecules.figures import molecules_figure
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.sheets import Sheet, summary
from ctrlgen.flows import Evaluations

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.design import Designer
    from ctrlgen.domains.molecules.generation import Settings

__all__ = ["about", "finish", "show"]


def about(designer: Designer, settings: Settings, command: str) -> dict[str, Any]:
    """What is known of a run before it begins."""
    card, wish = designer.prior.card, designer.wish
    asked = [str(request) for request in wish.requests]
    asked += [f"{name} as large as can be trusted" for name in wish.largest]
    asked += [f"{name} as small as can be trusted" for name in wish.smallest]
    asked += [f"{low:g} <= {symbol} <= {high:g}" for symbol, (low, high) in wish.limits.items()]
    asked += ["a fragment"] if wish.fragment is not None else []
    asked += ["resemblance to a molecule"] if wish.like is not None else []
    return {
        "command": command,
        "asked": asked,
        "warnings": designer.warnings,
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "settings": dataclasses.asdict(settings),
    }


def finish(
    file: Path,
    sheet: Sheet,
    content: dict[str, Any],
    seconds: float,
    network: Evaluations | None,
    *,
    complete: bool,
) -> dict[str, Any]:
    """Write all files of a sheet, complete or not; returns what FILE.json holds.

    Args:
        file: FILE.sdf.
        sheet: what there is.
        content: of `about`.
        seconds: it took.
        network: evaluations of the prior's network, None where they are not known.
        complete: whether the run came to its end; only then there is a figure.
    """
    rows = sheet.rows
    names = sheet.wish.names if sheet.wish is not None else ()
    content = {
        **content,
        "complete": complete,
        "missing": sheet.missing,
        "seconds": round(seconds, 2),
        "network": vars(network) if network is not None else None,
        "summary": summary(rows, names),
        "molecules": rows,
    }
    sheet.write(file)
    write_whole(file.with_suffix(".json"), (console.dumps(content) + "\n").encode())
    if rows and complete:
        title = ", ".join(content["asked"]) or "molecules"
        molecules_figure(file.with_suffix(".png"), sheet.mols, rows, names, title)
    return content


def show(content: dict[str, Any], names: Sequence[str], file: Path, most: int = 16) -> None:
    """The table at the end of a run, honest in every column."""
    columns = ["seed>", "formula", "SMILES"]
    for name in names:
        columns += [f"{name} wanted>", "guide>", "evaluator>"]
    bare = () if names else tuple(PROPERTIES)
    columns += [f"{name}>" for name in bare]
    columns += ["stable", "valid", "connected", "novel", "evals>"]
    rows = []
    for row in content["molecules"][:most]:
        cells = [_seed(row["seed"]), row["formula"] or "-", escape(row["smiles"] or "-")]
        for name in names:
            known = PROPERTIES[name]
            cells.append(row[f"target {name} ({known.unit})"])
            for who in ("guide", "evaluator"):
                value = row[f"{who} {name} ({known.unit})"]
                cells.append("-" if math.isnan(value) else f"{value:.{known.decimals}f}")
        for name in bare:
            known = PROPERTIES[name]
            value = row[f"evaluator {name} ({known.unit})"]
            cells.append("-" if math.isnan(value) else f"{value:.{known.decimals}f}")
        cells += [_mark(row[flag]) for flag in ("stable", "valid", "connected", "novel")]
        rows.append((*cells, str(row["evaluations"])))
    found, count = content["summary"], len(content["molecules"])
    title = f"{count} molecules"
    if content["prior"]:
        title += f" with {content['prior']['name']}"
    shown = console.table(f"{title}, {content['seconds']:.1f} s", columns, rows)
    console.stdout.print(shown)
    if count > most:
        console.stdout.print(f"[dim]and {count - most} more in {escape(str(file))}")
    parts = [
        f"{flag} {100 * found[flag]:.0f} %"
        for flag in ("satisfied", "stable", "valid", "connected", "novel", "posebusters")
        if found[flag] is not None
    ]
    if found["median strain (kcal/mol)"] is not None:
        parts.append(f"median strain {found['median strain (kcal/mol)']:.1f} kcal/mol")
    for name in names:
        known = PROPERTIES[name]
        error = found[f"evaluator MAE {name} ({known.unit})"]
        if error is not None:
            parts.append(f"evaluator MAE of {name} {error:.{known.decimals}f} {known.unit}")
    if "lead" in content:
        told = [f"the lead {content['lead']['smiles'] or ''} has"]
        for name in names:
            known = PROPERTIES[name]
            for who in ("guide", "evaluator"):
                value = content["lead"][f"{who} {name} ({known.unit})"]
                if not math.isnan(value):
                    told.append(f"{who} {name} {value:.{known.decimals}f} {known.unit}")
        console.stdout.print(f"\n[dim]{escape(' '.join(told[:1]))} {', '.join(told[1:])}")
    console.stdout.print("\n" + ", ".join(parts), soft_wrap=True)
    console.stdout.print(str(file), soft_wrap=True)


def _seed(seed: int) -> str:
    """A seed; that of a further start, higher by 2^32 each, by the first one and its number."""
    turn, first = divmod(seed, 2**32)
    return f"{first} #{turn + 1}" if turn else str(first)


def _mark(flag: bool | None) -> str:
    return "[dim]?[/]" if flag is None else "[green]yes[/]" if flag else "[red]no[/]"
