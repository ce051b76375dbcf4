"""NDTM's tables from end to end on two images and a tiny untrained network; its claims by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.experiments.ndtm.figures import table
from ctrlgen.experiments.ndtm.images import claims, main
from ctrlgen.experiments.ndtm.settings import (
    AXES,
    BLIND,
    NAMES,
    TASKS,
    WindowBlur,
    ablations,
    blind_settings,
    methods_for,
    settings,
)
from ctrlgen.methods.tuned import Case
from ctrlgen.methods.tuned import build as method
from ctrlgen.rows.errors import UnknownName

SHAPE = (1, 28, 28)


pytestmark = pytest.mark.usefixtures("tiny")

OPTIONS = {
    "prior": "mnist", "images": 2, "tasks": "nonlinear-deblur,blind-motion",
    "evaluations": 4, "blind": 6, "few": 1,
}  # fmt: skip


def test_every_row_is_measured_once_and_drawn(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    results = json.loads((out / "results.json").read_text())
    rows = results["rows"]
    assert methods_for("nonlinear-deblur") == list(NAMES)[:-2]
    for name in methods_for("nonlinear-deblur"):
        row, tuned = rows[f"nonlinear-deblur-{name}"], rows[f"tune-nonlinear-deblur-{name}"]
        assert len(row["psnr"]) == len(row["ssim"]) == len(row["measurement_psnr"]) == 2
        assert 0 < row["evaluations"] <= 4 and row["diverged"] == 0
        assert row["frechet"] == row["frechet"] | {"embedder": "FD-MNISTClassifier", "images": 2}
        assert len(tuned["scores"]) == 4 and tuned["best"] in tuned["scores"]
    assert rows["blind-motion-blind"]["evaluations"] == 6  # N + 2 in one step
    error = {name: rows[f"blind-motion-{name}"]["kernel_error"] for name in ("delta", "known")}
    assert error["known"] == [0, 0] and min(error["delta"]) > 0.5
    changed = {name for name in rows if name.startswith("ablation-nonlinear-deblur-")}
    values = sum(len(axis) for axis in AXES.values())
    assert len(changed) == values - len(AXES) + 1  # the same run without a change once
    assert len(results["claims"]) == 2 * 2 * 3
    assert all(isinstance(claim["holds"], bool) for claim in results["claims"])
    text = (out / "table.md").read_text()
    assert "NDTM better than RED-diff and DPS on non-linear deblurring, by all of them: **" in text
    for name in ("nonlinear-deblur.png", "blind-motion.png", "ablation.png"):
        assert (out / name).stat().st_size > 0
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}
    main(**OPTIONS, out=out, cache=cache)  # type: ignore[arg-type]
    assert stamps == {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}


@pytest.mark.usefixtures("no_network")
def test_wrong_names_end_before_any_compute(tmp_path: Path) -> None:
    for option, value, message in (
        ("tasks", "sr3", "tasks: 'sr3' is not known"),
        ("images", 256, "images: expected at most 255"),
    ):
        with pytest.raises((UnknownName, ValueError), match=message):
            main(**{**OPTIONS, option: value}, out=tmp_path, cache=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_every_method_has_as_many_settings() -> None:
    for task, about in TASKS.items():
        case = Case(about.operator(SHAPE, range(2)), 0.01, 0.01)
        for name in methods_for(task):
            choices = settings(name, case, 80)
            assert len(choices) == len(set(map(repr, choices.values()))) == 4
        linear = {"ddrm", "c-pigdm"} <= set(methods_for(task))
        assert linear == about.linear
        base = method("ndtm", case, evaluations=80)
        assert base in settings("ndtm", case, 80).values()
        unchanged = [axis for axis, _, made in ablations(case, 80) if made == base]
        assert unchanged == list(AXES)
    assert len(blind_settings(120)) == 4
    released = settings("ndtm-released", case, 80)
    assert all("ddim_released" in repr(made) for made in released.values())


def test_kernels_are_the_images_own_and_sum_to_one() -> None:
    for make in BLIND.values():
        kernels = make(range(3, 6))
        assert kernels.shape == (3, 9, 9)
        assert torch.allclose(kernels.sum((1, 2)), torch.ones(3))
    motion = BLIND["blind-motion"](range(3, 6))
    assert torch.equal(motion[1], BLIND["blind-motion"](range(4, 5))[0])
    point = torch.zeros(3, 1, 28, 28)
    point[:, :, 14, 14] = 1
    seen = WindowBlur(motion)(point)[:, 0, 10:19, 10:19]
    assert torch.allclose(seen, motion, atol=1e-6)


def made(psnr: float, frechet: float) -> dict[str, Any]:
    """A row of two images, as far as claims and tables read it."""
    return {
        "psnr": [psnr, psnr + 1], "ssim": [psnr / 100, psnr / 100],
        "frechet": {"embedder": "FD", "images": 2, "value": frechet},
        "measurement_psnr": [40.0, 40.0], "evaluations": 8.0, "vjps": 4.0,
        "seconds": 1.0, "diverged": 0,
    }  # fmt: skip


def test_claims_are_read_off_the_rows() -> None:
    task = "nonlinear-deblur"
    rows = {
        f"{task}-ndtm": made(25, 3.0),
        f"{task}-dps": made(24, 2.0),
        f"{task}-red-diff": made(23, 4.0),
        "sr4-ndtm": made(20, 1.0),
        "sr4-dps": made(21, 1.0),
        "blind-motion-blind": made(20, 1.0),
        "blind-motion-measurement": made(19, 2.0),
    }
    told = {(c["task"], c["theirs"], c["metric"]): c for c in claims(rows)}
    assert len(told) == 4 * 3  # what was not run is not asked
    assert told[task, "dps", "psnr"]["holds"] and told[task, "dps", "ssim"]["holds"]
    assert told[task, "dps", "psnr"]["median_difference"] == 1
    assert not told[task, "dps", "frechet"]["holds"] and told[task, "red-diff", "frechet"]["holds"]
    assert not told["sr4", "dps", "psnr"]["holds"]
    assert told["blind-motion", "measurement", "frechet"]["holds"]
    assert {c["task"] for c in told.values() if c["paper"]} == {task}


@pytest.mark.parametrize(("distance", "verdict"), [(2.0, "false"), (5.0, "true")])
def test_the_table_says_whether_the_ordering_holds(distance: float, verdict: str) -> None:
    task = "nonlinear-deblur"
    rows = {
        f"{task}-ndtm": made(25, 3.0),
        f"{task}-dps": made(24, distance),
        f"{task}-red-diff": made(23, 4.0),
        f"ablation-{task}-base": made(20, 1.0),
    }
    results = {
        "prior": "toy", "few": 1, "noise": 0.01, "tasks": [task], "rows": rows,
        "claims": claims(rows),
    }  # fmt: skip
    text = table(results)
    assert f"non-linear deblurring, by all of them: **{verdict}**." in text
    assert "| NDTM |  | 25.50 | 0.250 | 3.00 | 40.0 | 8 | 4 | 1.0 | 0 |" in text
