"""The matrix of methods from end to end, on two images and a tiny untrained network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctrlgen.experiments.methods.matrix import joined, main, verdicts
from ctrlgen.rows.errors import UnknownName

pytestmark = pytest.mark.usefixtures("tiny")

OPTIONS = {
    "images": 2,
    "tasks": "sr2,nonlinear-blur",
    "methods": "d-flow,NDTM,ddrm",
    "budgets": "8,50",
}


def test_every_row_is_measured_once_and_drawn(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    results = json.loads((out / "results.json").read_text())
    assert results["methods"] == ["d-flow", "ndtm", "ddrm"] and results["budgets"] == [8, 50]
    linear = "method: ddrm needs a linear operator, got NonlinearBlur"
    few = "evaluations: expected at least 36 for d-flow, got 8"
    assert results["refused"] == {
        "sr2-d-flow-8": few,
        "nonlinear-blur-d-flow-8": few,
        "nonlinear-blur-ddrm-8": linear,
        "nonlinear-blur-ddrm-50": linear,
    }
    kinds = ("sr2-plain", "nonlinear-blur-plain", "sr2-unguided", "nonlinear-blur-unguided")
    plain = set(kinds)
    rows = {name: row for name, row in results["rows"].items() if name not in plain}
    assert len(rows) == 8 and plain < set(results["rows"])
    for name, row in rows.items():
        assert len(row["psnr"]) == len(row["ssim"]) == len(row["measurement_psnr"]) == 2
        assert 0 < row["evaluations"] <= row["budget"] and name.endswith(f"-{row['budget']}")
        assert (row["vjps"] == 0) == ("ddrm" in name)
        assert row["frechet"]["embedder"] == "FD-MNISTClassifier" and row["diverged"] == 0
        assert sum(row["status"].values()) == 2
    ndtm = rows["sr2-ndtm-8"]
    assert (ndtm["evaluations"], ndtm["vjps"]) == (8, 4)  # two steps: N + 2 and N = 2
    text = (out / "table.md").read_text()
    assert text.count("\n| ") == 8 + 4 + 2  # and the baselines, and the heads
    for reason in (linear, few):
        assert reason in text
    assert (out / "quality.png").stat().st_size > 0
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}
    assert len(stamps) == 12
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    assert stamps == {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}


@pytest.mark.usefixtures("no_network")
def test_wrong_names_end_before_any_compute(tmp_path: Path) -> None:
    for option, value, message in (
        ("tasks", "sr3", "tasks: 'sr3' is not known"),
        ("methods", "magic", "method: 'magic' is not known"),
        ("budgets", "8,x", "budgets: expected integers as in 20,100, got '8,x'"),
    ):
        with pytest.raises((UnknownName, ValueError), match=message):
            main(**{**OPTIONS, option: value}, out=tmp_path, cache=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_verdicts_compare_image_by_image() -> None:
    rows = {
        "sr2-unguided": {"measurement_psnr": [10.0, 20.0]},
        "sr2-dps-8": {"measurement_psnr": [12.0, 19.0], "psnr": [20.0, 22.0], "diverged": 1},
        "sr2-ndtm-8": {"measurement_psnr": [11.0, 21.0], "psnr": [21.0, 30.0], "diverged": 0},
    }
    found = verdicts({"tasks": ["sr2"], "methods": ["dps", "ndtm"], "budgets": [8], "rows": rows})
    assert found["reduced"] == {"sr2-dps-8": 0.5, "sr2-ndtm-8": 1.0}
    assert found["not_reduced"] == ["sr2-dps-8"] and found["diverged"] == {"sr2-dps-8": 1}
    assert found["best_psnr"] == {"sr2": "sr2-ndtm-8"}


def test_rows_that_are_asked_for_again_take_the_places_of_the_old_ones(tmp_path: Path) -> None:
    out, options = tmp_path / "out", {**OPTIONS, "tasks": "sr2", "methods": "ddrm,ndtm"}
    main(**options, out=out, cache=tmp_path / "a")  # type: ignore[arg-type]
    first = json.loads((out / "results.json").read_text())
    first["rows"]["sr2-ddrm-8"]["psnr"] = [0.0, 0.0]
    (out / "results.json").write_text(json.dumps(first))
    changes = {"methods": "ddrm", "budgets": "8", "keep": True, "note": "DDRM is newer."}
    main(**{**options, **changes}, out=out, cache=tmp_path / "b")  # type: ignore[arg-type]
    second = json.loads((out / "results.json").read_text())
    assert second["methods"] == ["ndtm", "ddrm"] and second["budgets"] == [8, 50]
    assert second["rows"]["sr2-ndtm-50"] == first["rows"]["sr2-ndtm-50"]
    assert min(second["rows"]["sr2-ddrm-8"]["psnr"]) > 0
    assert "DDRM is newer." in (out / "table.md").read_text()
    with pytest.raises(ValueError, match="keep: the results that are there have images 3"):
        joined({**first, "images": 3}, second)
