"""The demonstration, cut to a few evaluations of a few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlgen.domains.images import demo


def test_the_demo_ends_with_a_table_a_figure_and_the_numbers(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_COUNT", 2)
    monkeypatch.setattr(demo, "_BUDGET", 4)
    monkeypatch.setattr(demo, "_STEER_SEEDS", (3,))
    outcome = ctrlgen("demo", "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert outcome.out.rstrip().endswith("demo/figure.png")
    assert {file.name for file in (tmp_path / "demo").iterdir()} == {"figure.png", "result.json"}
    with Image.open(tmp_path / "demo" / "figure.png") as figure:
        assert figure.width > 1000
    scenes = json.loads((tmp_path / "demo" / "result.json").read_text())["scenes"]
    assert len(scenes) == 4
    for title, scene in scenes.items():
        assert title in outcome.err  # said when it was done
        assert 0 <= scene["reached"] <= scene["samples"] == len(scene["evaluations"])
        assert max(scene["evaluations"]) <= 4
    assert scenes["Twice the size"]["psnr"][0] > scenes["Twice the size"]["psnr_pseudo_inverse"][0]
    assert "not empty" in ctrlgen("demo", "--out", tmp_path / "demo").err
