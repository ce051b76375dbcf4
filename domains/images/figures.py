"""Figures of restorations and samples; drawn without a display and without global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.extras import require
from ctrlgen.operators.base import Operator
from ctrlgen.report.figures import save_figure

if TYPE_CHECKING:
    from ctrlgen.domains.images.restoration import Problem

__all__ = [
    "HOLE",
    "INK",
    "PALETTE",
    "course",
    "curves",
    "grid_figure",
    "new_figure",
    "pixels",
    "restoration_figure",
    "show",
    "tile",
]

INK, FAINT, HOLE = "#26242e", "#8d8a99", (0.80, 0.77, 0.93)
PALETTE = ("#5b4bc4", "#e2725b", "#2f9e83", "#d9a21b", "#3f7fc1", "#b04a8b", "#7a8b3a", "#6d6875")


def pixels(image: Tensor, operator: Operator | None = None) -> np.ndarray:
    """An image (1 or 3, H, W) in [-1, 1] as RGB in [0, 1], (H, W, 3); what a mask hides is tinted.

    Args:
        image: what to show.
        operator: an operator whose `mask` tells what of the image is known.
    """
    shown = image.detach().cpu().float().clamp(-1, 1).add(1).div(2).expand(3, -1, -1)
    mask = getattr(operator, "mask", None)
    if isinstance(mask, Tensor) and mask.shape[-2:] == shown.shape[-2:]:
        plane = mask if mask.ndim == 3 else mask[0]
        tint = torch.tensor(HOLE).view(3, 1, 1)
        shown = torch.where(plane.cpu(), shown, tint)
    return shown.permute(1, 2, 0).numpy()


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches."""
    figure = require("matplotlib.figure", "images").Figure(figsize=(width, height), dpi=150)
    figure.set_facecolor("white")
    return figure


def show(
    axes: Any, image: np.ndarray, title: str = "", note: str = "", colour: str = FAINT
) -> None:
    """One image without axes, pixels as squares, a title above and a coloured note below."""
    axes.imshow(image, interpolation="nearest", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=8, color=INK, pad=4)
    if note:
        axes.set_xlabel(note, fontsize=7, color=colour, labelpad=3)


def curves(
    axes: Any,
    lines: Sequence[tuple[Sequence[float], Sequence[float], str]],
    target: float | None,
    label: str,
    goal: str,
) -> None:
    """Costs against evaluations, one (x, y, colour) a line, with the target dashed and named."""
    wide = 1.4 if len(lines) <= 8 else 0.8
    for x, y, colour in lines:
        axes.plot(x, y, color=colour, linewidth=wide, alpha=0.9, solid_capstyle="round")
        axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=3)
    if target is not None:
        axes.axhline(target, color=FAINT, linewidth=0.9, dashes=(4, 3))
        falling = bool(lines) and bool(lines[0][1]) and lines[0][1][0] > target
        axes.annotate(
            f"target {goal}",
            (0 if falling else 1, target),
            xycoords=("axes fraction", "data"),
            xytext=(4, -3) if falling else (-2, 3),
            textcoords="offset points",
            ha="left" if falling else "right",
            va="top" if falling else "bottom",
            fontsize=7,
            color=FAINT,
        )
    axes.margins(y=0.12)
    axes.set_xlabel("network evaluations", fontsize=8, color=INK)
    axes.set_title(label, fontsize=8, color=INK, loc="left", pad=6)
    axes.tick_params(labelsize=7, colors=FAINT, length=0)
    axes.grid(color="#ebeaf0", linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def course(
    evaluations: Sequence[float], values: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The course of a sample without what is not finite; it ends at the sample's own value."""
    points: dict[float, float] = {}
    for x, y in zip(evaluations, values, strict=True):
        if math.isfinite(y):  # of several at one count the last one holds: that of the result
            points[x] = y
    return list(points), list(points.values())


def restoration_figure(
    file: Path, problem: Problem, images: Sequence[Tensor], content: dict[str, Any]
) -> None:
    """Measurement, reconstructions, truth if known, and the course of every sample.

    Args:
        file: to write.
        problem: what was solved.
        images: reconstructions of the first samples, (C, H, W) each.
        content: the numbers, as in `result.json`.
    """
    samples = content["samples"]
    tiles = [(pixels(problem.y[0], problem.operator), "measurement", "", FAINT)]
    for image, sample, colour in zip(images, samples, cycle(PALETTE), strict=False):
        note = f"seed {sample['seed']}"
        note += f"  ·  {sample['psnr']:.1f} dB" if "psnr" in sample else ""
        tiles.append((pixels(image), "reconstruction", note, colour))
    if problem.truth is not None:
        tiles.append((pixels(problem.truth[0]), "truth", "", FAINT))
    columns = min(len(tiles), 7)
    rows = math.ceil(len(tiles) / columns)
    width = max(5.2, 1.35 * columns + 0.6)
    cell = (width - 0.6) / columns
    top, plot = rows * (min(cell, 2.2) + 0.35), 1.9
    height = 0.35 + top + plot + 0.75
    figure = new_figure(width, height)
    upper = figure.add_gridspec(
        rows, columns, left=0.05, right=0.95, top=1 - 0.62 / height, bottom=(plot + 0.8) / height,
        wspace=0.08, hspace=0.32,
    )  # fmt: skip
    for place, parts in enumerate(tiles):
        show(figure.add_subplot(upper[place // columns, place % columns]), *parts)
    lower = figure.add_axes((0.09, 0.5 / height, 0.86, (plot - 0.3) / height))
    history = content["history"]
    lines = []
    for counts, values, colour in zip(
        history["evaluations"], history["measurement_psnr"], cycle(PALETTE), strict=False
    ):
        lines.append((*course(counts, values), colour))
    target = content["target_psnr"]
    goal = "" if target is None else f"{target:.1f} dB"
    curves(lower, lines, target, "PSNR of the measurement, dB", goal)
    seconds = f"{content['seconds']:.1f} s"
    title = f"{content['task']}  ·  {content['prior']['name']}  ·  {seconds}"
    figure.text(0.05, 1 - 0.2 / height, title, fontsize=9, color=INK, weight="bold", va="center")
    save_figure(figure, file)


def tile(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Images (N, 1 or 3, H, W) in [-1, 1] on one white sheet, RGB in [0, 1].

    Args:
        images: in reading order.
        columns: images in a row; near-square by default.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    columns = max(1, min(len(images), columns))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[-2:]
    sheet = np.ones((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), dtype=np.float32)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[top : top + height, left : left + width] = pixels(image)
    return sheet


def grid_figure(file: Path, images: Tensor, title: str) -> None:
    """Images (N, 1 or 3, H, W) in a near-square grid under a title."""
    sheet = tile(images)
    width = max(2.4, sheet.shape[1] / 48)  # inches, with a margin of 0.1
    height = 0.1 + (width - 0.2) * sheet.shape[0] / sheet.shape[1] + 0.4
    figure = new_figure(width, height)
    show(figure.add_axes((0.1 / width, 0.1 / height, 1 - 0.2 / width, 1 - 0.5 / height)), sheet)
    place = (0.1 / width, 1 - 0.22 / height)
    figure.text(*place, title, fontsize=9, color=INK, weight="bold", va="center")
    save_figure(figure, file)
