"""Five states and times at which a network that was taken in is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctrlgen.rows.seeds import normal


@pytest.fixture
def x() -> Tensor:
    return normal(range(5), (4,), dtype=torch.float64)


@pytest.fixture
def t() -> Tensor:
    return torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
