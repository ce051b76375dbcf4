"""Figures as files: PNG with a palette, a third of the size of one in full colour.

A chart has a few dozen colours and loses nothing; of small pictures in a figure the 256 most
telling colours are kept. Pictures that are data are not for this module.

    python -m ctrlgen.report.figures experiments/results/*/*.png      # those written before
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["repaint", "save_figure", "save_picture"]


def save_figure(figure: Figure, file: str | Path, dpi: float | None = None) -> None:
    """Write a matplotlib figure; a PNG gets a palette, other formats are as matplotlib has them.

    Args:
        figure: to draw.
        file: to write; its suffix says in which format.
        dpi: dots per inch; the figure's own when None.
    """
    from PIL import Image

    resolution = "figure" if dpi is None else dpi
    if Path(file).suffix.lower() != ".png":
        figure.savefig(file, dpi=resolution)
        return
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=resolution)
    with Image.open(drawn) as picture:
        save_picture(picture, file)


def save_picture(picture: Image, file: str | Path) -> None:
    """Write a picture for the eye as PNG with at most 256 colours, exact where it has no more."""
    import numpy as np
    from PIL import Image

    opaque = picture.convert("RGB")
    if opaque.getcolors(256) is None:
        opaque.quantize(256).save(file, "PNG", optimize=True)
        return
    pixels = np.asarray(opaque).astype(np.int64) @ (65536, 256, 1)
    values, places = np.unique(pixels, return_inverse=True)
    exact = Image.fromarray(places.reshape(opaque.size[::-1]).astype(np.uint8), "P")
    palette = np.stack((values >> 16, (values >> 8) & 255, values & 255), axis=1)
    exact.putpalette(palette.flatten().tolist())
    exact.save(file, "PNG", optimize=True)


def repaint(files: Iterable[str | Path]) -> None:
    """Give PNG files palettes; one that has one stays as it is."""
    from PIL import Image

    for file in files:
        with Image.open(file) as picture:
            picture.load()
        if picture.mode != "P":
            save_picture(picture, file)


if __name__ == "__main__":
    repaint(sys.argv[1:])
