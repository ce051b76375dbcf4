"""The code of docs/reports.md runs, and its page holds what it says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

TEXT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_page_of_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[0], {})
    text = Path("report.html").read_text()
    assert '"psnr":24.1' in text and "My run" in text


def test_the_panel_of_the_example_is_drawn_by_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctrlgen.report import Sample, Section
    from ctrlgen.report.pages import page

    space: dict[str, Any] = {}
    exec(BLOCKS[1], space)
    panel = space["PANEL"]
    section = Section("s", [Sample(0, 7, "finished"), Sample(1, 8, "finished")], panel="points")
    unit = SimpleNamespace(ids=range(2), tensors={"samples": torch.eye(2)})
    panel.show(section, {}, {}, [unit], 1e6)
    monkeypatch.setattr("ctrlgen.report.pages.panels", lambda: {"points": panel})
    text = page([section])
    assert '"panel":{"at":[0.0,1.0]}' in text and 'ctrlgen.panel("points"' in text
    assert len(BLOCKS) == 2
