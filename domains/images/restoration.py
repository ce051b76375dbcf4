r"""A problem from image files: from what a person has to what a method solves.

The file is the measurement y = H(x) + σ n, or with `degrade` the true x, from which y is made. Of a
file in bytes the rounding is part of the noise, σ² = σ_user² + σ_rounding². A sample has its target
where its residual is the noise, at 20 log₁₀(2/σ) dB, or at the preset's level where that is lower.
`ctrlgen.methods.tuned` has the settings of every method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctrlgen.costs.problems import Comparison, InverseProblem
from ctrlgen.domains.images.files import ROUNDING, is_grey, read_image, read_mask, with_channels
from ctrlgen.domains.images.operators import Denoise, GaussianBlur, Inpainting, SuperResolution
from ctrlgen.domains.images.tiles import Tiles, on_canvas, tile_operator
from ctrlgen.operators.base import LinearOperator, measure
from ctrlgen.priors.prior import Card, Prior, available, load
from ctrlgen.rows.errors import concerning

__all__ = ["Problem", "choose", "operator_of", "pose", "prior_of_images"]


@dataclass(frozen=True, kw_only=True)
class Problem(InverseProblem):
    """One measurement to restore, shape (1, *measurement).

    Attributes:
        task: "inpaint", "upsample", "deblur" or "denoise".
        prior: chosen for the size and the colours.
        tiles: of an image larger than the prior.
    """

    operator: LinearOperator
    task: str
    prior: Prior
    tiles: Tiles | None = None


def operator_of(
    task: str, way: Mapping[str, Any], fit: bool = False
) -> Callable[[tuple[int, ...]], LinearOperator]:
    """H of a task by the options of its command, for images of a shape (C, H, W).

    Args:
        task: "inpaint", "upsample", "deblur" or "denoise".
        way: its own options; see `ctrlgen.domains.images.cli`.
        fit: whether a mask is fitted to the shape.

    Raises:
        ValueError: at once or for a shape, where they do not fit.
    """
    if task == "denoise":
        return lambda _: Denoise()
    if task == "deblur":
        blur = GaussianBlur(way["std"], boundary=way["boundary"])
        return lambda _: blur
    return lambda shape: (_reduction if task == "upsample" else _hole)(shape, way, fit)


def _reduction(shape: tuple[int, ...], way: Mapping[str, Any], fit: bool) -> LinearOperator:
    (height, width), factor = shape[-2:], way["factor"]
    if height % factor or width % factor:
        raise ValueError(
            f"factor: expected one that divides height and width, got {factor} for {height}x{width}"
        )
    return SuperResolution(factor)


def _hole(shape: tuple[int, ...], way: Mapping[str, Any], fit: bool) -> LinearOperator:
    if way["centre"] is not None:
        if way["centre"] >= min(shape[1:]):
            raise ValueError(
                f"centre: expected a side below {min(shape[1:])}, the image's, got {way['centre']}"
            )
        return Inpainting.centre(way["centre"], shape)
    if way["random"] is not None:  # one mask for all samples
        return Inpainting(Inpainting.random(way["random"], shape, [0]).mask[0])
    known = read_mask(way["mask"], (shape[1], shape[2]) if fit else None)
    if tuple(known.shape) != shape[1:]:
        raise ValueError(
            f"mask: expected {shape[1:]}, the size of the file, got {tuple(known.shape)}"
        )
    return Inpainting(known)


def choose(name: str | None, size: tuple[int, int], grey: bool) -> str:
    """The prior for images of this (height, width): the one that is named, or the best that fits.

    Raises:
        ValueError: if none supports the size and colours; says which do what.
    """
    cards = {n: c for n, c in available().items() if c.domain == "images"}
    if name is not None:
        return name
    fitting = [n for n, c in cards.items() if _fits(c, size, grey)]
    if fitting:  # as few channels as the image needs
        return min(fitting, key=lambda n: (cards[n].source["shape"][0], n))
    known = ", ".join(
        f"{n} {_words(c.source['shape'][1:], c.source['shape'][0] == 1)}" for n, c in cards.items()
    )
    raise ValueError(
        f"prior: none supports {_words(size, grey)} images; there are {known or 'none'} "
        "(--fit crops and resamples the file, --prior takes a card of your own)"
    )


def _fits(card: Card, size: tuple[int, int], grey: bool) -> bool:
    shape = card.source.get("shape", [])
    return tuple(shape[1:]) == size and (grey or shape[0] == 3)


def _words(size: Sequence[int], grey: bool) -> str:
    return f"{size[0]}x{size[1]} {'grey' if grey else 'colour'}"


def pose(
    task: str,
    file: Path,
    operator: Callable[[tuple[int, ...]], LinearOperator],
    *,
    scale: int = 1,
    prior: str | None = None,
    label: int | None = None,
    degrade: bool = False,
    noise: float = 0.0,
    truth: Path | None = None,
    fit: bool = False,
    device: str = "cpu",
    compare: Comparison = "measurement",
    tile: bool = False,
    overlap: int | None = None,
) -> Problem:
    """Read the files and set the problem up; everything that can be wrong with them shows here.

    Args:
        task: "inpaint", "upsample", "deblur" or "denoise".
        file: the measurement; the true image where `degrade` is set.
        operator: H for images of a shape (C, H, W).
        scale: size of the image over that of its measurement.
        prior: name or card; by default the one that fits.
        label: class of the image, for a prior that knows classes.
        degrade: make the measurement from the file.
        noise: σ_user in [−1, 1], of the measurement or added to it.
        truth: the true image.
        fit: crop and resample the file to what the prior takes; needs `prior`.
        device: of the network and the run.
        compare: what the cost compares, see `InverseProblem`.
        tile: restore an image larger than the prior by tiles; needs `prior`.
        overlap: pixels that neighbouring tiles share; a quarter of a tile by default.

    Raises:
        ValueError: for files, sizes, colours, noise or labels that do not fit together.
    """
    if not (math.isfinite(noise) and 0 <= noise < 2):
        raise ValueError(f"noise: expected a standard deviation in [0, 2), got {noise}")
    if degrade and truth is not None:
        raise ValueError("truth: with --degrade the file itself is the truth")
    factor, scale = scale, 1 if degrade else scale
    loaded, target, tiles = None, None, None
    if tile and (fit or prior is None):
        raise ValueError("tile: needs --prior, whose size a tile has, and no --fit")
    if overlap is not None and not tile:
        raise ValueError("overlap: it is that of tiles; add --tile")
    if fit:
        if prior is None:
            raise ValueError("fit: needs --prior, the prior whose size is wanted")
        loaded = prior_of_images(prior, device)
        height, width = _signal_shape(loaded)[-2:]
        target = (height // scale, width // scale)
    image = read_image(file, target)
    size = (image.shape[1] * scale, image.shape[2] * scale)
    if loaded is None:
        loaded = prior_of_images(choose(prior, size, is_grey(image)), device)
    shape = _signal_shape(loaded)
    channels, *plane = shape
    if tile:
        sides = (plane[0], plane[1])
        tiles = Tiles(size, sides, min(sides) // 4 if overlap is None else overlap, factor)
        shape, plane = (channels, *size), list(size)
    if list(size) != plane:
        raise ValueError(
            f"file: the prior takes images of {_words(plane, channels == 1)}, {file} gives "
            f"{_words(size, is_grey(image))} (--fit crops and resamples it, --tile works by parts)"
        )
    if label is not None:
        loaded.bind(label=torch.tensor([label]))  # raises where there is no such label
    image = with_channels(image, channels)[None].to(device)
    known = None
    if truth is not None:
        known = read_image(truth, size if fit else None, "truth")
        known = with_channels(known, channels, "truth")
        if tuple(known.shape) != shape:
            raise ValueError(
                f"truth: expected {shape}, the size of the result, got {tuple(known.shape)}"
            )
        known = known[None].to(device)
    made = operator(shape)
    if tiles is not None:
        tile_operator(made, tiles, 1)  # refuses one that is not local
        on_canvas(loaded, tiles, 1)
    if degrade:
        known, image = image, measure(made, image, noise, [0])
    elif task == "inpaint":
        image = made(image)
    return Problem(
        task=task,
        prior=loaded,
        operator=made,
        y=image,
        noise=noise,
        rounding=0.0 if degrade else ROUNDING,
        truth=known,
        compare=compare,
        tiles=tiles,
    )


def prior_of_images(name: str, device: str = "cpu") -> Prior:
    """The prior of a name or card, which must be one of images.

    Raises:
        ValueError: if its signals are something else.
    """
    with concerning("prior"):
        prior = load(name, device=device)
    domain = "images" if prior.card is None else prior.card.domain
    shape = prior.source.shape if domain != "images" else _signal_shape(prior)
    if domain != "images" or len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"prior: expected one of images, {name} is of {domain}, shape {shape}")
    return prior


def _signal_shape(prior: Prior) -> tuple[int, ...]:
    """Shape of one image, which a codec may make another than that of a state."""
    with torch.no_grad():
        return tuple(prior.codec.decode(torch.zeros(1, *prior.source.shape)).shape[1:])
