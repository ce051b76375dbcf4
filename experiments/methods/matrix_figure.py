"""Table and figure of `methods.matrix`, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ctrlgen.experiments.shared.tables import embedder, head, quality
from ctrlgen.report.figures import save_figure

__all__ = ["figure", "table"]

TICKS = (10, 20, 50, 100, 200, 400)
TITLES = {
    "inpaint": "centre inpainting",
    "random-inpaint": "70 % of pixels missing",
    "sr2": "x2 super-resolution",
    "deblur": "Gaussian deblurring",
    "denoise": "denoising",
    "nonlinear-blur": "non-linear deblurring",
}
MARKERS = "osD^v<>pP*X"


def _rows(results: dict[str, Any], task: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of a task by method, in the order of their budgets; methods without any left out."""
    for name in results["methods"]:
        wanted = (f"{task}-{name}-{budget}" for budget in results["budgets"])
        found = [results["rows"][row] for row in wanted if row in results["rows"]]
        if found:
            yield name, found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, a table for every task; medians over all images, none left out."""
    parts = []
    for task, noise in results["tasks"].items():
        plain, unguided = (results["rows"][f"{task}-{kind}"] for kind in ("plain", "unguided"))
        columns = (
            f"| method | budget | evaluations | vjps | PSNR | SSIM | {embedder(plain)} | y-PSNR "
            "| nearer to y | diverged | seconds |"
        )
        lines = [
            f"### {TITLES[task]}, σ = {noise:g}",
            "",
            *head(columns),
            f"| H†y | | 0 | 0 | {quality(plain)} | | | | |",
            f"| unguided | | {unguided['evaluations']} | 0 | {quality(unguided)} "
            f"| {np.median(unguided['measurement_psnr']):.1f} | | | |",
        ]
        reduced = results["verdicts"]["reduced"]
        for name, found in _rows(results, task):
            for row in found:
                nearer = reduced[f"{task}-{name}-{row['budget']}"]
                lines.append(
                    f"| {name} | {row['budget']} | {row['evaluations']:.0f} | {row['vjps']:.0f} "
                    f"| {quality(row)} | {np.median(row['measurement_psnr']):.1f} "
                    f"| {nearer:.0%} | {row['diverged']} | {row['seconds']:.1f} |"
                )
        parts.append("\n".join(lines))
    if results["refused"]:
        reasons: dict[str, list[str]] = {}
        for row, reason in results["refused"].items():
            reasons.setdefault(reason, []).append(row)
        told = [f"- {reason}: {', '.join(rows)}" for reason, rows in reasons.items()]
        parts.append("\n".join(["### Not run", "", *told]))
    return "\n\n".join(parts) + "\n"


def figure(results: dict[str, Any], file: Path) -> None:
    """Median PSNR against what was computed, forward and backward, a panel for every task."""
    tasks = results["tasks"]
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns + 2, 3.1 * lines + 0.4), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, 20))
    handles = {}
    for ax, (task, noise) in zip(axes.flat, tasks.items(), strict=False):
        plain = np.median(results["rows"][f"{task}-plain"]["psnr"])
        ax.axhline(plain, color="#8c8c8c", lw=1, ls="--")
        ax.annotate("H†y", (1, plain), xycoords=("axes fraction", "data"), fontsize=7,
                    color="#8c8c8c", ha="right", va="bottom")  # fmt: skip
        for name, found in _rows(results, task):
            place = results["methods"].index(name)
            x = [row["evaluations"] + row["vjps"] for row in found]
            y = [np.median(row["psnr"]) for row in found]
            (handles[name],) = ax.plot(
                x, y, lw=1.2, ms=4, marker=MARKERS[place % len(MARKERS)],
                color=colours[place % 20], alpha=0.9,
            )  # fmt: skip
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ticks = [tick for tick in TICKS if low <= tick <= high]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_title(f"{TITLES[task]}, σ = {noise:g}", fontsize=9)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("evaluations and vjps per image")
    for ax in axes[:, 0]:
        ax.set_ylabel("PSNR, dB (median)")
    if handles:
        fig.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    fig.suptitle(f"Quality against compute, {results['prior']}, {results['images']} images")
    save_figure(fig, file, dpi=130)
    plt.close(fig)
