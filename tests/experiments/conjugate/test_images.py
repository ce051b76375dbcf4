"""The tables of the conjugate integrators on two images and a tiny network; the claims by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.experiments.conjugate.images import claims, main
from ctrlgen.experiments.conjugate.settings import (
    DECAYS,
    METHODS,
    TASKS,
    WEIGHTS,
    noisy_settings,
    settings,
)
from ctrlgen.rows.errors import UnknownName

SHAPE = (1, 28, 28)


pytestmark = pytest.mark.usefixtures("tiny")

OPTIONS = {"prior": "mnist", "images": 2, "tasks": "sr4", "budgets": "1,2", "few": 1}


def test_every_row_is_measured_once_and_drawn(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    results = json.loads((out / "results.json").read_text())
    rows = results["rows"]
    for name in METHODS:
        for budget in (1, 2):
            row, tuned = rows[f"sr4-{name}-{budget}"], rows[f"tune-sr4-{name}-{budget}"]
            assert row["evaluations"] == budget
            assert row["vjps"] == (0 if name == "ddrm" else budget)
            assert len(row["psnr"]) == 2 and len(tuned["scores"]) == 9
    for name in ("c-pigdm", "c-pigfm"):
        values = rows[f"sweep-{name}-1"]["psnr"]
        assert len(values) == len(DECAYS) and {len(line) for line in values} == {len(WEIGHTS)}
    forms = [rows[f"noisy-sr4-{form}-2"]["method"] for form in ("exact", "released")]
    assert "noisy='exact'" in forms[0] and "noisy='released'" in forms[1]
    jacobians = [rows[f"sr4-{name}-2"]["method"] for name in ("c-pigfm", "c-pigfm-released")]
    assert "jacobian='exact'" in jacobians[0] and "jacobian='released'" in jacobians[1]
    assert len(results["claims"]) == 3 * 3
    text = (out / "table.md").read_text()
    assert "### The conjugate form in 1 evaluations" in text and text.count("of 3.") == 3
    for name in ("quality.png", "sr4.png", "sweep.png"):
        assert (out / name).stat().st_size > 0
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    assert stamps == {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}


@pytest.mark.usefixtures("no_network")
def test_wrong_options_end_before_any_compute(tmp_path: Path) -> None:
    for option, value, message in (
        ("tasks", "sr3", "tasks: 'sr3' is not known"),
        ("budgets", "5,x", "budgets: expected integers as in 5,20, got '5,x'"),
        ("budgets", "0,5", "budgets: expected positive integers, got '0,5'"),
        ("images", 256, "images: expected at most 255"),
    ):
        with pytest.raises((UnknownName, ValueError), match=message):
            main(**{**OPTIONS, option: value}, out=tmp_path, cache=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_every_method_has_as_many_settings() -> None:
    for task, make in TASKS.items():
        for name in METHODS:
            choices = settings(name, task, make(SHAPE), 5)
            assert len(choices) == len(set(map(repr, choices.values()))) == 9
    for form in ("exact", "released"):
        assert len(set(map(repr, noisy_settings(form, 5).values()))) == 9
    # what is published for x4 in five steps is among them
    assert "w 15, τ 0.4" in settings("c-pigdm", "sr4", TASKS["sr4"](SHAPE), 5)
    assert "w 2, τ 0.4" in noisy_settings("exact", 5)


def made(psnr: float, ssim: float, frechet: float) -> dict[str, Any]:
    return {"psnr": [psnr] * 3, "ssim": [ssim] * 3, "frechet": {"value": frechet}}


def test_a_claim_holds_where_both_of_its_parts_do() -> None:
    rows = {
        "sr2-c-pigdm-5": made(25.0, 0.7, 3.0),
        "sr2-pigdm-5": made(20.0, 0.6, 4.0),
        "sr2-pigdm-20": made(25.0, 0.8, 2.0),
        "deblur-c-pigdm-5": made(25.0, 0.7, 3.0),  # without its rivals it is not asked
    }
    told = {claim["metric"]: claim for claim in claims(rows, [5, 10, 20])}
    assert len(told) == 3 and {c["task"] for c in told.values()} == {"sr2"}
    assert all(claim["better"] for claim in told.values())
    assert told["psnr"]["not_worse"] and told["psnr"]["holds"]  # as good is not worse
    assert not told["ssim"]["not_worse"] and not told["ssim"]["holds"]
    assert not told["frechet"]["holds"]
    assert told["psnr"]["against_5"]["median_difference"] == 5
    assert told["ssim"]["against_20"]["median_difference"] == pytest.approx(-0.1)
    rows["sr2-pigdm-5"] = made(26.0, 0.7, 3.0)
    told = {claim["metric"]: claim for claim in claims(rows, [5, 20])}
    assert not any(claim["better"] or claim["holds"] for claim in told.values())
    assert told["psnr"]["not_worse"]
