"""The session on an accelerator: rehearsed where nothing is installed; its parts by themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "accelerator.py")]
PARTS = ["checks", "overhead", "speed", "forms", "throughput", "training"]

# What a plain PyTorch image lacks cannot be imported, and ctrlgen is not installed.
BARE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import MetadataPathFinder

lacking = {"rdkit", "PIL", "matplotlib", "hypothesis", "posebusters", "tblite", "soundfile",
           "torchmetrics", "diffusers", "azula", "deepinv", "torchvision", "ase"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in lacking else super().find_spec(name, path, target)

def own(finder):
    return any(word in str(getattr(finder, "__module__", "")) for word in ("ctrlgen", "editable"))

finders = [finder for finder in sys.meta_path if not own(finder)]
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in finders]
sys.path[:] = [entry for entry in sys.path if "ctrlgen" not in entry]
plain, names = MetadataPathFinder.find_distributions, ("ctrlgen-", "ctrlgen.")
MetadataPathFinder.find_distributions = staticmethod(lambda *arguments: [
    found for found in plain(*arguments) if not found._path.name.startswith(names)
])
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a process without optional packages and without an installed ctrlgen."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BARE)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def test_a_bare_machine_lacks_what_it_should(bare: dict[str, str], tmp_path: Path) -> None:
    """The other tests prove something: without the bootstrap nothing is there."""
    for code in ("import ctrlgen.costs", "import rdkit", "import PIL"):
        run = subprocess.run(
            [sys.executable, "-c", code], env=bare, cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode and "ModuleNotFoundError" in run.stderr, code


def test_a_checkout_is_as_if_it_were_installed(bare: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from benchmarks.uninstalled import install
assert install() and not install()
import importlib.metadata, ctrlgen, ctrlgen.costs, ctrlgen.experiments
from ctrlgen import plugins
print(importlib.metadata.version("ctrlgen") == ctrlgen.__version__)
print(*sorted(plugins.domains()), *sorted(name for name in plugins.cards() if name[0] == "c"))
print(ctrlgen.load("qm9").card.name)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env=bare, cwd=tmp_path, capture_output=True, text=True
    )
    lines = run.stdout.split("\n")
    assert lines[0] == "True", run.stderr
    assert {"images", "molecules", "cifar10"} <= set(lines[1].split())
    assert lines[2] == "qm9"


def test_the_rehearsal_runs_every_part_on_a_bare_machine(
    bare: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = subprocess.run(
        [*COMMAND, "--rehearse", "--out", str(out), "--minutes", "4"],
        env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    states = summary["parts"]
    assert run.returncode == 0, run.stdout + run.stderr
    assert summary["rehearsal"] and list(states) == PARTS
    assert {state["state"] for state in states.values()} == {"done"}
    held = {name: json.loads((out / f"{name}.json").read_text()) for name in PARTS}
    assert (held["checks"]["tests"], held["checks"]["passed"]) == (1, 1)
    assert states["overhead"]["errors"] == 0 and held["overhead"]["rows"]["2"]
    for row in held["overhead"]["rows"]["2"].values():
        assert row["ratio"] > 0.5 and row["evaluations"] >= 1
    for kind in ("images", "molecules"):
        assert held["speed"][kind]["batch"]["samples_per_second"] > 0
        assert held["speed"][kind]["one by one"]["objective_calls"] >= 1
    assert [row["gradient"] for row in held["speed"]["memory"]] == ["direct", "checkpoint"]
    forms = held["forms"]["rows"]
    assert forms["plain"]["images 2"]["difference"] < 1e-6
    assert 0 < forms["half"]["images 2"]["difference"] < 0.05
    assert forms["graphed"]["molecules 3"]["difference"] < 1e-4
    trained = {"qm9", "cifar10-large", "qm9-heavy", "freedoom-music", "moses-heavy"}
    assert {"cifar10", *trained} == set(held["throughput"]["rows"])
    trained |= {"moses-heavy-guide", "encodec-16k"}
    assert trained == set(held["training"]["rows"])
    for name, row in held["training"]["rows"].items():
        assert row["steps"] >= 1, row
        folder = out / "training" / name
        names = {"checkpoint.safetensors", f"{name}.safetensors", f"{name}.json"}
        assert names <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rehearse", "--only", "speed,flight"], "--only: expected some of checks.*got flight"),
        (["--rehearse", "--networks", "qm9,qm8"], "--networks: expected some of .*got qm8"),
        (["--rehearse", "--minutes", "0"], "--minutes: expected a positive number, got 0"),
        (["--rehearse", "--data", "qm9"], "--data: expected one of .*=FILE, got 'qm9'"),
        (["--rehearse", "--data", "qm9=none"], "--data: expected a packed file.*none"),
        (["--out", "here", "--minutes", "1"], r"sees none; --rehearse does the same on a CPU"),
    ],
)
def test_bad_options_are_named_before_any_compute(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    accelerator = _accelerator(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerator.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error), error


def _accelerator(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.accelerator as accelerator

    return accelerator


# ------------------------------------------------------------------ parts and their time


def test_a_part_that_raises_is_recorded_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accelerator(monkeypatch)
    from benchmarks.accelerated.session import Clock, Part, Record, conduct

    allowed: list[float] = []

    def fails(record: Record, clock: Clock) -> None:
        record.put(found=1)
        raise KeyError("no such card")

    def cut(record: Record, clock: Clock) -> None:
        allowed.append(clock.left)
        time.sleep(0.2)
        record.put(found=2)

    parts = [
        Part("first", 0.1, fails),
        Part("second", 0.25, cut, lambda content: {"found": content["found"]}),
        Part("third", 0.0, cut),
    ]
    summary = conduct(parts, tmp_path, 4.0, {"card": "none"})
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written == summary and written["card"] == "none"
    assert written["parts"]["first"]["state"] == "failed"
    assert "no such card" in written["parts"]["first"]["error"]
    first = json.loads((tmp_path / "first.json").read_text())
    assert first["found"] == 1 and "in fails" in first["traceback"]
    assert written["parts"]["second"]["found"] == 2
    assert 0.9 < allowed[0] <= 1.0  # its share of four seconds
    assert 2.5 < allowed[1] < 3.9  # the last takes what is left


def test_what_is_known_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _accelerator(monkeypatch)
    from benchmarks.accelerated.session import Record

    record = Record(tmp_path / "deep" / "part.json")
    record.put(rows=[1])
    record.put(more=2)
    assert json.loads((tmp_path / "deep" / "part.json").read_text()) == {"rows": [1], "more": 2}
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["part.json"]


def test_networks_whose_data_are_there_share_all_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accelerator(monkeypatch)
    from benchmarks.accelerated import training
    from benchmarks.accelerated.session import Clock, Record
    from benchmarks.accelerated.workbench import REAL, Workbench

    seconds = dict[str, float]()

    def trained(bench: Workbench, name: str, allowed: float, folder: Path) -> dict[str, Any]:
        seconds[name] = allowed
        return {"steps": 1}

    monkeypatch.setattr(training, "_trained", trained)
    bench = Workbench(torch.device("cpu"), REAL, False, {"moses": tmp_path})
    record = Record(tmp_path / "training.json")
    training.train(bench, record, Clock(100.0))
    assert seconds["moses-heavy"] == pytest.approx(0.8 * 93, abs=1)
    assert seconds["moses-heavy-guide"] == pytest.approx(93, abs=1)  # but for what the first took
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert rows["qm9"] == {"error": "--data: expected qm9=FILE"} and set(rows) == {*training.SHARES}


def test_the_report_of_the_tests_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accelerator(monkeypatch)
    from benchmarks.accelerated.checks import read_junit

    file = tmp_path / "junit.xml"
    file.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x" time="0.5"/>'
        '<testcase classname="a" name="y" time="2"><failure message="off by 1">text</failure>'
        '</testcase><testcase classname="a" name="z" time="0"><skipped message="no card"/>'
        "</testcase></testsuite></testsuites>"
    )
    counts = read_junit(file)
    assert [counts[key] for key in ("tests", "passed", "failed", "skipped")] == [3, 1, 1, 1]
    assert "off by 1" in counts["failures"]["a::y"] and counts["reasons"] == ["no card"]
    assert next(iter(counts["slowest"])) == "a::y"
