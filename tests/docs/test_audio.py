"""The Python of docs/audio.md runs, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "audio.md"


def test_the_examples_work() -> None:
    pytest.importorskip("soundfile")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    session: dict[str, Any] = {}
    for block in blocks:
        exec(block, session)
    take = session["take"]
    assert take.rows[0]["known_psnr_dB"] > 20
    assert (take.recording.samples != session["clip"].samples).any()
