"""The tests of this folder need nothing that a plain PyTorch image lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = (
    "PIL", "matplotlib", "rdkit", "diffusers", "transformers", "huggingface_hub", "hypothesis",
    "azula", "deepinv", "posebusters", "tblite", "torchmetrics", "soundfile", "ase",
)  # fmt: skip

SCRIPT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import pytest
sys.exit(pytest.main([
    {folder!r}, "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio",
    "-k", "draws or solve or projection or (operator and (blur or jpeg or inpaint)) "
    "and not plain_packages",
]))
"""


@pytest.mark.anywhere
def test_they_run_where_optional_packages_are_missing() -> None:
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(blocked=set(BLOCKED), folder=folder)],
        env={**os.environ, "CTRLGEN_TEST_DEVICE": "cpu", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(folder).parent.parent,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
