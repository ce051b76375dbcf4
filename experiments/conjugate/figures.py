"""Tables and figures of `conjugate.images`, drawn from its results and images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

from ctrlgen.domains.images.figures import PALETTE
from ctrlgen.experiments.conjugate.settings import FORMS, METHODS, NOISY, PAIRS, SWEEPS, SWEPT
from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.experiments.shared.tables import embedder, head, quality, spent
from ctrlgen.report.figures import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["figures", "table"]

TITLES = {
    "inpaint": "centre inpainting",
    "sr2": "x2 super-resolution",
    "sr4": "x4 super-resolution",
    "deblur": "Gaussian deblurring",
}
LOOKS = {
    "c-pigdm": (PALETTE[0], "o-"),
    "pigdm": (PALETTE[0], "o--"),
    "c-pigfm": (PALETTE[2], "s-"),
    "c-pigfm-released": (PALETTE[2], "s:"),
    "pigfm": (PALETTE[2], "s--"),
    "ddrm": (PALETTE[1], "^-"),
    "dps": (PALETTE[3], "v-"),
}
PUBLISHED = (
    "Published, on ImageNet-256: x4 super-resolution in 5 steps is better than of baselines in "
    "20 to 1000 (abstract of arXiv 2405.17673)."
)
SCORES = {"psnr": "PSNR", "ssim": "SSIM", "frechet": "Fréchet distance"}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown: a table for every task, noisy ones, the sweep and the claims."""
    parts = [_task(results, task) for task in results["tasks"]]
    parts += [_noisy(results, task) for task in NOISY if task in results["tasks"]]
    if SWEPT in results["tasks"]:
        parts += [_sweep_table(results, name) for name in SWEEPS]
    return "\n\n".join([*parts, _claims(results)]) + "\n"


def _head(row: dict[str, Any]) -> list[str]:
    line = f"| method | budget | setting | PSNR | SSIM | {embedder(row)} | y-PSNR "
    return head(line + "| evaluations | vjps | seconds | diverged |")


def _line(results: dict[str, Any], name: str, label: str, budget: int) -> str:
    """Medians over all images, none left out; seconds are of the whole batch."""
    row = results["rows"][name]
    return (
        f"| {label} | {budget} | {results['rows'][f'tune-{name}']['best']} | {quality(row)} "
        f"| {spent(row)} |"
    )


def _task(results: dict[str, Any], task: str) -> str:
    plain = results["rows"][f"{task}-plain"]
    lines = [f"### {TITLES[task]}, without noise", "", *_head(plain)]
    lines.append(f"| H†y | 0 | | {quality(plain)} | | 0 | 0 | | |")
    for name, label in METHODS.items():
        lines += [
            _line(results, f"{task}-{name}-{budget}", label, budget)
            for budget in results["budgets"]
        ]
    return "\n".join(lines)


def _ends(results: dict[str, Any]) -> list[int]:
    return sorted({min(results["budgets"]), max(results["budgets"])})


def _noisy(results: dict[str, Any], task: str) -> str:
    plain = results["rows"][f"noisy-{task}-plain"]
    lines = [f"### {TITLES[task]}, σ = {results['noise']:g}", "", *_head(plain)]
    lines.append(f"| H†y | 0 | | {quality(plain)} | | 0 | 0 | | |")
    for form in FORMS:
        lines += [
            _line(results, f"noisy-{task}-{form}-{budget}", f"C-ΠGDM, {form}", budget)
            for budget in _ends(results)
        ]
    return "\n".join(lines)


