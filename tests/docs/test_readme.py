"""The Python of the README runs as it stands there, block after block in one session."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"


def test_python_blocks_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    session: dict[str, Any] = {}
    for block in blocks:
        exec(block, session)
    assert (session["result"].costs < -35).all()  # 45 dB, or nearly
    assert session["bold"].samples.shape == (2, 1, 28, 28)
    assert (session["bold"].costs <= 1e-4).all()
