"""The Python of docs/molecules.md runs, block after block, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ctrlgen

DOCUMENT = Path(__file__).parents[2] / "docs" / "molecules.md"


def test_the_examples_work() -> None:
    pytest.importorskip("rdkit")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 4
    session: dict[str, Any] = {}
    for block in blocks:
        exec(block, session)
    designed = session["designed"]
    assert len(designed.mols) == len(designed.rows) == 4
    assert {"seed", "smiles"} <= set(designed.rows[0])
    assert session["signals"].shape[0] == 2 and not session["signals"].isnan().any()
    assert session["cost"](ctrlgen.load("moses-heavy").bind(counts=[20]).sample([0])).shape == (1,)
    result = session["result"]
    assert (result.history["cost"][-1] < result.history["cost"][0]).all()
