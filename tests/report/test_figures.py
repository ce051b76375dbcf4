"""Figures are written with a palette, and look as they were drawn."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import ctrlgen
from ctrlgen.report.figures import repaint, save_figure, save_picture

ROOT = Path(__file__).parents[2]


def test_a_chart_keeps_its_colours_in_a_smaller_file(tmp_path: Path) -> None:
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot([0, 1, 4], color="tab:red")
    figure.savefig(tmp_path / "full.png", dpi=100)
    save_figure(figure, tmp_path / "small.png", dpi=100)
    full, small = (Image.open(tmp_path / f"{name}.png") for name in ("full", "small"))
    assert small.mode == "P" and small.size == full.size == (400, 300)
    difference = np.abs(np.subtract(small.convert("RGB"), full.convert("RGB"), dtype=np.int16))
    assert difference.mean() < 0.5
    sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("full", "small")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_figure_in_another_format_is_left_to_matplotlib(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    save_figure(figure, tmp_path / "chart.svg")
    assert "<svg" in (tmp_path / "chart.svg").read_text()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_of_few_colours_is_exact(mode: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (200, 3)).astype(np.uint8)
    pixels = colours[draw.integers(0, 200, (40, 30))]
    picture = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
    save_picture(picture, tmp_path / "p.png")
    again = Image.open(tmp_path / "p.png")
    assert again.mode == "P"
    np.testing.assert_array_equal(again.convert("RGB"), picture.convert("RGB"))


def test_a_picture_of_many_colours_stays_near(tmp_path: Path) -> None:
    across, down = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack((across, down, (across + down) // 2), axis=2).astype(np.uint8)
    save_picture(Image.fromarray(pixels), tmp_path / "p.png")
    found = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    assert np.abs(found - pixels).mean() < 8


def test_every_figure_goes_through_the_one_function() -> None:
    """No other module calls `savefig`."""
    core = Path(ctrlgen.__file__).parent
    folders = [core, *(ROOT / name for name in ("domains", "experiments", "costs", "benchmarks"))]
    calls = [
        f"{file.name}:{node.lineno}"
        for folder in folders
        for file in folder.rglob("*.py")
        if file != core / "report/figures.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "savefig"
    ]
    assert calls == []


def test_the_tree_stays_small() -> None:
    """What is neither weights nor code takes less than 9 MB, pictures and tables most of it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    sizes: Counter[str] = Counter()
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():  # not one that is deleted and not yet committed
            sizes[Path(name).suffix] += (ROOT / name).lstat().st_size
    limits = {".png": 4.0e6, ".json": 3.7e6, "the rest": 1.3e6}
    found = {key: sizes.pop(key) for key in (".png", ".json")}
    found["the rest"] = sum(sizes.values()) - sizes[".safetensors"] - sizes[".py"]
    assert all(found[key] < limit for key, limit in limits.items()), found


def test_pictures_are_written_again_with_a_palette(tmp_path: Path) -> None:
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "p.png")
    before = np.asarray(Image.open(tmp_path / "p.png"))
    repaint([tmp_path / "p.png"])
    with Image.open(tmp_path / "p.png") as again:
        assert again.mode == "P"
        np.testing.assert_array_equal(again.convert("RGB"), before)