def _sweep_table(results: dict[str, Any], name: str) -> str:
    least = min(results["budgets"])
    row = results["rows"][f"sweep-{name}-{least}"]
    title = f"{METHODS[name]} on {TITLES[SWEPT]}, {least} evaluations, {results['few']} images"
    lines = [f"### {title}: median PSNR", ""]
    lines.append("| λ \\ w | " + " | ".join(f"{w:g}" for w in row["weights"]) + " |")
    lines.append("|---" * (len(row["weights"]) + 1) + "|")
    for decay, values in zip(row["decays"], row["psnr"], strict=True):
        lines.append(f"| {decay:g} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return "\n".join(lines)


def _claims(results: dict[str, Any]) -> str:
    """True or false, with the differences that say so."""
    ends = _ends(results)
    least, greatest = ends[0], ends[-1]
    title = (
        f"| task | by | {least} against {least} | of the images | better "
        f"| {least} against {greatest} | of the images | not worse | holds |"
    )
    lines = [f"### The conjugate form in {least} evaluations"]
    for ours, theirs in PAIRS:
        lines += [
            "",
            f"{METHODS[ours]} against {METHODS[theirs]}, median differences:",
            "",
            *head(title),
        ]
        asked = [c for c in results["claims"] if c["ours"] == ours]
        for claim in asked:
            both = [claim[f"against_{budget}"] for budget in (least, greatest)]
            shares = [f"{c['fraction']:.0%}" if "fraction" in c else "" for c in both]
            margins = [f"{c['median_difference']:+.3f}" for c in both]
            told = [str(claim[word]).lower() for word in ("better", "not_worse", "holds")]
            lines.append(
                f"| {TITLES[claim['task']]} | {SCORES[claim['metric']]} | {margins[0]} "
                f"| {shares[0]} | {told[0]} | {margins[1]} | {shares[1]} | {told[1]} | {told[2]} |"
            )
        whole = sum(claim["holds"] for claim in asked)
        lines += ["", f"Holds in {whole} of {len(asked)}."]
    lines += ["", PUBLISHED]
    return "\n".join(lines)


def figures(results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, out: Path) -> None:
    """Write quality.png, a <task>.png of images for every task, and sweep.png."""
    _quality(results, out / "quality.png")
    for task in results["tasks"]:
        _reconstructions(results, images, truth, task, out / f"{task}.png")
    if SWEPT in results["tasks"]:
        _sweeps(results, out / "sweep.png")


def _quality(results: dict[str, Any], file: Path) -> None:
    """Median PSNR and SSIM against evaluations, a column for every task."""
    tasks, budgets = results["tasks"], results["budgets"]
    fig, axes = plt.subplots(
        2, len(tasks), figsize=(2.9 * len(tasks) + 1.4, 5.4), squeeze=False, sharex=True,
        constrained_layout=True,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for column, task in enumerate(tasks):
        for ax, metric in zip(axes[:, column], ("psnr", "ssim"), strict=True):
            plain = np.median(results["rows"][f"{task}-plain"][metric])
            handles["H†y"] = ax.axhline(plain, color="#8c8c8c", lw=1, ls=":")
            for name, (colour, style) in LOOKS.items():
                rows = [results["rows"][f"{task}-{name}-{budget}"] for budget in budgets]
                values = [np.median(row[metric]) for row in rows]
                (handles[METHODS[name]],) = ax.plot(
                    budgets, values, style, color=colour, lw=1.4, ms=4
                )
            ax.set_xticks(budgets)
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(TITLES[task], fontsize=9)
        axes[1, column].set_xlabel("evaluations")
    axes[0, 0].set_ylabel("PSNR, dB (median)")
    axes[1, 0].set_ylabel("SSIM (median)")
    fig.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    fig.suptitle(f"Noiseless, {results['prior']}, {results['images']} images")
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _reconstructions(
    results: dict[str, Any], images: dict[str, Tensor], truth: Tensor, task: str, file: Path
) -> None:
    """Truth, H†y, and every method's images at the fewest evaluations, for the first of them."""
    least = min(results["budgets"])
    shown = {"truth": truth, "H†y": images[f"{task}-plain"]}
    shown |= {label: images[f"{task}-{name}-{least}"] for name, label in METHODS.items()}
    fig, _ = sheet(shown)
    fig.suptitle(f"{TITLES[task]}, {least} evaluations, {results['prior']}", fontsize=10)
    save_figure(fig, file, dpi=130)
    plt.close(fig)


def _sweeps(results: dict[str, Any], file: Path) -> None:
    """Median PSNR over λ and w as a heat map for each conjugate method."""
    fig, axes = plt.subplots(
        1, len(SWEEPS), figsize=(4.6 * len(SWEEPS), 3.8), constrained_layout=True
    )
    for ax, name in zip(axes, SWEEPS, strict=True):
        row = results["rows"][f"sweep-{name}-{min(results['budgets'])}"]
        # A setting that leaves the range of images would take all of the colours for itself.
        values = np.nan_to_num(np.array(row["psnr"]), nan=-np.inf, neginf=-np.inf)
        top = values.max()
        drawn = ax.imshow(values, cmap="viridis", vmin=max(values.min(), top - 12), vmax=top,
                          origin="lower", aspect="auto")  # fmt: skip
        for (i, k), value in np.ndenumerate(values):
            dark = value < top - 6
            ax.text(k, i, f"{value:.1f}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black")  # fmt: skip
        ax.set_xticks(range(len(row["weights"])), [f"{w:g}" for w in row["weights"]])
        ax.set_yticks(range(len(row["decays"])), [f"{d:g}" for d in row["decays"]])
        ax.set_xlabel("w")
        ax.set_ylabel("λ")
        ax.set_title(f"{METHODS[name]}, {min(results['budgets'])} evaluations", fontsize=10)
        fig.colorbar(drawn, ax=ax, label="PSNR, dB (median)")
    fig.suptitle(f"{TITLES[SWEPT]}, {results['prior']}, {results['few']} images")
    save_figure(fig, file, dpi=130)
    plt.close(fig)
