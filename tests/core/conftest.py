"""Fixtures of the core's tests: the paths, the dtypes and the devices."""

from __future__ import annotations

import pytest
import torch

from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path

PATHS: dict[str, Path] = {
    "condot": CondOT(),
    "cosine": Cosine(),
    "vp": VP(),
    "vp-constant": VP(3.0, 3.0, epsilon=1e-3),
    "ddpm": DiscreteVP.linear(),
    "table": DiscreteVP([0.9, 0.7, 0.4, 0.35, 0.02]),
    "edm": EDM(),
    "edm-rho3": EDM(0.01, 20.0, rho=3.0),
}


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def path(request: pytest.FixtureRequest) -> Path:
    """Every path in turn."""
    return request.param


@pytest.fixture
def paths() -> dict[str, Path]:
    """All paths by name."""
    return PATHS


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The dtypes of the library."""
    return request.param
