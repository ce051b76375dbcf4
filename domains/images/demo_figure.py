"""The figure of the demonstration: four panels of images, and the course of every run below."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ctrlgen.domains.images.demo import Scene
from ctrlgen.domains.images.figures import (
    FAINT,
    INK,
    PALETTE,
    course,
    curves,
    new_figure,
    pixels,
    show,
)
from ctrlgen.report.figures import save_figure

__all__ = ["demo_figure"]

_WIDTH, _MARGIN, _GUTTER, _LABEL, _HEAD, _PLOT = 12.0, 0.35, 0.6, 0.62, 0.72, 2.0


def demo_figure(file: Path, scenes: list[Scene], seconds: float) -> None:
    """Draw four scenes, two by two, with their curves in a row below.

    Args:
        file: to write.
        scenes: four of them, the last one of a classifier.
        seconds: of everything.
    """
    half = (_WIDTH - 2 * _MARGIN - _GUTTER) / 2
    tall = [max(_panel_height(scene, half) for scene in pair) for pair in (scenes[:2], scenes[2:])]
    height = 0.85 + sum(tall) + 2 * _HEAD + 0.2 + _PLOT + 0.3
    figure = new_figure(_WIDTH, height)
    figure.text(
        _MARGIN / _WIDTH, 1 - 0.36 / height, "A flow, a cost, no training", fontsize=16, color=INK,
        weight="bold", va="center",
    )  # fmt: skip
    subtitle = (
        "D-Flow finds the noise from which a pretrained flow makes what is asked for  ·  "
        f"{seconds:.0f} s"
    )
    figure.text(_MARGIN / _WIDTH, 1 - 0.66 / height, subtitle, fontsize=9, color=FAINT, va="center")
    top = height - 0.85
    for line, pair in enumerate((scenes[:2], scenes[2:])):
        for column, scene in enumerate(pair):
            colour = PALETTE[2 * line + column]
            _panel(figure, scene, colour, _MARGIN + column * (half + _GUTTER), top, half, height)
        top -= tall[line] + _HEAD
    _courses(figure, scenes, half, height)
    save_figure(figure, file)


def _panel_height(scene: Scene, width: float) -> float:
    count = len(next(iter(scene.rows.values())))
    return len(scene.rows) * (width - _LABEL) / count


def _panel(
    figure: Any, scene: Scene, colour: str, left: float, top: float, width: float, height: float
) -> None:
    """One scene: its heading, then its rows of images; lengths are in inches."""
    figure.text(
        left / _WIDTH, (top - 0.22) / height, scene.title, fontsize=11, color=colour, weight="bold",
        va="center",
    )  # fmt: skip
    figure.text(
        left / _WIDTH, (top - 0.45) / height, _finding(scene), fontsize=8, color=FAINT, va="center"
    )
    count = len(next(iter(scene.rows.values())))
    cell = (width - _LABEL) / count
    gap = 0.04
    for line, (name, images) in enumerate(scene.rows.items()):
        y = top - 0.62 - (line + 1) * cell
        figure.text(
            (left + _LABEL - 0.1) / _WIDTH, (y + cell / 2) / height, name, fontsize=8, color=INK,
            ha="right", va="center",
        )  # fmt: skip
        for i, image in enumerate(images):
            seen = scene.operator if line == 0 else None
            seen = seen.take(torch.tensor([i])) if seen else None
            axes = figure.add_axes(
                (
                    (left + _LABEL + i * cell) / _WIDTH,
                    (y + gap / 2) / height,
                    (cell - gap) / _WIDTH,
                    (cell - gap) / height,
                )
            )
            show(axes, pixels(image, seen))


def _finding(scene: Scene) -> str:
    n = scene.numbers
    effort = f"median {int(n['objective_calls'].median())} objective calls"
    if "probability" in n:
        sure = f"{n['reached']} of {n['samples']} above {100 * math.exp(-n['target']):.0f} %"
        return f"left: what the seed draws; then 0 to 9  ·  {sure}  ·  {effort}"
    gain = float((n["psnr"] - n["psnr_pseudo_inverse"]).median())
    reached = f"{n['reached']} of {n['samples']} reach {n['target']} dB"
    told = ", told the digit" if n["told"] else ""
    return f"{n['prior']}{told}  ·  {reached}  ·  {effort}  ·  {gain:+.1f} dB over H†y"


def _courses(figure: Any, scenes: list[Scene], half: float, height: float) -> None:
    wide = (_WIDTH - 2 * _MARGIN - 3 * 0.55) / 4
    for i, scene in enumerate(scenes):
        left = _MARGIN + 0.3 + i * (wide + 0.45)
        axes = figure.add_axes(
            (left / _WIDTH, 0.55 / height, (wide - 0.1) / _WIDTH, (_PLOT - 0.35) / height)
        )
        sign = 1 if "probability" in scene.numbers else -1
        history = scene.result.history
        lines = []
        for row in range(len(scene.result)):
            x, y = course(
                history["evaluations"][:, row].tolist(), (sign * history["cost"][:, row]).tolist()
            )
            lines.append((x, y, PALETTE[i]))
        label = "−log p(digit), nats" if sign > 0 else "PSNR of the measurement, dB"
        goal = f"{100 * math.exp(-scene.target):.0f} %" if sign > 0 else f"{scene.target} dB"
        curves(axes, lines, scene.target, label, goal)
        if sign > 0:
            axes.set_yscale("log")
            axes.minorticks_off()
