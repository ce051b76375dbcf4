"""The demonstration, cut to a few evaluations of a few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlgen.domains.images import demo
from ctrlgen.domains.molecules import demo as molecules
from ctrlgen.domains.molecules.generation import Settings


def test_the_demo_ends_with_a_table_a_figure_and_the_numbers(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_COUNT", 2)
    monkeypatch.setattr(demo, "_BUDGET", 4)
    monkeypatch.setattr(demo, "_STEER_SEEDS", (3,))
    monkeypatch.setattr(molecules, "_COUNT", 2)
    monkeypatch.setattr(molecules, "_SETTINGS", Settings(steps=2, iterations=1))
    outcome = ctrlgen("demo", "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert "demo/images/figure.png" in outcome.out
    assert outcome.out.rstrip().endswith("demo/molecules/result.png")
    images, drawn = tmp_path / "demo" / "images", tmp_path / "demo" / "molecules"
    assert {file.name for file in images.iterdir()} == {"figure.png", "result.json"}
    assert {file.suffix for file in drawn.iterdir()} >= {".sdf", ".csv", ".json", ".png"}
    for figure in (images / "figure.png", drawn / "result.png"):
        with Image.open(figure) as picture:
            assert picture.width > 500
    rows = json.loads((drawn / "result.json").read_text())["molecules"]
    assert len(rows) == 2 and all(row["target gap (meV)"] == "5500" for row in rows)
    scenes = json.loads((images / "result.json").read_text())["scenes"]
    assert len(scenes) == 4
    for title, scene in scenes.items():
        assert title in outcome.err  # said when it was done
        assert 0 <= scene["reached"] <= scene["samples"] == len(scene["evaluations"])
        assert max(scene["objective_calls"]) <= 4
    assert scenes["Twice the size"]["psnr"][0] > scenes["Twice the size"]["psnr_pseudo_inverse"][0]
    assert "not empty" in ctrlgen("demo", "--out", tmp_path / "demo").err


def test_without_rdkit_the_molecules_say_so(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(molecules.importlib.util, "find_spec", lambda name: None)
    assert molecules.run(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
