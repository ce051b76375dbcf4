"""Table and figures of `dflow.images`, drawn from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.report.figures import save_figure

__all__ = ["figures", "table"]

COLOURS = {"source": "#8c8c8c", "blend": "#d08a2e", "guided": "#1f6f8b", "mean": "#8f2d56",
           "refined": "#3c7a3c"}  # fmt: skip
LABELS = {
    "source": "from noise",
    "blend": "blend, a = 0.1 (paper)",
    "guided": "guided start",
    "mean": "guided start, T = 0",
    "refined": "the same, refined",
    "map": "guided start, T = 0, Gaussian NLL",
}
TASKS = {
    "sr2": "x2 super-resolution",
    "inpaint": "centre inpainting",
    "deblur": "Gaussian deblurring",
}


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table; medians over all images, none left out.

    "at 40 dB" is the share of the images whose measurement got there, with the median of the
    objective calls that it took them.
    """
    head = (
        "| task | σ_y | start | on target | at 40 dB | y-PSNR | PSNR | spliced | H†y | beats H†y "
        "| spliced | margin | SSIM | H†y SSIM | {fd} | H†y {fd} | objective calls | seconds |"
    )
    lines, embedder = [], ""
    for name, row in results["rows"].items():
        if "dflow" not in row or name.startswith("lambda"):
            continue
        embedder = f"{row['dflow']['frechet']['embedder']} (n={row['dflow']['frechet']['images']})"
        start = LABELS[name.split("-")[1]]
        ours, plain = row["dflow"], row["pseudo_inverse"]
        on_target = np.mean([s == 3 for s in row["status"]])
        spliced = np.array(ours.get("psnr_spliced", ours["psnr"]))
        both = spliced > np.array(plain["psnr"])
        lines.append(
            f"| {row['task']} | {row['noise']:g} | {start} | {on_target:.0%} | {_share(row, 40)} "
            f"| {np.median(row['measurement_psnr']):.1f} | {np.median(ours['psnr']):.2f} "
            f"| {np.median(spliced):.2f} | {np.median(plain['psnr']):.2f} "
            f"| {row['better_than_pseudo_inverse']:.0%} | {both.mean():.0%} "
            f"| {row['median_margin_db']:+.2f} | {np.median(ours['ssim']):.3f} "
            f"| {np.median(plain['ssim']):.3f} | {ours['frechet']['value']:.2f} "
            f"| {plain['frechet']['value']:.2f} | {np.median(row['objective_calls']):.0f} "
            f"| {row['seconds']:.0f} |"
        )
    title = head.format(fd=embedder)
    rule = "|" + "---|" * (title.count("|") - 1)
    ablation = ["", "| λ | PSNR | y-PSNR | objective calls | ‖x_0‖/√d |", "|---|---|---|---|---|"]
    for weight in results["lambdas"]:
        row = results["rows"][f"lambda-{weight:g}"]
        ablation.append(
            f"| {weight:g} | {np.median(row['dflow']['psnr']):.2f} "
            f"| {np.median(row['measurement_psnr']):.1f} | {np.median(row['objective_calls']):.0f} "
            f"| {np.median(row['source_radius_over_root_d']):.3f} |"
        )
    bits = ["", "| images | bits per dimension, median (10-90 %) |", "|---|---|"]
    for name, row in results["rows"].items():
        if name.startswith("bits-"):
            low, mid, high = np.percentile(row["bits_per_dimension"], (10, 50, 90))
            bits.append(f"| {row['images']} | {mid:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join([title, rule, *lines, *ablation, *bits]) + "\n"


def _share(row: dict[str, Any], level: int) -> str:
    """How many images got to a level, and the median of the objective calls that this took them."""
    counts = row["reached"][str(level)]
    hits = [n for n in counts if n is not None]
    return f"{len(hits) / len(counts):.1%} ({np.median(hits):.0f})" if hits else "0%"


def figures(results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, out: Path) -> None:
    """Write convergence.png, reconstructions.png and ablation.png."""
    _convergence(results, out / "convergence.png")
    _reconstructions(images, truth, out / "reconstructions.png")
    _ablation(results, out / "ablation.png")


def _convergence(results: dict[str, Any], file: Path) -> None:
    """Fraction of the images at each level of measurement PSNR against objective calls spent."""
    levels = [str(level) for level in results["levels_db"]]
    fig, axes = plt.subplots(
        len(TASKS), len(levels), figsize=(11, 7), sharex=True, sharey=True, constrained_layout=True
    )
    for line, (task, title) in zip(axes, TASKS.items(), strict=True):
        for ax, level in zip(line, levels, strict=True):
            for start, colour in COLOURS.items():
                row = results["rows"].get(f"{task}-{start}")
                if row is None:
                    continue
                counts = row["reached"][level]
                hits = sorted(n for n in counts if n is not None)
                steps = np.arange(len(hits) + 1) / len(counts)
                end = max(row["objective_calls"])
                ax.step(
                    [0, *hits, end], [*steps, steps[-1]], where="post", color=colour,
                    label=LABELS[start], lw=1.8,
                )  # fmt: skip
            ax.set_ylim(-0.02, 1.02)
            ax.set_xlim(0, results["evaluations"])
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
            if task == "sr2":
                ax.set_title(f"{level} dB")
        line[0].set_ylabel(title)
    for ax in axes[-1]:
        ax.set_xlabel("objective calls per image")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    fig.suptitle("Fraction of images whose measurement is met to the given PSNR")
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _reconstructions(images: dict[str, Tensor], truth: Tensor, file: Path) -> None:
    """Truth, measurement as H†y, and reconstruction for the first images of each task."""
    from ctrlgen.experiments.dflow.images import NOISE, TASKS, problem

    shown = {"truth": truth}
    for name, noise in (("sr2", 0.0), ("inpaint", 0.0), ("deblur", 0.0), ("denoise", NOISE)):
        cost = problem(TASKS[name], truth, noise, range(len(truth)))
        shown[f"{name}: H†y"] = cost.operator.pinv(cost.y)
        shown[f"{name}: D-Flow"] = images[f"{name}-mean" + ("-noisy" if noise else "")]
    fig, _ = sheet(shown)
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _ablation(results: dict[str, Any], file: Path) -> None:
    """PSNR and source radius against λ; bits per dimension of sets of images."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    rows = [results["rows"][f"lambda-{weight:g}"] for weight in results["lambdas"]]
    left.boxplot([row["dflow"]["psnr"] for row in rows], showfliers=True, widths=0.5)
    left.set_xticks(range(1, len(rows) + 1), [f"{weight:g}" for weight in results["lambdas"]])
    left.set_xlabel("λ of the χ$^d$ regularizer")
    left.set_ylabel("PSNR, dB")
    left.set_title(f"Inpainting at noise {results['noise']:g}")
    sets = [row for name, row in results["rows"].items() if name.startswith("bits-")]
    right.boxplot([row["bits_per_dimension"] for row in sets], orientation="horizontal", widths=0.5)
    right.set_yticks(range(1, len(sets) + 1), [row["images"] for row in sets])
    right.invert_yaxis()
    right.set_xlabel("bits per dimension")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    save_figure(fig, file, dpi=130)
    plt.close(fig)
