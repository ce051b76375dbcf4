"""Tables and figures of `ndtm.images`, drawn from its results and images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ctrlgen.domains.images.figures import PALETTE
from ctrlgen.experiments.ndtm.settings import ABLATED, AXES, BLIND, NAMES, SHOWN
from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.experiments.shared.tables import embedder, head, quality, spent
from ctrlgen.report.figures import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["figures", "table"]

TITLES = {
    "sr4": "x4 super-resolution",
    "random-inpaint": "90 % of the pixels removed",
    "nonlinear-deblur": "non-linear deblurring",
    "blind-gaussian": "blind deblurring, Gaussian kernel",
    "blind-motion": "blind deblurring, motion kernel",
}
ROWS = {
    "measurement": "y",
    "pinv": "H†y",
    **NAMES,
    "blind": "blind NDTM",
    "delta": "NDTM, kernel taken for the identity",
    "known": "NDTM, kernel known",
}
SYMBOLS = {"iterations": "N", "gamma": "γ", "terminal_weight": "w_T", "weighting": "weighting"}
PUBLISHED = (
    "Published, on ImageNet-256: a Fréchet (Inception) distance of "
    "34.31 on non-linear deblurring, 78.07 for the best baseline (abstract of arXiv 2502.03686v1)."
)
METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM", "frechet": "Fréchet distance"}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown: a table for every task, the ablations and the paper's claims."""
    parts = [_task(results, task) for task in results["tasks"]]
    parts += [_ablation_table(results, task) for task in ABLATED if task in results["tasks"]]
    return "\n\n".join([*parts, _claims(results["claims"])]) + "\n"


def _task(results: dict[str, Any], task: str) -> str:
    """Medians over all images, none left out; seconds are of the whole batch."""
    rows = {name: results["rows"].get(f"{task}-{name}") for name in ROWS}
    found = {name: row for name, row in rows.items() if row is not None}
    blind = task in BLIND
    columns = f"| method | setting | PSNR | SSIM | {embedder(next(iter(found.values())))} "
    columns += "| y-PSNR | evaluations | vjps | seconds | diverged |"
    columns += " kernel error |" if blind else ""
    lines = [f"### {TITLES[task]}, σ = {results['noise']:g}", "", *head(columns)]
    for name, row in found.items():
        chosen = results["rows"].get(f"tune-{task}-{name}", {"best": ""})["best"]
        line = f"| {ROWS[name]} | {chosen} | {quality(row)} | {spent(row)} |"
        if blind:
            line += f" {np.median(row['kernel_error']):.2f} |" if "kernel_error" in row else " |"
        lines.append(line)
    if blind:
        lines += ["", "Published, at 256 x 256 and with other priors: 7.17 and 18.07 s (Table 2)."]
    return "\n".join(lines)


def _ablation(results: dict[str, Any], task: str, axis: str) -> list[tuple[Any, dict[str, Any]]]:
    """The rows of one axis in its order, that of no change among them."""
    rows = results["rows"]
    base = rows[f"ablation-{task}-base"]
    return [(value, rows.get(f"ablation-{task}-{axis}-{value}", base)) for value in AXES[axis]]


def _ablation_table(results: dict[str, Any], task: str) -> str:
    columns = "| changed | value | PSNR | SSIM | y-PSNR | evaluations | vjps | diverged |"
    lines = [f"### NDTM, ablations on {TITLES[task]} ({results['few']} images)", "", *head(columns)]
    for axis, symbol in SYMBOLS.items():
        for value, row in _ablation(results, task, axis):
            shown = value if isinstance(value, str) else f"{value:g}"
            lines.append(
                f"| {symbol} | {shown} | {np.median(row['psnr']):.2f} "
                f"| {np.median(row['ssim']):.3f} | {np.median(row['measurement_psnr']):.1f} "
                f"| {row['evaluations']:.0f} | {row['vjps']:.0f} | {row['diverged']} |"
            )
    return "\n".join(lines)


def _claims(claims: list[dict[str, Any]]) -> str:
    """True or false, with the numbers that say so."""
    columns = "| is ... better | than ... | on | by | median difference | of the images | holds |"
    lines = ["### Orderings", "", *head(columns)]
    for claim in claims:
        share = f"{claim['fraction']:.0%}" if "fraction" in claim else ""
        paper = " (the paper's)" if claim["paper"] else ""
        lines.append(
            f"| {ROWS[claim['ours']]} | {ROWS[claim['theirs']]} | {TITLES[claim['task']]}{paper} "
            f"| {METRICS[claim['metric']]} | {claim['median_difference']:+.3f} | {share} "
            f"| {str(claim['holds']).lower()} |"
        )
    asked = [claim["holds"] for claim in claims if claim["paper"]]
    if asked:
        whole = str(all(asked)).lower()
        lines += ["", "NDTM better than RED-diff and DPS on non-linear deblurring, by all of them: "
                  f"**{whole}**.", "", PUBLISHED]  # fmt: skip
    return "\n".join(lines)


def figures(results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, out: Path) -> None:
    """Write <task>.png of every task, and ablation.png where there are ablations."""
    for task in results["tasks"]:
        _reconstructions(results, images, truth, task, out / f"{task}.png")
    ablated = [task for task in ABLATED if task in results["tasks"]]
    if ablated:
        _ablations(results, ablated, out / "ablation.png")


def _reconstructions(
    results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, task: str, file: Path
) -> None:
    """Truth, measurement and every method's images for the first of them; kernels where blind."""
    shown = {"truth": truth}
    for name, label in ROWS.items():
        if f"{task}-{name}" in images:
            shown[label] = images[f"{task}-{name}"]
    for name, label in (("measurement", "kernel"), ("blind", "kernel, estimated")):
        if "kernels" in results["rows"].get(f"{task}-{name}", {}):
            kernels = torch.tensor(results["rows"][f"{task}-{name}"]["kernels"]).unsqueeze(1)
            peaks = kernels.amax(dim=(2, 3), keepdim=True)
            size = [int(side) for side in truth.shape[2:]]
            shown[label] = interpolate(2 * kernels / peaks - 1, size=size)
    fig, _ = sheet(shown, SHOWN)
    fig.suptitle(f"{TITLES[task]}, {results['prior']}", fontsize=10)
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _ablations(results: dict[str, Any], tasks: list[str], file: Path) -> None:
    """PSNR of every image and their median against what was changed, a line of panels a task."""
    fig, axes = plt.subplots(
        len(tasks), len(AXES), figsize=(3 * len(AXES), 2.6 * len(tasks) + 0.4), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for line, task in zip(axes, tasks, strict=True):
        for ax, (axis, symbol) in zip(line, SYMBOLS.items(), strict=True):
            found = _ablation(results, task, axis)
            places = range(len(found))
            values = np.array([row["psnr"] for _, row in found])
            ax.plot(places, values, color="#c9c6d6", lw=0.8)
            ax.plot(places, np.median(values, axis=1), "o-", color=PALETTE[0], lw=1.8, ms=4)
            names = [str(v).replace("_", "\n") if isinstance(v, str) else f"{v:g}"
                     for v, _ in found]  # fmt: skip
            ax.set_xticks(places, names, fontsize=7)
            ax.set_title(f"{symbol}, {TITLES[task]}", fontsize=9)
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("PSNR, dB")
    fig.suptitle(f"NDTM, one number changed at a time, {results['prior']}")
    save_figure(fig, file, dpi=130)
    plt.close(fig)
