"""Rows of small pictures with a name each: what the pages of the gallery draw."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ctrlgen.report.figures import save_figure


def rows(file: str, pictures: dict[str, Tensor], notes: dict[str, list[str]] | None = None) -> Path:
    """Write a figure of named rows of images (B, C, H, W) in [-1, 1]; notes stand below theirs."""
    count = max(len(images) for images in pictures.values())
    size = (1.2 + 1.15 * count, (1.15 if notes is None else 1.35) * len(pictures) + 0.1)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(len(pictures), count, squeeze=False)
    for line, (name, images) in zip(grid, pictures.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for place, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
            if place < len(images):
                pixels = images[place].detach().clamp(-1, 1).add(1).div(2).permute(1, 2, 0)
                axes.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), vmin=0, vmax=1)
            if notes and name in notes:
                axes.set_xlabel(notes[name][place], fontsize=8)
    save_figure(figure, file)
    return Path(file)
