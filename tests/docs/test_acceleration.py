"""The examples of docs/acceleration.md run as they are printed; nothing there compiles at once."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "acceleration.md"


def test_the_page_runs_as_printed() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    plain, seeds = scope["prior"], [1, 2, 3]
    bound = [scope[name].bind(counts=[5, 4, 3]) for name in ("prior", "graphed", "half")]
    ours = [one.velocity(one.start(seeds), 0.5) for one in bound]
    largest = ours[0].abs().max()
    assert (ours[1] - ours[0]).abs().max() < 1e-5 * largest
    assert 0 < (ours[2] - ours[0]).abs().max() < 0.1 * largest
    assert next(plain.flow.network.parameters()).dtype is torch.float32
