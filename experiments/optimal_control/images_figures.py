"""Table and figures of `optimal_control.images`, drawn from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ctrlgen.experiments.optimal_control.images_settings import METHODS, RANDOM, SWEPT, VARIANTS
from ctrlgen.experiments.optimal_control.images_verdicts import FEASIBLE, swept
from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.experiments.shared.tables import embedder, head, quality
from ctrlgen.report.figures import save_figure

__all__ = ["figures", "table"]

TITLES = {
    "sr4": "x4 super-resolution",
    "sr2": "x2 super-resolution",
    "inpaint": "70 % of pixels missing",
}
COLOURS = {
    "dps": "#8c8c8c",
    "dps-published": "#c0392b",
    "adam": "#d08a2e",
    "start": "#3c7a3c",
    "adam-start": "#1f6f8b",
    "flowgrad": "#8f2d56",
}
SHOWN = ("dps-published", "dps", "released", "adam", "start", "adam-start", "rank-4-start",
         "flowgrad-start", "oc-flow-start")  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The results as Markdown; medians over all images, none left out."""
    rows = results["rows"]
    parts = []
    for task, names in METHODS.items():
        plain = rows[f"{task}-plain"]
        title = f"### {TITLES[task]}, σ = {results['noise']:g}, T = {results['steps']}"
        lines = [f"| H†y | | {quality(plain)} | | 0 | 0 | 0 | | |"]
        lines += [_line(VARIANTS[name].title, rows[f"{task}-{name}"]) for name in names]
        parts.append("\n".join([title, "", *_head(plain), *lines]))
    lines = [
        _line(VARIANTS[name].title, rows[swept(name, steps)])
        for name in SWEPT
        for steps in results["counts"]
    ]
    parts.append("\n".join([f"### {TITLES['sr4']} by T", "", *_head(rows["sr4-plain"]), *lines]))
    lines = [
        _line(f"{TITLES[task]}: {VARIANTS[name].title}", rows[f"random-{task}-{name}"])
        for task, names in RANDOM.items()
        for name in names
    ]
    parts.append("\n".join(["### A random network", "", *_head(rows["sr4-plain"]), *lines]))
    return "\n\n".join([*parts, _verdicts(results["verdicts"])]) + "\n"


def _head(plain: dict[str, Any]) -> list[str]:
    return head(
        f"| method | T | PSNR | SSIM | {embedder(plain)} | y-PSNR | evaluations | vjps | jvps "
        "| diverged | seconds |"
    )


def _line(title: str, row: dict[str, Any]) -> str:
    return (
        f"| {title} | {row['steps']} | {quality(row)} | {np.median(row['measurement_psnr']):.1f} "
        f"| {row['evaluations']:.0f} | {row['vjps']:.0f} | {row['jvps']:.0f} "
        f"| {row['diverged']} | {row['seconds']:.1f} |"
    )


def _verdicts(told: dict[str, Any]) -> str:
    """The verdicts in words, each true or false."""
    titles = " | ".join(TITLES[task] for task in METHODS)
    lines = [
        "### Verdicts",
        "",
        "Better in PSNR and SSIM by the median image, with the margin in dB:",
        "",
        f"| method | than | {titles} | on all |",
        "|---" * (len(METHODS) + 3) + "|",
    ]
    for name, rivals in told["better_than"].items():
        for rival, tasks in rivals.items():
            cells = [
                f"{_word(tasks[task]['holds'])}, {tasks[task]['margins']['psnr']:+.2f}"
                if task in tasks
                else ""
                for task in METHODS
            ]
            lines.append(
                f"| {VARIANTS[name].title} | {VARIANTS[rival].title} | {' | '.join(cells)} "
                f"| {_word(tasks['every'])} |"
            )
    lines += ["", "Median PSNR below that of H†y on x4 super-resolution:", ""]
    for name, broken in told["broken"].items():
        at = ", ".join(f"T = {steps}" for steps in broken)
        lines.append(f"- {VARIANTS[name].title}: {at or 'at no T'}")
    lines += ["", f"Measurement met with a random network (y-PSNR of {FEASIBLE:.1f} dB):", ""]
    for task, rows in told["feasible"].items():
        for name, one in rows.items():
            lines.append(
                f"- {TITLES[task]}, {VARIANTS[name].title}: {one['share']:.0%} of the images, "
                f"{_word(one['holds'])}"
            )
    lines += ["", "Met on every task with a random network, and by neither DPS on any:", ""]
    for name, holds in told["feasible_where_dps_is_not"].items():
        lines.append(f"- {VARIANTS[name].title}: {_word(holds)}")
    return "\n".join(lines)


def _word(holds: bool) -> str:
    return "true" if holds else "false"


# ---------------------------------------------------------------- figures


def figures(results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, out: Path) -> None:
    """Write reconstructions.png, steps.png and random.png."""
    for task in METHODS:
        shown = {"truth": truth, "H†y": images[f"{task}-plain"]}
        for name in SHOWN:
            if name in METHODS[task]:
                shown[VARIANTS[name].title] = images[f"{task}-{name}"]
        title = f"{TITLES[task]}, σ = {results['noise']:g}, T = {results['steps']}"
        _sheet(shown, title, out / f"{task}.png")
    _steps(results, out / "steps.png")
    shown = {"truth": truth}
    for task, names in RANDOM.items():
        shown[f"{TITLES[task]}: H†y"] = images[f"{task}-plain"]
        for name in names:
            row = f"random-{task}-{name}"
            met = np.median(results["rows"][row]["measurement_psnr"])
            shown[f"{VARIANTS[name].title}, y-PSNR {met:.1f} dB"] = images[row]
    _sheet(shown, "A random network: what is made of the measurement", out / "random.png")


def _sheet(shown: dict[str, Tensor], title: str, file: Path) -> None:
    fig, _ = sheet(shown)
    fig.suptitle(title, fontsize=9)
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _steps(results: dict[str, Any], file: Path) -> None:
    """Median PSNR, SSIM and PSNR of the measurement against T."""
    rows, counts = results["rows"], results["counts"]
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    panels = {"psnr": "PSNR, dB", "ssim": "SSIM", "measurement_psnr": "PSNR of the measurement, dB"}
    for ax, (key, label) in zip(axes, panels.items(), strict=True):
        for name in SWEPT:
            values = [np.median(rows[swept(name, steps)][key]) for steps in counts]
            ax.plot(counts, values, "o-", color=COLOURS[name], ms=4, lw=1.6,
                    label=VARIANTS[name].title)  # fmt: skip
        level = FEASIBLE + 1 if key == "measurement_psnr" else np.median(rows["sr4-plain"][key])
        word = "the noise" if key == "measurement_psnr" else "H†y"
        ax.axhline(level, color="#26242e", lw=1, ls="--")
        ax.annotate(word, (1, level), xycoords=("axes fraction", "data"), fontsize=7, ha="right",
                    va="bottom")  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks(counts, [str(steps) for steps in counts])
        ax.minorticks_off()
        ax.set_xlabel("steps T of the sampler")
        ax.set_ylabel(label)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    fig.suptitle(f"{TITLES['sr4']}, σ = {results['noise']:g}, {results['images']} images")
    save_figure(fig, file, dpi=130)
    plt.close(fig)
