"""The Python of docs/runs.md runs, block after block, and does what the text says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.runs.runner import Begun, Finished, Round

DOCUMENT = Path(__file__).parents[2] / "docs" / "runs.md"


def test_the_guide_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 7
    session: dict[str, Any] = {"__name__": "guide"}
    before: dict[str, float] = {}
    for number, block in enumerate(blocks):
        file = tmp_path / f"guide_{number}.py"  # its sha256 is part of a function's fingerprint
        file.write_text(block)
        exec(compile(block, str(file), "exec"), session)
        if number == 0:
            before = {f: os.stat(f).st_mtime_ns for f in map(str, Path("runs/first").rglob("*.*"))}
            assert len(list(Path("runs/first/shards").glob("*.jsonl"))) == 4
        if number == 1:
            assert before == {f: os.stat(f).st_mtime_ns for f in before}  # nothing was written
    result = session["result"]
    for name in ("again", "half", "complete"):
        assert torch.equal(session[name].samples, result.samples), name
    assert torch.equal(session["samples"], result.samples)
    assert session["worst"]["cost"] == pytest.approx(float(result.costs.max()))
    assert len(session["table"]) == 8 and "brightness" in session["table"]
    kinds = [type(event) for event in session["seen"]]
    assert kinds.count(Begun) == 1 and kinds.count(Finished) == 4 and Round in kinds
    assert type(session["rebuild"](session["spec"])).__name__ == "DPS"


def test_the_commands_of_the_guide_are_commands() -> None:
    """Their words are those of the command line."""
    from typer.main import get_command

    from ctrlgen.commands import main
    from ctrlgen.domains.images.cli import app

    text = DOCUMENT.read_text()
    known = {"--array", "--cpus-per-task", "--time"}  # of SLURM
    for command in (get_command(app).commands["inpaint"], get_command(main.app).commands["resume"]):
        known |= {name for p in command.params for name in p.opts}
    assert set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text)) <= known | {"--trust", "--quiet"}
