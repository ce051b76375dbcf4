"""Runs docs/gallery.md, block after block, and draws the front page from its pictures.

    python docs/gallery [WORD ...]     # all blocks, or those that draw a picture with such a name

Pictures are written into docs/images/gallery. `make gallery` does it all.
"""

import os
import re
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

from ctrlgen.report.figures import save_figure

PAGE = Path(__file__).resolve().parents[1] / "gallery.md"
FRONT = {
    "missing_pixels.png": "Seven pixels of ten are missing",
    "molecules.png": "Molecules whose gap is to be 5.5 eV, and what guide and evaluator say of it",
    "music.png": "A gap in a piece of music",
}


def blocks() -> dict[str, str]:
    """The page's Python, by the name of the picture that it draws."""
    parts = re.findall(
        r"```python\n(.*?)```\s+!\[[^]]*\]\(images/gallery/(\w+)", PAGE.read_text(), re.S
    )
    return {name: code for code, name in parts}


def front(file: str) -> None:
    """The picture of the front page: three of the others below one another, pixel for pixel."""
    images = {title: imread(part) for part, title in FRONT.items()}
    margin, line, dpi = 8, 30, 110
    width = max(image.shape[1] for image in images.values()) + 2 * margin
    height = sum(image.shape[0] + line + margin for image in images.values())
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    top = height
    for title, image in images.items():
        figure.text(margin / width, (top - line / 2) / height, title, fontsize=11, weight="bold",
                    va="center")  # fmt: skip
        top -= line + image.shape[0]
        figure.figimage(image, (width - image.shape[1]) // 2, top)
        top -= margin
    save_figure(figure, file)


if __name__ == "__main__":
    place = PAGE.parent / "images" / "gallery"
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    words = sys.argv[1:]
    for name, code in blocks().items():
        if not words or any(word in name for word in words):
            began = time.perf_counter()
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
            print(f"{name}.png: {time.perf_counter() - began:.0f} s", flush=True)
    front("front.png")
