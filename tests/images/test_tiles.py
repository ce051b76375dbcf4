"""Tiles: they cover the image, agree where they overlap, and leave no seam."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from ctrlgen.costs.problems import InverseProblem
from ctrlgen.domains.images.operators import Denoise, GaussianBlur, Inpainting, SuperResolution
from ctrlgen.domains.images.tiles import Canvas, Tiles, on_canvas, tile_operator, tiled
from ctrlgen.methods.tuned import Case, build
from ctrlgen.operators.base import Operator
from ctrlgen.optimizers import Event
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import partial_of
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status

MEAN, STD = 0.1, 0.4


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact flow of N(MEAN, STD²) for every pixel, whatever the size of the image."""
    t = t[:, None, None, None]
    variance = (t * STD) ** 2 + (1 - t) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def prior(*plane: int) -> Prior:
    return Prior(Flow(velocity, CondOT()), Gaussian((1, *plane)))


@pytest.mark.parametrize("image", [(12, 12), (13, 30), (24, 25), (47, 12)])
@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_tiles_cover_the_image_and_blend_to_it(image: tuple[int, int], overlap: int) -> None:
    tiles = Tiles(image, (12, 12), overlap)
    places = tiles.places
    assert places.amin(0).tolist() == [0, 0]
    assert (places.amax(0) + 12).tolist() == list(image)
    for axis in (0, 1):
        steps = places[:, axis].unique().diff()
        assert bool((steps <= 12 - overlap).all())
    x = normal(range(2), (3, *image), dtype=torch.float64)
    torch.testing.assert_close(tiles.blend(tiles.cut(x)), x)


def test_tiles_of_a_reduction_lie_on_its_grid() -> None:
    tiles = Tiles((40, 24), (12, 12), 5, unit=4)
    assert bool((tiles.places % 4 == 0).all())
    assert tiles.cut(torch.zeros(1, 1, 10, 6), scale=4).shape == (len(tiles.places), 1, 3, 3)


OPERATORS = {
    "inpaint": lambda shape: Inpainting.random(0.6, shape, [3]),
    "denoise": lambda shape: Denoise(),
}


@pytest.mark.parametrize("task", OPERATORS)
@pytest.mark.parametrize("method", ["ddrm", "c-pigfm", "ancestral-pigdm", "daps"])
def test_a_locally_exact_prior_leaves_no_seam(task: str, method: str) -> None:
    """Independent pixels: tiles give, pixel by pixel, what one run on the whole image gives."""
    plane = (20, 31)
    operator: Operator = OPERATORS[task]((1, *plane))
    if isinstance(operator, Inpainting):
        operator = Inpainting(operator.mask[0])
    y = operator(MEAN + STD * normal([9], (1, *plane)))
    tiles, noise = Tiles(plane, (12, 12), 4), 0.1
    made = build(method, Case(operator, noise, noise), evaluations=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = tiled(made, tiles, prior(12, 12), operator, y, noise, seeds=[5, 6])
    assert result.samples.shape == (2, 1, *plane) and result.seeds.tolist() == [5, 6]
    parts = made(
        on_canvas(prior(12, 12), tiles, 2),
        InverseProblem(
            tile_operator(operator, tiles, 2), tiles.cut(y).repeat(2, 1, 1, 1), noise
        ).cost(made),
        seeds=torch.tensor([5, 6]).repeat_interleave(len(tiles.places)),
    )
    # every tile is the cut of the blend: where they overlap they agree
    torch.testing.assert_close(tiles.cut(result.samples), parts.samples, atol=2e-5, rtol=0)
    whole = made(prior(*plane), InverseProblem(operator, y, noise).cost(made, 2), seeds=[5, 6])
    torch.testing.assert_close(result.samples, whole.samples, atol=2e-5, rtol=0)
    torch.testing.assert_close(result.costs, whole.costs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["d-flow", "dps", "red-diff"])
def test_methods_that_weigh_a_tile_as_a_whole_run_too(method: str) -> None:
    tiles, noise, plane = Tiles((12, 20), (12, 12), 4), 0.2, (12, 20)
    y = MEAN + STD * normal([9], (1, *plane))
    made = build(method, Case(Denoise(), noise, noise), evaluations=40)
    result = tiled(made, tiles, prior(12, 12), Denoise(), y, noise, seeds=[5])
    assert result.samples.shape == (1, 1, *plane) and bool(result.samples.isfinite().all())
    # nearer to the measurement than the prior's mean, smoothly so across the tiles
    off = (result.samples - y).square().mean(dim=(0, 1, 2))
    assert float(off.max()) < float((y - MEAN).square().mean())


@pytest.mark.parametrize("method", ["d-flow", "dps"])
def test_what_is_cut_off_is_whole_images(method: str) -> None:
    """Ctrl-C in the middle carries the images as they stand, one per sample, not tiles."""
    tiles, noise, plane = Tiles((12, 20), (12, 12), 4), 0.002, (12, 20)
    y = MEAN + STD * normal([9], (1, *plane))
    made = build(method, Case(Denoise(), noise, noise), evaluations=400)

    def observe(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        tiled(made, tiles, prior(12, 12), Denoise(), y, noise, seeds=[5, 6], observer=observe)
    partial = partial_of(stop.value)
    assert partial.samples.shape == (2, 1, *plane) and partial.seeds.tolist() == [5, 6]
    assert partial.status.tolist() == [Status.RUNNING] * 2
    assert partial.costs.shape == (2,) and bool(partial.samples.isfinite().all())


def test_tiles_begin_with_the_noise_of_the_whole() -> None:
    tiles = Tiles((16, 30), (12, 12), 6)
    places = tiles.places
    source = Canvas((3, 12, 12), (16, 30), places.repeat(2, 1))
    rows = torch.tensor([4, 1]).repeat_interleave(len(places))
    whole = Gaussian((3, 16, 30)).sample([4, 1])
    assert torch.equal(source.sample(rows), tiles.cut(whole))
    part = torch.tensor([7, 2])
    assert torch.equal(source.take(part).sample(rows[part]), tiles.cut(whole)[part])


def test_what_tiles_cannot_do() -> None:
    tiles = Tiles((24, 24), (12, 12), 4)
    with pytest.raises(ValueError, match="tile: GaussianBlur looks far beyond"):
        tile_operator(GaussianBlur(1.0), tiles, 1)
    assert isinstance(tile_operator(SuperResolution(2), tiles, 1), SuperResolution)
    for image, overlap, unit, match in (
        ((8, 24), 4, 1, "tile: expected an image of at least"),
        ((24, 24), 12, 1, "overlap: expected 0 to 11"),
        ((26, 24), 4, 4, "factor: 4 does not divide"),
    ):
        with pytest.raises(ValueError, match=match):
            Tiles(image, (12, 12), overlap, unit)
