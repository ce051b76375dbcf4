r"""JPEG: what remains of an image after lossy compression, y = decode(encode(x)).

The surrogate follows the standard (ITU-T T.81) and libjpeg step by step on the scale 0 ... 255:
YCbCr, chroma at half resolution (4:2:0) or at full (4:4:4), orthonormal 8 x 8 cosine transform of
the planes less 128, division by the tables scaled to the quality as libjpeg does, rounding, and
the way back with the triangular chroma interpolation of libjpeg. An image of no whole blocks is
continued to the right at full resolution, its last column repeated, before chroma is halved; below,
its last row of halved chroma is repeated. Every rounding and clipping is
straight-through, so the gradient is that of the linear map which remains without them: the
identity on grey images and at 4:4:4, a low-pass filter on chroma at 4:2:0.

Halves are common (the mean of a flat block is one), so a tilt above the noise of the arithmetic
and below every other difference decides them as libjpeg does, in any batch and on any device.

Entropy coding is lossless and has no part in it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.domains.images.operators.checks import check_images, check_positive_integer
from ctrlgen.domains.images.operators.tone import straight_through
from ctrlgen.operators.base import Operator
from ctrlgen.rows.constants import follow, numbers

__all__ = ["JPEG", "quantisation_tables"]

# Annex K of ITU-T T.81, tables K.1 (luminance) and K.2 (chrominance).
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# JFIF 1.02: rows Y, Cb, Cr of R, G, B; chroma is offset by 128.
_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
_RGB = (
    (1.0, 0.0, 1.402),
    (1.0, -0.344136286, -0.714136286),
    (1.0, 1.772, 0.0),
)
_TILT = 2e-4  # of a step; coefficients and levels lie on grids no finer than 1 / (8 * 255)
_CODECS = ("surrogate", "pillow")
_CHROMAS = ("4:2:0", "4:4:4")


def quantisation_tables(quality: int) -> tuple[list[list[int]], list[list[int]]]:
    """Luminance and chrominance steps of libjpeg at a quality from 1 to 100, row-major 8 x 8."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luminance, chrominance = (
        [[min(max((step * scale + 50) // 100, 1), 255) for step in row] for row in table]
        for table in (_LUMINANCE, _CHROMINANCE)
    )
    return luminance, chrominance


class JPEG(Operator):
    """JPEG compression and decompression of grey (C = 1) or colour (C = 3) images in [-1, 1].

    H† = y (a heuristic).

    Args:
        quality: of libjpeg, from 1 to 100.
        codec: "surrogate" computes with tensors; "pillow" runs the real codec on the host, image
            by image, and takes its gradient from the surrogate (needs `ctrlgen[images]`).
        chroma: "4:2:0", chroma at half resolution, or "4:4:4"; grey images have none.

    Raises:
        TypeError: for a quality that is no integer.
        ValueError: for another quality, codec or chroma.
    """

    def __init__(self, quality: int, codec: str = "surrogate", chroma: str = "4:2:0") -> None:
        check_positive_integer(quality, "quality")
        if quality > 100:
            raise ValueError(f"quality: expected from 1 to 100, got {quality}")
        if codec not in _CODECS:
            raise ValueError(f"codec: expected one of {_CODECS}, got {codec!r}")
        if chroma not in _CHROMAS:
            raise ValueError(f"chroma: expected one of {_CHROMAS}, got {chroma!r}")
        self.quality, self.codec, self.chroma = quality, codec, chroma
        luminance, chrominance = quantisation_tables(quality)
        self.steps = torch.tensor([luminance, chrominance], dtype=torch.float64, device="cpu")
        k = torch.arange(8, dtype=torch.float64, device="cpu")
        cosine = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
        cosine[0] /= math.sqrt(2)
        self.cosine = cosine

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x: expected 1 or 3 channels, got shape {tuple(x.shape)}")
        levels = _whole((x + 1) * 127.5)
        decoded = self._surrogate(levels)
        if self.codec == "pillow":
            decoded = _Replace.apply(decoded, levels, self._pillow)
        return decoded / 127.5 - 1

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def _surrogate(self, levels: Tensor) -> Tensor:
        if levels.shape[1] == 1:
            return _whole(self._code(levels - 128, 0) + 128)
        offset = numbers((0, 128, 128), levels)[:, None, None]
        planes = _whole(_mix(_YCBCR, levels) + offset) - 128
        luma, chroma = planes[:, :1], planes[:, 1:]
        if self.chroma == "4:4:4":
            chroma = self._code(chroma, 1)
        else:
            height, width = chroma.shape[2:]
            # whole blocks to the right before the mean, whole blocks below after it, as libjpeg
            half = F.avg_pool2d(_extended(chroma, 2, 16), 2)
            half = _rounded(half, -_alternating(half))
            half = _rounded(self._code(half, 1))[..., : -(-width // 2)]
            if half.shape[3] > 2:
                chroma = F.interpolate(half, scale_factor=2, mode="bilinear")
                chroma = _rounded(chroma, _alternating(chroma))
            else:  # libjpeg does not interpolate so few columns
                chroma = F.interpolate(half, scale_factor=2, mode="nearest")
            chroma = chroma[..., :height, :width]
        planes = torch.cat((_whole(self._code(luma, 0) + 128), _whole(chroma + 128) - 128), dim=1)
        return _whole(_mix(_RGB, planes))

    def _code(self, plane: Tensor, table: int) -> Tensor:
        """Cosine transform, rounding to the steps of a table, and back."""
        height, width = plane.shape[2:]
        cosine, steps = follow(self.cosine, plane), follow(self.steps, plane)[table]
        blocks = _extended(plane, 8, 8).unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
        coefficients = torch.einsum("ui,bcyixj,vj->bcyxuv", cosine, blocks, cosine)
        # halves away from zero
        coefficients = _rounded(coefficients / steps, _TILT * coefficients.sign()) * steps
        blocks = torch.einsum("ui,bcyxuv,vj->bcyixj", cosine, coefficients, cosine)
        return blocks.flatten(4, 5).flatten(2, 3)[..., :height, :width]

    def _pillow(self, levels: Tensor) -> Tensor:
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(
                'JPEG(codec="pillow") needs Pillow: pip install "ctrlgen[images]"'
            ) from error
        import numpy as np

        decoded = []
        array = levels.nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for image in array:
            buffer = io.BytesIO()
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            picture.save(
                buffer, "JPEG", quality=self.quality, subsampling=2 if self.chroma == "4:2:0" else 0
            )
            pixels = np.array(Image.open(buffer))
            decoded.append(torch.from_numpy(pixels).reshape(image.shape))
        return torch.stack(decoded).permute(0, 3, 1, 2).to(levels)


class _Replace(torch.autograd.Function):
    """codec(levels) with the derivatives of the surrogate, under every transform of torch.func."""

    @staticmethod
    def forward(surrogate: Tensor, levels: Tensor, codec: Callable[[Tensor], Tensor]) -> Tensor:
        return codec(levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None

    @staticmethod
    def jvp(ctx: Any, surrogate: Tensor, levels: Tensor, codec: None) -> Tensor:
        return surrogate.clone()

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[int | None, ...],
        surrogate: Tensor,
        levels: Tensor,
        codec: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, int]:
        planes = [
            x.unsqueeze(0).expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip((surrogate, levels), dims[:2], strict=True)
        ]
        surrogate, levels = (x.flatten(0, 1) for x in planes)
        decoded = _Replace.apply(surrogate, levels, codec)
        return decoded.unflatten(0, planes[0].shape[:2]), 0


def _rounded(values: Tensor, tilt: Tensor | float = _TILT) -> Tensor:
    """Nearest whole numbers; halves go where the tilt points."""
    return straight_through((values + tilt).detach().round(), values)


def _whole(levels: Tensor) -> Tensor:
    """Whole levels from 0 to 255, halves up."""
    return straight_through((levels + _TILT).round().clamp(0, 255), levels)


def _alternating(plane: Tensor) -> Tensor:
    """The tilt of libjpeg's chroma interpolation: halves up in even columns, down in odd ones."""
    tilt = plane.new_full((plane.shape[3],), _TILT)
    tilt[1::2] *= -1
    return tilt


def _mix(matrix: tuple[tuple[float, ...], ...], planes: Tensor) -> Tensor:
    return torch.einsum("dc,bchw->bdhw", numbers(matrix, planes), planes)


def _extended(plane: Tensor, rows: int, columns: int) -> Tensor:
    """The plane with its last row and column repeated up to multiples of pixels."""
    for dim, multiple in ((2, rows), (3, columns)):
        size = plane.shape[dim]
        index = torch.arange(-(-size // multiple) * multiple, device=plane.device)
        plane = plane.index_select(dim, index.clamp_max(size - 1))
    return plane
