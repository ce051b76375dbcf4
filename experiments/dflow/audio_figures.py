"""Table and figure of `dflow.audio`, drawn from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ctrlgen.experiments.dflow.audio_scores import TASKS, interval
from ctrlgen.experiments.dflow.audio_settings import PUBLISHED
from ctrlgen.report.figures import save_figure

__all__ = ["figure", "table"]

LABELS = {
    "silence": "silence",
    "line": "a line",
    "low-pass": "the low band",
    "codec": "codec, there and back",
    "d-flow-fast": "D-Flow, fast",
    "d-flow-paper": "D-Flow, paper",
    "red-diff": "RED-diff",
    "red-diff-tuned": "RED-diff, tuned",
    "ndtm": "NDTM",
    "mpgd": "MPGD",
    "flow-priors": "Flow-Priors",
    "dmplug": "DMPlug",
}
TITLES = {"gap10": "gap, 10 %", "gap20": "gap, 20 %", "x2": "x2", "x4": "x4", "x8": "x8"}
COLOURS = {
    "silence": "#8c8c8c", "line": "#b5b5b5", "low-pass": "#8c8c8c", "codec": "#d9d9d9",
    "d-flow-fast": "#1f6f8b", "d-flow-paper": "#14495c", "red-diff": "#d08a2e",
    "red-diff-tuned": "#a8641a", "ndtm": "#8f2d56",
    "mpgd": "#3c7a3c", "flow-priors": "#6a5acd", "dmplug": "#b8860b",
}  # fmt: skip


def _cell(values: list[float]) -> str:
    """Median and interval; signals that blew up have no digits."""
    median, low, high = interval(values)
    if median < -99:
        return "< -99"
    if median > 99:
        return "> 99"
    return f"{median:.2f} ({max(low, -99):.2f} to {high:.2f})"


def _notes(values: list[float]) -> str:
    """Mean over the clips that have notes, and how many those are."""
    every = np.array(values, float)
    every = every[np.isfinite(every)]
    return f"{every.mean():.2f} (n={len(every)})" if len(every) else ""


def _rows(results: dict[str, Any], task: str) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix(f"{task}-"): row
        for name, row in results["rows"].items()
        if name.startswith(f"{task}-")
    }


def table(results: dict[str, Any]) -> str:
    """Medians over all clips with bootstrap intervals, and the published rows, as Markdown."""
    lines = [
        f"{results['clips']} clips of {results['set']}; PSNR at peak 1, in dB; medians and 95 % "
        "bootstrap intervals. Note F1: mean over clips with notes in the gap.",
        "",
        "| task | method | LSD | observed | missing | whole | SI-SDR | MR-STFT | seam "
        "| note F1 | FAD-musicnn | evaluations | vjps | seconds a clip |",
        "|" + "---|" * 14,
    ]
    for task in results["tasks"]:
        for name, row in _rows(results, task).items():
            distance = row.get("frechet")
            fad = f"{distance['value']:.2f} (n={distance['windows']})" if distance else ""
            notes = _notes(row["note_f1"]) if "note_f1" in row else ""
            seam = f"{np.median(row['seam']):.2f}" if "seam" in row else ""
            cost = "| | |"
            if "evaluations" in row:
                each = row["seconds"] / len(row["lsd"])
                cost = f"| {row['evaluations']:.0f} | {row['vjps']:.0f} | {each:.1f} |"
            lines.append(
                f"| {TITLES[task]} | {LABELS.get(name, name)} | {_cell(row['lsd'])} "
                f"| {_cell(row['psnr_observed'])} | {_cell(row['psnr_missing'])} "
                f"| {_cell(row['psnr'])} | {_cell(row['si_sdr'])} | {np.median(row['mrstft']):.2f} "
                f"| {seam} | {notes} | {fad} {cost}"
            )
    lines += [
        "",
        "| D-Flow | LSD / trivial | below the line | at goal | evaluations | of paper's |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, found in results["verdicts"].items():
        line = {True: "yes", False: "no", None: ""}[found.get("below_line")]
        share = found.get("evaluations_of_paper")
        lines.append(
            f"| {name} | {found['lsd_of_trivial']:.2f} | {line} | {found['at_goal']:.0%} "
            f"| {found['evaluations']:.0f} | {'' if share is None else f'{share:.3f}'} |"
        )
    lines += ["", "Published (arXiv 2402.14017, Table 3; clips of 10 s at 32 kHz, a prior of 325 "]
    lines[-1] += "million weights, FAD of VGGish / PSNR): of the same tasks, not of the same clips."
    lines += ["", "| set | method | " + " | ".join(TITLES[task] for task in TASKS) + " |"]
    lines.append("|" + "---|" * (2 + len(TASKS)))
    for name, methods in PUBLISHED.items():
        for method, numbers in methods.items():
            cells = " | ".join(f"{fad:.2f} / {psnr:.2f}" for fad, psnr in numbers)
            lines.append(f"| {name} | {method} | {cells} |")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any], file: Path) -> None:
    """LSD of the gap or the missing band by task and method, with bootstrap intervals."""
    tasks = results["tasks"]
    fig, axes = plt.subplots(
        1, len(tasks), figsize=(1.2 + 2.2 * len(tasks), 3.4), sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for ax, task in zip(axes[0], tasks, strict=True):
        rows = {k: v for k, v in _rows(results, task).items() if k != "codec"}
        for place, (name, row) in enumerate(rows.items()):
            median, low, high = interval(row["lsd"])
            span = [[median - low], [high - median]]
            ax.bar(place, median, yerr=span, color=COLOURS.get(name, "#444444"), width=0.8)
        ax.set_xticks(range(len(rows)), [LABELS.get(k, k) for k in rows], rotation=60, ha="right")
        ax.set_title(TITLES[task])
        ax.grid(axis="y", alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("LSD where something is missing")
    largest = max(
        min(interval(row["lsd"])[2], 6.0) for name, row in results["rows"].items() if "lsd" in row
    )
    axes[0][0].set_ylim(0, 1.05 * largest)
    save_figure(fig, file, dpi=130)
    plt.close(fig)
