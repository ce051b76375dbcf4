r"""Images larger than a prior: tiles with overlap, all in one batch, blended by cosines.

Tile k of an image covers the window w_k. For an operator that is local, as masks, noise and
reductions are, the measurement of a window is the window of the measurement, so that each tile is a
problem of its own:

    x = Σ_k a_k ⊙ x_k / Σ_k a_k,        a_k(i, j) = sin²(π(i + ½)/h) sin²(π(j + ½)/w)

All random numbers of a sample are drawn for the whole image, from its seed, and cut to the tiles:
where tiles overlap they begin with the same noise, and a method whose pixels are independent gives
the same there, without a seam. A reduction looks beyond the edge of a tile by some pixels, where
a_k is small.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs.problems import InverseProblem
from ctrlgen.domains.images.operators import Denoise, Inpainting, SuperResolution
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.operators.base import Operator
from ctrlgen.optimizers import Observer
from ctrlgen.priors.codecs import Identity
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import SOURCE, Seeds, as_seeds, normal
from ctrlgen.rows.status import Status

__all__ = ["Canvas", "Tiles", "tiled"]


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of an image lie.

    Args:
        image: (height, width) of the whole.
        tile: (height, width) of the prior.
        overlap: pixels that neighbours share at least.
        unit: their places are multiples of it, as the factor of a reduction asks.

    Raises:
        ValueError: for an image smaller than a tile, an overlap that leaves no step, or sizes that
            are no multiples of the unit.
    """

    image: tuple[int, int]
    tile: tuple[int, int]
    overlap: int
    unit: int = 1

    def __post_init__(self) -> None:
        for size, side in zip(self.image, self.tile, strict=True):
            if size < side:
                raise ValueError(
                    f"tile: expected an image of at least {self.tile}, got {self.image}"
                )
            if size % self.unit or side % self.unit:
                raise ValueError(f"factor: {self.unit} does not divide {size} and {side} pixels")
            if not 0 <= self.overlap <= side - self.unit:
                raise ValueError(
                    f"overlap: expected 0 to {side - self.unit} pixels, got {self.overlap}"
                )

    @property
    def places(self) -> Tensor:
        """(top, left) of every tile, in reading order, shape (K, 2)."""
        axes = [self._starts(size, side) for size, side in zip(self.image, self.tile, strict=True)]
        return torch.cartesian_prod(*map(torch.tensor, axes))

    def _starts(self, size: int, side: int) -> list[int]:
        step = (side - self.overlap) // self.unit * self.unit
        count = math.ceil((size - side) / step) + 1
        last = (size - side) // self.unit
        # evenly, the last one at the edge
        return [round(k * last / max(1, count - 1)) * self.unit for k in range(count)]

    def cut(self, images: Tensor, scale: int = 1) -> Tensor:
        """Tiles (B K, C, h, w) of images (B, C, H, W), those of one image together.

        Args:
            images: at 1/scale of the size.
            scale: of the places and tiles over those of `images`.
        """
        height, width = (side // scale for side in self.tile)
        parts = [
            images[..., top : top + height, left : left + width]
            for top, left in (self.places // scale).tolist()
        ]
        return torch.stack(parts, 1).flatten(0, 1)

    def blend(self, tiles: Tensor) -> Tensor:
        """Images (B, C, H, W) of their tiles (B K, C, h, w)."""
        ramps = [torch.sin(math.pi * (torch.arange(n) + 0.5) / n).square() for n in self.tile]
        window = (ramps[0][:, None] * ramps[1]).to(tiles)
        parts = tiles.unflatten(0, (-1, len(self.places)))
        whole = tiles.new_zeros(len(parts), tiles.shape[1], *self.image)
        weight = tiles.new_zeros(self.image)
        height, width = self.tile
        for k, (top, left) in enumerate(self.places.tolist()):
            place = (..., slice(top, top + height), slice(left, left + width))
            whole[place] += window * parts[:, k]
            weight[place] += window
        return whole / weight


class Canvas(Gaussian):
    """N(0, I) on tiles that are cut from the draws of whole images.

    Args:
        shape: of a tile, (C, h, w).
        image: (height, width) of the whole.
        places: (top, left) of each row, shape (B, 2).
    """

    per_sample = ("places",)

    def __init__(self, shape: Sequence[int], image: tuple[int, int], places: Tensor) -> None:
        super().__init__(shape)
        self.image, self.places = image, places

    def sample(
        self,
        seeds: Seeds,
        stream: int = SOURCE,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        rows = as_seeds(seeds)
        if len(rows) != len(self.places):
            raise ValueError(f"seeds: expected {len(self.places)}, one per tile, got {len(rows)}")
        channels, height, width = self.shape
        names, where = rows.unique(return_inverse=True)
        drawn = normal(names, (channels, *self.image), stream, dtype=dtype, device=device)
        top, left = follow(self.places, drawn).unbind(1)
        row = top[:, None, None, None] + torch.arange(height, device=drawn.device)[:, None]
        column = left[:, None, None, None] + torch.arange(width, device=drawn.device)
        channel = torch.arange(channels, device=drawn.device)[:, None, None]
        return drawn[where.to(drawn.device)[:, None, None, None], channel, row, column]


def tile_operator(operator: Operator, tiles: Tiles, samples: int) -> Operator:
    """The operator of all tiles of `samples` images.

    Raises:
        ValueError: for an operator that is not local.
    """
    if isinstance(operator, Inpainting):
        mask = operator.mask if operator.mask.ndim == 4 else operator.mask.unsqueeze(0)
        parts = tiles.cut(mask)
        return Inpainting(parts.repeat(samples if len(mask) == 1 else 1, 1, 1, 1))
    if isinstance(operator, Denoise | SuperResolution):
        return operator
    raise ValueError(
        f"tile: {type(operator).__name__} looks far beyond the edges of a tile; tiles are for "
        "inpaint, upsample and denoise"
    )


def tiled(
    method: Method,
    tiles: Tiles,
    prior: Prior,
    operator: Operator,
    y: Tensor,
    sigma: float,
    *,
    seeds: Seeds,
    label: int | None = None,
    observer: Observer | None = None,
) -> Result:
    """A method on all tiles of all samples, as one result of whole images.

    Args:
        method: of images, see `ctrlgen.methods.tuned.build`.
        tiles: where they lie.
        prior: of images of a tile's size.
        operator: of the whole image; see `tile_operator`.
        y: measurement of the whole image, shape (1, *measurement).
        sigma: σ_y.
        seeds: one per sample.
        label: class of all tiles.
        observer: of the tiles, those of one sample together.

    Returns:
        Whole images. Costs are those of their whole measurements; iterations, evaluations and
        status are of the tile that took longest, or failed; there is no history.

    Raises:
        ValueError: for an operator that is not local, or a prior with a codec.

    What is raised in the middle of a run carries whole images, as they stood; see `Method`.
    """
    names = as_seeds(seeds)
    count, scale = len(tiles.places), int(getattr(operator, "factor", 1))
    rows = names.repeat_interleave(count)
    parts = tile_operator(operator, tiles, len(names))
    cut = tiles.cut(y, scale).repeat(len(names), 1, 1, 1)
    cost = InverseProblem(parts, cut, sigma).cost(method)
    placed = on_canvas(prior, tiles, len(names), label)

    def blended(result: Result) -> Result:
        images = tiles.blend(result.samples)
        whole = InverseProblem(operator, y.to(images), sigma).cost(method, len(images))
        with torch.no_grad():
            costs = whole(images)
        most: dict[str, Any] = {
            name: getattr(result, name).view(-1, count).amax(1)
            for name in result.per_sample
            if name not in ("samples", "controls", "costs", "status", "seeds")
        }
        status = [_worst(part) for part in result.status.view(-1, count).tolist()]
        return Result(
            **most,
            samples=images,
            controls=tiles.blend(result.controls) if result.controls.ndim == 4 else images,
            costs=costs,
            status=torch.tensor(status, device=costs.device),
            seeds=names.to(costs.device),
            network=result.network,
            history={},
            method=f"{result.method} on {count} tiles",
        )

    # what an error carries are tiles, of use to a caller when they are blended
    with warnings.catch_warnings(), carrying(lambda partial: partial and blended(partial)):
        # the tiles of a sample share its seed, and are not the same
        warnings.filterwarnings("ignore", message="seeds: ")
        result = method(placed, cost, seeds=rows, observer=observer)
    return blended(result)


def _worst(codes: list[int]) -> int:
    """The status of a sample from those of its tiles: a failure, else the least settled of them."""
    for status in (Status.DIVERGED, Status.RUNNING):
        if status in codes:
            return int(status)
    return next((code for code in codes if not Status(code).converged), codes[0])


def on_canvas(prior: Prior, tiles: Tiles, samples: int, label: int | None = None) -> Prior:
    """The prior of all tiles of `samples` images.

    Raises:
        ValueError: for a prior whose states are not its images.
    """
    if not isinstance(prior.codec, Identity) or len(prior.source.shape) != 3:
        raise ValueError("tile: needs a prior of pixels, whose states are its images")
    places = tiles.places.repeat(samples, 1)
    if label is not None:
        prior = prior.bind(label=torch.full((len(places),), label))
    placed = copy.copy(prior)
    placed.source = Canvas(prior.source.shape, tiles.image, places)
    return placed
