"""Loss curves are drawn from training logs as they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ctrlgen.training import curves
from ctrlgen.training.curves import loss_curve


def test_a_log_becomes_a_picture(tmp_path: Path) -> None:
    entries = [
        {"step": 50 * i, "seconds": 60.0 * i, "loss": 1 / i, "lr": 1e-3} for i in range(1, 9)
    ]
    entries[3]["validation"] = 0.3
    entries.append({"step": 410, "seconds": 500.0, "final": 0.1})
    log = tmp_path / "toy.log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    loss_curve(log, tmp_path / "new" / "toy-loss.png")
    drawn = Image.open(tmp_path / "new" / "toy-loss.png").convert("RGB")
    assert drawn.size == (720, 420) and len(drawn.getcolors(10**6)) > 10


def test_quality_is_drawn_beside_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"step": i, "seconds": 60.0 * i, "loss": 1 / i} for i in range(1, 9)]
    shares = [0.1, 0.4]
    for i, share in zip((4, 8), shares, strict=True):
        part = {"molecule_stable": share, "atom_stable": 0.9}
        entries.append({"step": i, "seconds": 60.0 * i, "quality": part})  # type: ignore[dict-item]
    log = tmp_path / "toy.log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    figures: list[Figure] = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, *_, **__: figures.append(figure))
    loss_curve(log, tmp_path / "toy-loss.png")
    losses, quality = figures[0].axes
    assert [list(line.get_ydata()) for line in quality.lines] == [[10.0, 40.0], [90.0, 90.0]]
    assert list(quality.lines[0].get_xdata()) == [4.0, 8.0]
    texts = [text.get_text() for text in losses.get_legend().get_texts()]
    assert texts == ["loss", "molecule stable", "atom stable"]
