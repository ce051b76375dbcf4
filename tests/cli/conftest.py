"""Tiny image priors kept as cards, image files, and the command line as a person calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ctrlgen.commands.console import screen, stdout
from ctrlgen.commands.main import main
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.networks import build
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal


class Outcome(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def ctrlgen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`ctrlgen("image", "sample", ...)`, in this process, on a terminal of 100 columns."""
    for console in (stdout, screen):
        monkeypatch.setattr(console, "width", 100)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        code = stop.value.code
        captured = capsys.readouterr()
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run


def save_prior(folder: Path, channels: int, side: int = 12, classes: int = 3) -> Path:
    """An untrained network is the exact flow of N(mean, std²) for every pixel."""
    shape = [channels, side, side]
    config = {
        "network": "unet",
        "shape": shape,
        "classes": classes,
        "mean": 0.1,
        "std": 0.4,
        "widths": [4],
    }
    torch.manual_seed(0)
    prior = Prior(Flow(build(**config), CondOT()), Gaussian(shape))
    return prior.save(
        folder,
        f"tiny{channels}",
        factory="ctrlgen.domains.images.networks:build",
        config=config,
        domain="images",
        conditions={"label": {"classes": classes, "null": classes}},
        licence="MIT",
    )


@pytest.fixture(scope="session")
def grey_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of 12 x 12 grey images."""
    return save_prior(tmp_path_factory.mktemp("grey"), 1)


@pytest.fixture(scope="session")
def colour_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of 12 x 12 colour images."""
    return save_prior(tmp_path_factory.mktemp("colour"), 3)


@pytest.fixture
def picture() -> Callable[..., Tensor]:
    """`picture(channels)`: an image (channels, side, side) that the tiny priors find likely."""

    def make(channels: int, side: int = 12, seed: int = 0) -> Tensor:
        draw = normal([seed], (channels, side, side))[0]
        return (0.1 + 0.4 * draw).clamp(-1, 1)

    return make


@pytest.fixture
def grey_file(tmp_path: Path, picture: Callable[..., Tensor]) -> Path:
    """A grey PNG of 12 x 12."""
    write_image(tmp_path / "grey.png", picture(1))
    return tmp_path / "grey.png"


@pytest.fixture
def colour_file(tmp_path: Path, picture: Callable[..., Tensor]) -> Path:
    """A colour PNG of 12 x 12."""
    write_image(tmp_path / "colour.png", picture(3))
    return tmp_path / "colour.png"
