"""Sheets of images: a labelled row for every method, one below the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from torch import Tensor

from ctrlgen.domains.images.figures import tile

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["sheet"]


def sheet(shown: Mapping[str, Tensor], count: int = 10) -> tuple[Any, list[Any]]:
    """A figure of the first images of every row, and the axes of the rows.

    Args:
        shown: images (B, C, H, W) in [-1, 1] by label.
        count: how many of a row.
    """
    columns = min(count, len(next(iter(shown.values()))))
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(0.62 * columns + 3.4, 0.62 * len(shown) + 0.5),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for ax, (label, pictures) in zip(axes[:, 0], shown.items(), strict=True):
        # Squares as they are: smooth edges tell nothing more, in three times as many bytes.
        ax.imshow(
            tile(pictures[:columns], columns=columns), interpolation="nearest", vmin=0, vmax=1
        )
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return figure, list(axes[:, 0])
