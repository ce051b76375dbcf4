"""The demonstration, cut to a few evaluations of a few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from ctrlgen.domains.audio import demo as audio
from ctrlgen.domains.images import demo
from ctrlgen.domains.molecules import demo as molecules
from ctrlgen.domains.molecules import generation
from ctrlgen.report.reading import read
from ctrlgen.runs.interrupts import Terminated


def test_the_demo_ends_with_a_table_a_figure_and_the_numbers(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_COUNT", 2)
    monkeypatch.setattr(demo, "_BUDGET", 4)
    monkeypatch.setattr(demo, "_STEER_SEEDS", (3,))
    quick = replace(molecules._OPTIONS, number=2, steps=2, evaluations=2, restarts=0, draws=1)
    monkeypatch.setattr(molecules, "_OPTIONS", quick)
    blend = replace(audio._OPTIONS, preset="paper", iterations=0)
    monkeypatch.setattr(audio, "_OPTIONS", blend)
    outcome = ctrlgen("demo", "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert "demo/images/figure.png" in outcome.out
    assert "demo/molecules/molecules.sdf" in outcome.out
    report = tmp_path / "demo" / "report.html"  # one of all domains
    assert outcome.out.rstrip().endswith(str(report))
    sections = [s for folder in ("images", "molecules") for s in read(report.parent / folder)]
    assert len(sections) == 5 and all(s.title in report.read_text() for s in sections)
    assert all(sample.panel for section in sections for sample in section.samples)
    images, drawn = tmp_path / "demo" / "images", tmp_path / "demo" / "molecules"
    assert {file.name for file in images.iterdir()} == {
        "figure.png", "result.json", "scenes.safetensors",
    }  # fmt: skip
    assert {file.suffix for file in drawn.iterdir()} >= {".sdf", ".csv", ".json", ".png"}
    for figure in (images / "figure.png", drawn / "molecules.png"):
        with Image.open(figure) as picture:
            assert picture.width > 500
    rows = json.loads((drawn / "molecules.json").read_text())["molecules"]
    sounds = tmp_path / "demo" / "audio"
    (gap,), (band,) = (read(sounds / task) for task in ("inpaint", "upsample"))
    assert gap.title == "inpaint of gap.flac" and band.title == "upsample of low.flac"
    for section in (gap, band):
        assert section.title in report.read_text() and section.samples[0].panel
    assert len(rows) == 2 and all(row["target gap (meV)"] == "5500" for row in rows)
    scenes = json.loads((images / "result.json").read_text())["scenes"]
    assert len(scenes) == 4
    for title, scene in scenes.items():
        assert title in outcome.err  # said when it was done
        assert 0 <= scene["reached"] <= scene["samples"] == len(scene["evaluations"])
        assert max(scene["objective_calls"]) <= 4
    assert scenes["Twice the size"]["psnr"][0] > scenes["Twice the size"]["psnr_pseudo_inverse"][0]
    assert "not empty" in ctrlgen("demo", "--out", tmp_path / "demo").err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_the_image_demo_has_finished_is_kept_and_said(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stop: type[KeyboardInterrupt], code: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(demo, "_COUNT", 2)
    monkeypatch.setattr(demo, "_BUDGET", 2)
    solve, scenes = demo._restore, []

    def interrupted(*words: Any, **options: Any) -> Any:
        if scenes:
            raise stop
        scenes.append(solve(*words, **options))
        return scenes[0]

    monkeypatch.setattr(demo, "_restore", interrupted)
    monkeypatch.setattr(audio, "run", lambda *_, **__: None)
    monkeypatch.setattr(molecules, "run", lambda *_, **__: pytest.fail("the demo went on"))
    out = tmp_path / "demo"
    outcome = ctrlgen("demo", "--out", out)
    assert outcome.code == code
    assert f"interrupted; 1 of 4 problems are in {out / 'images' / 'result.json'}" in outcome.err
    left = {file.name for file in (out / "images").iterdir()}
    assert left == {"result.json", "scenes.safetensors"} and not (out / "report.html").exists()
    content = json.loads((out / "images" / "result.json").read_text())
    assert not content["complete"] and list(content["scenes"]) == ["Twice the size"]
    # with nothing finished nothing is left
    monkeypatch.setattr(demo, "_restore", lambda *_, **__: interrupted())
    assert ctrlgen("demo", "--out", tmp_path / "none").code == code
    assert not (tmp_path / "none").exists()


def test_what_the_molecular_demo_has_finished_is_kept_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(molecules._OPTIONS, number=2, steps=2, evaluations=1, draws=1, tolerance=1e-6)
    monkeypatch.setattr(molecules, "_OPTIONS", options)
    steer, calls = generation.steer, []

    def interrupted(*words: Any, **options: Any) -> Any:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return steer(*words, **options)

    monkeypatch.setattr(generation, "steer", interrupted)
    with pytest.raises(typer.Exit) as stop:
        molecules.run(tmp_path / "demo")
    assert stop.value.exit_code == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "interrupted; 2 of 2 molecules are in" in said
    content = json.loads((tmp_path / "demo" / "molecules.json").read_text())
    assert not content["complete"] and len(content["molecules"]) == 2


def test_without_rdkit_the_molecules_say_so(
    ctrlgen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(molecules.importlib.util, "find_spec", lambda name: None)
    assert molecules.run(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
