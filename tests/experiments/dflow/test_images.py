"""The image experiment from end to end on two images and two objective calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctrlgen.experiments.dflow import images_figures
from ctrlgen.experiments.dflow.images import LEVELS, main, reached
from ctrlgen.methods.result import Result


@pytest.mark.usefixtures("tiny")
def test_every_row_is_measured_once_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"prior": "mnist", "images": 2, "iterations": 1, "evaluations": 2, "few": 2}
    out, cache = tmp_path / "out", tmp_path / "cache"
    main(**options, out=out, cache=cache)  # type: ignore[arg-type]
    results = json.loads((out / "results.json").read_text())
    runs = [row for row in results["rows"].values() if "dflow" in row]
    assert len(runs) == 31
    for row in runs:
        assert len(row["status"]) == len(row["dflow"]["psnr"]) == 2  # nobody is left out
        assert row["summary"]["objective_calls"]["total"] <= 4
    for name in ("convergence.png", "reconstructions.png", "ablation.png", "table.md"):
        assert (out / name).stat().st_size > 0
    monkeypatch.setattr(images_figures, "figures", lambda *_: None)  # drawn before
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}
    main(**options, out=out, cache=cache)  # type: ignore[arg-type]
    assert stamps == {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}


def test_objective_calls_are_counted_to_the_first_crossing_of_a_level() -> None:
    one = torch.ones(2)
    result = Result(
        samples=one,
        controls=one,
        costs=one,
        status=one.long(),
        seeds=one.long(),
        iterations=one.long(),
        evaluations=one.long(),
        backward_passes=one.long(),
        objective_calls=one.long(),
        history={
            "cost": torch.tensor([[-20.0, -36.0], [-41.0, -30.0], [-38.0, -34.0]]),
            "objective_calls": torch.tensor([[1, 1], [4, 3], [6, 5]]),
        },
    )
    assert LEVELS == (35, 40, 45, 55)
    assert reached(result) == {
        "35": [4, 1],
        "40": [4, None],
        "45": [None, None],
        "55": [None, None],
    }
