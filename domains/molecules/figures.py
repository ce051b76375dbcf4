"""Figures of molecules: a grid of drawings with their values, and targets against values."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctrlgen.domains.molecules.depictions import flat
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.extras import require
from ctrlgen.report.figures import save_figure

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["draw_grid", "molecules_figure", "parity"]

INK, FAINT, GUIDE, EVALUATOR = "#26242e", "#8d8a99", "#e2725b", "#5b4bc4"


def draw_grid(mols: Sequence[Mol | None], captions: Sequence[str], columns: int = 4) -> Any:
    """Two-dimensional drawings side by side as an array (H, W, 3) of bytes."""
    draw = require("rdkit.Chem.Draw.rdMolDraw2D", "molecules")
    pyplot = require("matplotlib.image", "molecules")
    side, rows = 260, math.ceil(len(mols) / columns)
    canvas = draw.MolDraw2DCairo(columns * side, rows * side, side, side)
    options = canvas.drawOptions()
    options.legendFontSize, options.padding = 17, 0.08
    canvas.DrawMolecules([flat(mol) for mol in mols], legends=list(captions))
    canvas.FinishDrawing()
    return pyplot.imread(io.BytesIO(canvas.GetDrawingText()), format="png")


def parity(
    axes: Any, name: str, targets: Sequence[float], series: Mapping[str, Sequence[float]]
) -> None:
    """Values against targets with the line of agreement; what is not finite is not drawn."""
    known = PROPERTIES[name]
    colours = {"guide": GUIDE, "evaluator": EVALUATOR}
    drawn = [v for v in targets if math.isfinite(v)]
    for label, values in series.items():
        pairs = [
            (x, y)
            for x, y in zip(targets, values, strict=True)
            if math.isfinite(x) and math.isfinite(y)
        ]
        if pairs:
            x, y = zip(*pairs, strict=True)
            axes.scatter(x, y, s=22, color=colours.get(label, INK), label=label, alpha=0.8, lw=0)
            drawn += list(y)
    if drawn:
        low, high = min(drawn), max(drawn)
        edge = 0.05 * (high - low or 1)
        axes.plot([low - edge, high + edge], [low - edge, high + edge], color=FAINT, lw=1, zorder=0)
    axes.set_xlabel(f"wanted {known.symbol} ({known.unit})", color=INK)
    axes.set_ylabel(f"found ({known.unit})", color=INK)
    axes.legend(frameon=False, fontsize=8)


def molecules_figure(
    file: Path,
    mols: Sequence[Mol | None],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    title: str,
    wanted: Sequence[str] | None = None,
    beside: Sequence[Callable[[Any], None]] = (),
    most: int = 16,
) -> None:
    """The first molecules with their values, and per property what was wanted against what is.

    Args:
        file: PNG to write.
        mols: complete molecules.
        rows: their rows in a sheet.
        names: properties that were asked.
        title: of the figure.
        wanted: those of them that are drawn against what was wanted; all by default.
        beside: what else is drawn, each into axes of its own.
        most: molecules drawn.
    """
    shown, columns = min(most, len(mols)), 4
    captions = [_caption(row, names) for row in rows[:shown]]
    picture = draw_grid(mols[:shown], captions, columns)
    height = 2.2 * math.ceil(shown / columns)
    own = names if wanted is None else wanted
    panels = [partial(_parity, name=name, rows=rows) for name in own] + [*beside]
    figure = require("matplotlib.figure", "molecules").Figure(
        figsize=(8.8 if not panels else 12.6, max(height, 3.2 + 2.2 * len(beside)) + 0.4), dpi=130
    )
    figure.set_facecolor("white")
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=11)
    grid = figure.add_gridspec(
        max(len(panels), 1), 2 if panels else 1, width_ratios=[2.4, 1][: 1 + bool(panels)]
    )
    axes = figure.add_subplot(grid[:, 0])
    axes.imshow(picture)
    axes.axis("off")
    for place, draw in enumerate(panels):
        draw(figure.add_subplot(grid[place, 1]))
    figure.tight_layout()
    save_figure(figure, file)


def _parity(axes: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """What was wanted of a property against what is."""
    unit = f" ({PROPERTIES[name].unit})"
    own = [row for row in rows if f"target {name}{unit}" in row]
    wanted = [_point(str(row[f"target {name}{unit}"])) for row in own]
    series = {
        label: [row[f"{label} {name}{unit}"] for row in own] for label in ("guide", "evaluator")
    }
    parity(axes, name, wanted, series)


def _point(text: str) -> float:
    """The value of a target; the middle of a range; the end of an inequality."""
    ends = [float(word) for word in text.removeprefix(">=").removeprefix("<=").split("..")]
    return sum(ends) / len(ends)


def _caption(row: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        known = PROPERTIES[name]
        value, who = row.get(f"evaluator {name} ({known.unit})", math.nan), ""
        if math.isnan(value):
            value, who = row.get(f"guide {name} ({known.unit})", math.nan), " by the guide"
        parts.append(f"{name} {value:.{known.decimals}f}{who}")
    mark = "" if row["valid"] else f" ({row['reason']})"
    lead = "lead " if row.get("name") == "lead" else ""
    return f"{lead}{row['formula'] or '?'}  {', '.join(parts)}{mark}"
