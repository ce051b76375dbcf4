"""Table and figures of `optimal_control.classes`, drawn from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.experiments.shared.tables import head
from ctrlgen.report.figures import save_figure

__all__ = ["figures", "table"]

GUIDE, JUDGE, WRONG = "#1f6f8b", "#d08a2e", "#c0392b"


def table(results: dict[str, Any]) -> str:
    """The results as Markdown; shares and means over all samples, none left out."""
    rows, judge = results["rows"], results["judge"]
    one = next(iter(rows.values()))["frechet"]
    distance = f"{one['embedder']} ({one['images']} against {one['reference']})"
    columns = (
        "| method | agrees, guide | agrees, judge | guide fooled | mean cost, nats "
        f"| {distance} | evaluations | vjps | jvps | diverged | seconds |"
    )
    lines = head(columns)
    for name, row in rows.items():
        verdict = results["verdicts"].get(name)
        fooled = "" if verdict is None else f"{verdict['fooled']:.0%}"
        lines.append(
            f"| {name} | {np.mean(row['guide']):.0%} | {np.mean(row['judge']):.0%} | {fooled} "
            f"| {np.mean(row['cost']):.3f} | {row['frechet']['value']:.2f} "
            f"| {row['evaluations']:.0f} | {row['vjps']:.0f} | {row['jvps']:.0f} "
            f"| {row['diverged']} | {row['seconds']:.1f} |"
        )
    told = [
        f"The judge gets {judge['accuracy']:.2%} of {judge['test_images']} test images right.",
        *(
            f"{text}: {', '.join(n for n, v in results['verdicts'].items() if v[key]) or 'none'}."
            for key, text in (
                ("works", "More than half of the wanted class by the judge"),
                ("digits", "The guide is seldom fooled"),
                ("rivals_label", "At least as many as with the label, by the judge"),
            )
        ),
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in told)]) + "\n"


def figures(results: dict[str, Any], images: dict[str, Tensor], out: Path) -> None:
    """Write samples.png and agreement.png."""
    _samples(results, images, out / "samples.png")
    _agreement(results, out / "agreement.png")


def _samples(results: dict[str, Any], images: dict[str, Tensor], file: Path) -> None:
    """The first sample of every class, a row for every method; framed where the judge differs."""
    columns = min(10, len(results["wanted"]))
    fig, axes = sheet(images, columns)
    for ax, (name, pictures) in zip(axes, images.items(), strict=True):
        side = pictures.shape[-1]
        for place, right in enumerate(results["rows"][name]["judge"][:columns]):
            if not right:
                left = place * (side + 2) - 0.5  # tiles lie two pixels apart
                ax.add_patch(
                    Rectangle((left, -0.5), side, side, fill=False, edgecolor=WRONG, lw=1.6)
                )
    axes[0].set_title(
        f"Wanted: {', '.join(str(c) for c in results['wanted'][:columns])}; "
        "framed: the judge sees another digit",
        fontsize=8,
    )
    save_figure(fig, file, dpi=150)
    plt.close(fig)


def _agreement(results: dict[str, Any], file: Path) -> None:
    """Share of the samples of the wanted class by guide and judge, a pair of bars a method."""
    rows = results["rows"]
    place = np.arange(len(rows))
    fig, ax = plt.subplots(figsize=(6.4, 0.34 * len(rows) + 1.3), layout="constrained")
    for shift, key, colour in ((-0.19, "guide", GUIDE), (0.19, "judge", JUDGE)):
        shares = [100 * np.mean(row[key]) for row in rows.values()]
        ax.barh(place + shift, shares, 0.36, color=colour, label=f"by the {key}")
    ax.axvline(10, color="#8c8c8c", lw=1, ls="--")  # one class in ten
    ax.set_yticks(place, rows, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("samples of the wanted class, %")
    ax.set_title(
        f"Classes through a classifier; the judge's accuracy is {results['judge']['accuracy']:.1%}",
        fontsize=9,
    )
    fig.legend(frameon=False, fontsize=8, loc="outside lower right", ncols=2)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.25)
    save_figure(fig, file, dpi=150)
    plt.close(fig)
