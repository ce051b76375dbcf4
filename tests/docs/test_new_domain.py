"""The Python of docs/new-domain.md runs, block after block, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "new-domain.md"


def test_the_domain_of_points_works() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 4
    lines = [line for block in blocks[:3] for line in block.splitlines() if line.strip()]
    assert len(lines) < 60
    session: dict[str, Any] = {"__name__": "points"}
    with torch.random.fork_rng():
        for block in blocks:
            exec(block, session)
    assert float(session["points"].norm(dim=1).mean()) == pytest.approx(2, abs=0.1)
    steered = session["steered"]
    assert (steered.status == 3).all() and (steered.costs <= 1e-6).all()
    assert float((steered.samples.norm(dim=1) - 2).abs().median()) < 0.25
    assert float(session["quick"].costs.median()) < 0.05
    y, restored = session["y"], session["restored"].samples
    assert float((restored[:, :1] - y).abs().median()) < 0.1
