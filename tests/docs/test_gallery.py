"""The gallery's Python draws its pictures: here on small networks and for the fewest steps."""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import Any

import pytest

import ctrlgen
from ctrlgen.domains.audio import inpainting
from ctrlgen.domains.audio.restoration import Settings as Sound
from ctrlgen.domains.images.networks import build
from ctrlgen.domains.molecules import design
from ctrlgen.domains.molecules.settings import Settings as Molecule
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian

HERE = Path(__file__).parents[2] / "docs"
PAGE = runpy.run_path(str(HERE / "gallery" / "__main__.py"), run_name="gallery")
BLOCKS: dict[str, str] = PAGE["blocks"]()


def small(name: str, load: Any = ctrlgen.load) -> Prior:
    """The card of an embedded prior of images, over a network of a few weights."""
    prior: Prior = load(name)
    if prior.card is None or prior.card.domain != "images":
        return prior
    network = build(**{**prior.card.config, "widths": [4]})
    return Prior(Flow(network, CondOT()), Gaussian(prior.source.shape), card=prior.card)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_draws_its_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE / "gallery")
    monkeypatch.setattr(ctrlgen, "load", small)
    few = functools.partial(design.design, settings=Molecule(steps=5, evaluations=1, restarts=0))
    monkeypatch.setattr(design, "design", few)
    fill = functools.partial(inpainting.inpaint, settings=Sound("paper", iterations=0))
    monkeypatch.setattr(inpainting, "inpaint", fill)
    exec(compile(BLOCKS[name], name, "exec"), {"__name__": "__main__"})
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_every_picture_is_there_and_the_front_is_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = HERE / "images" / "gallery"
    assert {file.stem for file in place.iterdir()} == {*BLOCKS, "front"}
    monkeypatch.chdir(place)
    PAGE["front"](str(tmp_path / "front.png"))
    assert (tmp_path / "front.png").stat().st_size > 10_000
