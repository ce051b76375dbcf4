"""The training benchmark takes steps apart whose parts add up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ctrlgen.plugins import load_file

FILE = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.mark.parametrize("name", ["mnist", "mnist-classifier", "qm9-heavy", "qm9-heavy-guide"])
def test_parts_of_a_step_add_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "training.json"
    words = ["training.py", name, "--batch", "4", "--seconds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    load_file(FILE, "benchmark").main()
    (row,) = json.loads(out.read_text())["rows"]
    assert row["recipe"] == name and row["batch"] == 4 and row["steps"] == 2
    assert row["samples_per_second"] > 0 and row["skipped"] == 0
    assert set(row["share"]) == {"data", "alignment", "network", "optimiser"}
    assert sum(row["share"].values()) == pytest.approx(1, abs=0.01)
    assert min(row["share"].values()) >= 0
    assert (row["share"]["alignment"] > 0) == (name == "qm9-heavy")
    assert name in capsys.readouterr().out


def test_an_unknown_recipe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training.py", "imagenet"])
    with pytest.raises(ValueError, match=r"recipe: expected one of mnist, .*, got 'imagenet'"):
        load_file(FILE, "benchmark").main()
