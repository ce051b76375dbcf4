"""Folders of results become sections: run folders, saved results, and the domains' own forms."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ctrlgen.report.reading import read, read_all

Build = Callable[..., Path]


def pixels_of(uri: str) -> np.ndarray:
    """The picture of a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.array(picture)


def test_a_run_folder_of_images(images: Build, tmp_path: Path) -> None:
    (section,) = read(images(tmp_path / "run", rows=5, side=16))
    assert (section.title, section.panel, section.complete) == ("upsample", "images", True)
    assert section.facts["operator"] == "SuperResolution" and section.facts["method"] == "DFlow"
    assert [m.name for m in section.metrics] == ["psnr"] and section.metrics[0].better == "higher"
    assert [s.seed for s in section.samples] == [0, 1, 2, 3, 4]
    first, last = section.samples[0], section.samples[-1]
    assert first.metrics == {"psnr": 20.0} and first.flags == [] and first.seconds == 0.2
    assert first.course is not None and len(first.course[0]) == 10
    assert first.course[1][-1] == pytest.approx(0.1 / 6, rel=1e-5)
    assert last.flags == ["diverged"] and last.panel["picture"] is None
    assert pixels_of(first.panel["picture"]).shape == (16, 16, 3)
    assert set(section.shared) == {"truth", "measurement", "baseline"}
    assert pixels_of(section.shared["measurement"]).shape == (8, 8, 3)


def test_pictures_are_exact(images: Build, tmp_path: Path) -> None:
    from ctrlgen.runs.store import Store

    (section,) = read(images(tmp_path / "run"))
    (unit,) = Store.open(tmp_path / "run").rows()
    expected = ((unit.tensors["samples"][0] + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert torch.equal(torch.from_numpy(pixels_of(section.samples[0].panel["picture"])), expected)
    assert "note" not in section.shared


def test_a_budget_that_is_too_small_is_kept_and_said(images: Build, tmp_path: Path) -> None:
    (section,) = read(images(tmp_path / "run", rows=4, side=256), budget=60_000)
    sizes = [len(s.panel["picture"]) for s in section.samples if s.panel["picture"]]
    assert max(sizes) * 0.75 < 60_000 / 6 and "compressed" in section.shared["note"]


def test_runs_of_one_measurement_are_of_one_problem(images: Build, tmp_path: Path) -> None:
    a, b = images(tmp_path / "a"), images(tmp_path / "b", shift=1.0)
    c = images(tmp_path / "c", about={"operator": "GaussianBlur"})
    d = images(tmp_path / "d", side=20)
    problems = [section.problem for section in read_all([a, b, c, d])]
    assert problems[0] == problems[1] and len(set(problems)) == 3
    # a folder of folders stands for those in it
    assert [s.title for s in read(tmp_path)] == ["upsample"] * 4


def test_a_damaged_manifest_is_read_from_its_backup(images: Build, tmp_path: Path) -> None:
    folder = images(tmp_path / "run")
    (folder / "manifest.json").write_text("{")
    (section,) = read(folder)
    assert len(section.samples) == 6 and "backup" in section.warnings[0]


def test_a_run_of_a_domain_that_is_not_installed_has_its_numbers(
    images: Build, tmp_path: Path
) -> None:
    (section,) = read(images(tmp_path / "run", domain="poems"))
    assert section.panel == "poems" and section.samples[0].metrics == {"psnr": 20.0}
    assert section.samples[0].course is not None and section.samples[0].panel is None


def test_molecules_by_folder_or_by_any_of_their_files(molecules: Build, tmp_path: Path) -> None:
    file = molecules(tmp_path / "run" / "m.sdf", rows=5)
    for place in (file.parent, file, file.with_suffix(".json")):
        (section,) = read(place)
        assert section.panel == "molecules" and len(section.samples) == 5
    first, second, last = section.samples[0], section.samples[1], section.samples[-1]
    assert first.flags == [] and second.flags == ["not satisfied"] and "invalid" in last.flags
    assert last.panel is None and last.reason == "no molecule"
    drawn = first.panel
    symbols = drawn["symbols"].split()
    assert symbols == ["C", "C", "O"] + ["H"] * 6
    assert len(drawn["xyz"]) == 27 and len(drawn["bonds"]) == 3 * 8
    at = torch.tensor(drawn["xyz"]).view(-1, 3) / 100
    assert 1.4 < float((at[0] - at[1]).norm()) < 1.6  # a C-C bond in A
    assert drawn["svg"].startswith("data:image/svg+xml,%3Csvg") and "<" not in drawn["svg"]
    assert drawn["wanted"] == {"gap": (5500.0, 5500.0)}
    listed = [m.name for m in section.metrics if m.listed]
    assert listed[:2] == ["formula", "smiles"] and "error gap (meV)" in listed
    (tmp_path / "run" / "m.json").write_text(json.dumps({"molecules": []}))
    assert read(file)[0].samples == []
    (tmp_path / "run" / "m.json").write_text(json.dumps({"molecules": [{"name": "x"}]}))
    with pytest.raises(ValueError, match="expected 1 molecules"):
        read(file)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("5500", (5500.0, 5500.0)),
        ("5000..6000", (5000.0, 6000.0)),
        (">=5000", (5000.0, None)),
        ("<=-3.5", (None, -3.5)),
    ],
)
def test_targets_as_sheets_have_them(text: str, ends: tuple[float | None, float | None]) -> None:
    from ctrlgen.domains.molecules.panel import bounds

    assert bounds(text) == ends


def test_a_saved_result_is_numbers(result_of: Callable[..., Any], tmp_path: Path) -> None:
    result_of(torch.zeros(3, 2), [4, 5, 6], torch.tensor([1.0, 2.0, math.nan])).save(
        tmp_path / "first"
    )
    (section,) = read(tmp_path / "first.json")
    assert [s.seed for s in section.samples] == [4, 5, 6] and section.panel is None
    assert section.samples[-1].flags == ["diverged"]
    assert section.samples[0].course is not None


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dir: there is no"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match="expected results of ours"):
        read(tmp_path)
    (tmp_path / "result.json").write_text("{oh")
    with pytest.raises(ValueError, match=r"result\.json is no JSON"):
        read(tmp_path)
