"""Fixtures of all tests: one thread, the same numbers in every run, small oracles to work on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator
from ctrlgen.operators.matrix import Matrix
from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.testing.oracles import Mixture

try:
    from hypothesis import settings
except ModuleNotFoundError:  # a machine with a card may have torch and pytest alone
    pass
else:
    settings.register_profile(
        "ctrlgen", derandomize=True, deadline=None, database=None, max_examples=20
    )
    settings.load_profile("ctrlgen")


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """One thread, and a global random state that no test inherits from another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected lives as long as the session: the garbage collector need not read it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` run where there is such a device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def matrix_operator() -> Callable[[Tensor], LinearOperator]:
    """Builds the linear operator of a matrix."""
    return Matrix


def random_mixture(
    components: int, dimensions: int, seed: int = 0, shape: tuple[int, ...] | None = None
) -> Mixture:
    """A well-conditioned mixture in float64, eigenvalues of its covariances from 0.1 to 2."""
    generator = torch.Generator().manual_seed(seed)
    draws = {"generator": generator, "dtype": torch.float64}
    means = torch.randn(components, dimensions, **draws)
    bases, _ = torch.linalg.qr(torch.randn(components, dimensions, dimensions, **draws))
    values = 0.1 + 1.9 * torch.rand(components, 1, dimensions, **draws)
    weights = 0.5 + torch.rand(components, **draws)
    return Mixture(means, (bases * values) @ bases.mT, weights, shape)


@pytest.fixture
def mixture() -> Callable[..., Mixture]:
    """Builds `mixture(components, dimensions, seed=0, shape=None)`."""
    return random_mixture


@pytest.fixture
def prior_of() -> Callable[..., Prior]:
    """Builds the prior of a mixture: `prior_of(mixture, path=None)`."""

    def build(mixture: Mixture, path: Path | None = None) -> Prior:
        return Prior(mixture.flow(path), Gaussian(mixture.shape))

    return build


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
