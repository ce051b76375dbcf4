"""Classes through a classifier: the judge, the verdicts by hand, and all of it on few samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ctrlgen
from ctrlgen.domains.images.networks import build
from ctrlgen.experiments.optimal_control import classes_judge
from ctrlgen.experiments.optimal_control.classes import BASELINES, FIRST, main, verdicts
from ctrlgen.experiments.optimal_control.classes_judge import LeNet, judge
from ctrlgen.experiments.optimal_control.classes_settings import METHODS
from ctrlgen.methods import Method
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import UnknownName

SHAPE = [1, 28, 28]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten kinds of stripes in the files of MNIST, and fewer of them to validate on."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, count in (("train", 300), ("t10k", 50)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        for i, label in enumerate(labels):
            images[i, 2 + 2 * label : 7 + 2 * label, 8:20] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    recipe = replace(classes_judge.RECIPE, batch=32, validation=20)
    monkeypatch.setattr(classes_judge, "RECIPE", recipe)
    return folder


# ------------------------------------------------------------------ the judge


def test_the_judge_is_trained_once_and_its_accuracy_recorded(digits: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    network, about = judge(cache, digits, steps=40)
    assert about["test_images"] == 50 and about["accuracy"] > 0.5  # chance is a tenth
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    stamp = (cache / "judge.safetensors").stat().st_mtime_ns
    again, known = judge(cache, Path("nowhere"), steps=40)  # needs no data any more
    assert known == about
    x = torch.randn(3, *SHAPE)
    assert torch.equal(network(x), again(x)) and network(x).shape == (3, 10)
    assert stamp == (cache / "judge.safetensors").stat().st_mtime_ns
    assert judge(cache, digits, steps=1)[1]["steps"] == 1  # another training is another judge


def test_the_judge_is_of_another_make_than_the_guide() -> None:
    from ctrlgen.domains.images.classifier import Classifier

    ours, guide = ({p.shape for p in network.parameters()} for network in (LeNet(), Classifier()))
    assert not {s for s in ours & guide if len(s) > 1} - {torch.Size([10, 128])}
    assert classes_judge.SEED != 0


# ------------------------------------------------------------------ verdicts


def row(guide: str, judged: str) -> dict[str, Any]:
    """A row from answers as in "110": right, right, wrong."""
    return {"guide": [c == "1" for c in guide], "judge": [c == "1" for c in judged]}


def test_verdicts_follow_the_judge() -> None:
    rows = {name: row("1" * 10, "1" * 8 + "00") for name in BASELINES}
    rows |= {
        "fooler": row("1" * 10, "1" * 5 + "0" * 5),
        "honest": row("1" * 9 + "0", "1" * 8 + "00"),
        "missed": row("0" * 10, "1" * 6 + "0" * 4),
    }
    assert verdicts(rows) == {
        "fooler": {"works": False, "fooled": 0.5, "digits": False, "rivals_label": False},
        "honest": {"works": True, "fooled": 0.1, "digits": True, "rivals_label": True},
        "missed": {"works": True, "fooled": 0.0, "digits": True, "rivals_label": False},
    }


# ------------------------------------------------------------------ all of it


def brief(method: Method) -> Method:
    """The same in fewer steps or iterations."""
    changes: dict[str, Any] = {}
    if hasattr(method, "grid"):
        grid = method.grid
        changes["grid"] = replace(grid, steps=min(grid.steps, 3))
    optimizer = getattr(method, "optimizer", None)
    if hasattr(optimizer, "max_evaluations"):
        changes["optimizer"] = replace(optimizer, max_evaluations=2)
    for name, most in (("iterations", 2), ("langevin_steps", 2)):
        if hasattr(method, name):
            changes[name] = min(getattr(method, name), most)
    return replace(method, **changes)  # type: ignore[type-var]


def test_every_row_is_measured_once_and_drawn(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ctrlgen.load("mnist").card
    network = build("unet", shape=SHAPE, classes=10, mean=-0.7, std=0.6, widths=[4])
    network.eval().requires_grad_(False)
    prior = Prior(Flow(network, CondOT()), Gaussian(SHAPE), card=card)
    monkeypatch.setattr(ctrlgen, "load", lambda name, device: prior)
    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, brief(method))
    options: dict[str, Any] = {
        "images": 3, "judge_steps": 2, "data": digits,
        "out": tmp_path / "out", "cache": tmp_path / "cache",
    }  # fmt: skip
    main(**options)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["rows"]) == [*BASELINES, *METHODS]
    assert results["wanted"] == [0, 1, 2] and set(results["verdicts"]) == set(METHODS)
    assert results["judge"]["test_images"] == 50 and 0 <= results["judge"]["accuracy"] <= 1
    for name, one in results["rows"].items():
        assert len(one["guide"]) == len(one["judge"]) == len(one["cost"]) == 3
        assert one["frechet"] | {"value": 0} == {
            "embedder": "FD-MNISTClassifier", "images": 3, "reference": 253, "value": 0
        }  # fmt: skip
        assert one["diverged"] == 0
        if name in METHODS:
            assert one["evaluations"] > 0 and sum(one["status"].values()) == 3
    assert results["rows"]["real"]["guide"] == [True] * 3
    assert results["rows"]["dps"]["vjps"] == 3 and results["rows"]["mpgd"]["vjps"] == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("\n| ") == len(results["rows"]) and "test images right" in text
    for name in ("samples.png", "agreement.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*.*")}
    main(**{**options, "methods": "d-flow,dps"})
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*.*")}


def test_samples_have_seeds_of_their_own() -> None:
    assert FIRST > 200  # as many as there may be; lower ones chose the settings


def test_wrong_names_end_before_any_compute(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="method: 'magic' is not known"):
        main(methods="d-flow,magic", out=tmp_path, cache=tmp_path)
    assert not list(tmp_path.iterdir())
