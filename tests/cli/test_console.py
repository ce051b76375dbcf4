"""What the command line shows, and how results reach the disk."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ctrlgen.commands.console import SampleProgress, dumps, sparkline
from ctrlgen.optimizers import LBFGS, FunctionObjective
from ctrlgen.runs.outputs import check_output, new_folder, output_folder


def test_json_has_no_nan_and_no_tensors() -> None:
    value = {"a": torch.tensor([1.0, math.nan]), "b": math.inf, "c": Path("x/y"), 3: (1, None, "t")}
    assert json.loads(dumps(value)) == {
        "a": [1.0, None],
        "b": None,
        "c": "x/y",
        "3": [1, None, "t"],
    }


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0]) == "" and sparkline([math.nan, math.inf, 1.0]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline(list(range(1000)), 16)) <= 16 and sparkline(range(1000))[-1] == "█"


def run(progress: SampleProgress, rows: int) -> None:
    objective = FunctionObjective(
        lambda x, scale: scale * (x - 1).square().sum(1), scale=torch.arange(1.0, rows + 1)
    )
    LBFGS(max_iterations=20).minimize(objective, torch.zeros(rows, 2), observer=progress)


@pytest.mark.parametrize("rows", [3, 30])
def test_progress_shows_every_sample_on_a_terminal(rows: int) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, height=60)
    with SampleProgress("fitting", range(100, 100 + rows), every=0.0, console=screen) as progress:
        run(progress, rows)
    assert progress.looks > 1
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "fitting" in text and "100" in text and f"/{rows} samples done" in text
    assert "converged" in text
    assert ("and 18 more" in text) == (rows == 30)


def test_progress_looks_a_few_times_a_second_and_never_without_a_terminal() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with SampleProgress("fitting", range(3), every=60, console=screen) as progress:
        run(progress, 3)
    assert progress.looks == 1
    silent = Console(file=io.StringIO(), force_terminal=False)
    with SampleProgress("fitting", range(3), every=0, console=silent) as progress:
        run(progress, 3)
    assert progress.looks == 0 and silent.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    with output_folder(target) as place:
        (place / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    with pytest.raises(error), output_folder(target) as place:
        (place / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_results_until_the_new_are_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with output_folder(target) as place:
        (place / "result.json").write_text("old")
    with pytest.raises(OSError), output_folder(target) as place:
        (place / "result.json").write_text("half")
        raise OSError
    assert (target / "result.json").read_text() == "old"
    check_output(target, overwrite=True)
    with output_folder(target) as place:
        (place / "result.json").write_text("new")
    assert (target / "result.json").read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_new_folders_are_numbered(tmp_path: Path) -> None:
    assert new_folder("a", tmp_path) == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert new_folder("a", tmp_path) == tmp_path / "a-3"
    assert check_output(tmp_path / "a") == tmp_path / "a"  # empty: nothing to lose
