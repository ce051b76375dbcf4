"""Loss curves of training logs.

    python -m ctrlgen.training.curves LOG.jsonl PICTURE.png

Losses are drawn over the minutes of training, those of the averaged weights on held data as dots.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ctrlgen.extras import require

__all__ = ["loss_curve"]


def loss_curve(log: Path, file: Path, extra: str = "images") -> None:
    """Plot the training and validation losses of a training log over the time it took.

    Args:
        log: one JSON object a line, with `seconds` and a `loss` or a `validation`.
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
        axes.plot(*zip(*points, strict=True), style, label=key, linewidth=1, markersize=3)
    title = f"{log.name.split('.')[0]}, {entries[-1]['step']:,} steps"
    axes.set(xlabel="minutes", ylabel="loss", yscale="log", title=title)
    axes.legend()
    axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    loss_curve(Path(sys.argv[1]), Path(sys.argv[2]))
