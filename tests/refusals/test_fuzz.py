"""A few hundred runs of the fuzzer on every reader, where atheris is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris is not installed (pip install atheris)")
pytest.importorskip("rdkit")


@pytest.mark.parametrize("target", ["card", "sdf", "xyz", "image", "mask"])
def test_readers_raise_nothing_but_our_errors(target: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, str(script), target, "-runs=300", "-seed=1"],
        capture_output=True, text=True, timeout=500, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr or "Done 300" in done.stderr, done.stderr[-1000:]
