"""The laws' registry on a device; needs torch, numpy, scipy, safetensors, e3nn and pytest alone.

`CTRLGEN_TEST_DEVICE=cpu pytest tests/cuda` runs the same tests where there is no such device.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.laws.cases import base, select

PLACE = os.environ.get("CTRLGEN_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked `cuda`, unless another device is asked for."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and PLACE == "cuda" and "anywhere" not in item.keywords:
            item.add_marker(pytest.mark.cuda)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The selections of the laws."""
    select(metafunc)


@pytest.fixture
def place() -> torch.device:
    """Where these tests compute."""
    return torch.device(PLACE)


@pytest.fixture
def registry() -> ModuleType:
    """What the laws' cases are made of."""
    return base
