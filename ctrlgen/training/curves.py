"""Loss curves of training logs.

    python -m ctrlgen.training.curves LOG.jsonl PICTURE.png

Losses are drawn over the minutes of training, those of the averaged weights on held data as dots,
and beside them, in percent, the quality of samples at every tenth of the run where it was measured.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from ctrlgen.extras import require
from ctrlgen.report.figures import save_figure

__all__ = ["loss_curve"]

_STYLES = ("s-", "^--", "v:", "x-.")


def loss_curve(log: Path, file: Path, extra: str = "images") -> None:
    """Plot losses and quality of a training log over the time it took.

    Args:
        log: one JSON object a line, with `seconds` and a `loss`, a `validation` or a `quality`.
        file: PNG to write.
        extra: that brings matplotlib, named where it is missing.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require("matplotlib", extra)
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for key, style in (("loss", "-"), ("validation", "o-")):
        points = [(entry["seconds"] / 60, entry[key]) for entry in entries if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=key, linewidth=1, markersize=3)
    title = f"{log.name.split('.')[0]}, {entries[-1]['step']:,} steps"
    axes.set(xlabel="minutes", ylabel="loss", yscale="log", title=title)
    measured = [entry for entry in entries if "quality" in entry]
    if measured:
        beside = axes.twinx()
        minutes = [entry["seconds"] / 60 for entry in measured]
        for name, style in zip(measured[0]["quality"], _STYLES, strict=False):
            values = [100 * entry["quality"].get(name, math.nan) for entry in measured]
            (line,) = beside.plot(minutes, values, style, color="tab:green", linewidth=1)
            axes.plot([], [], style, color=line.get_color(), label=name.replace("_", " "))
        beside.set(ylabel="%", ylim=(0, 100))
    axes.legend()
    axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, file, dpi=120)


if __name__ == "__main__":
    loss_curve(Path(sys.argv[1]), Path(sys.argv[2]))
