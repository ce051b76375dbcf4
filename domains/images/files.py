"""Image files in and out: PNG, JPEG and whatever else Pillow reads, as tensors in [-1, 1].

Bytes b become x = b / 127.5 - 1; 16-bit greys become x = w / 32767.5 - 1. Rounding to bytes leaves
an error of standard deviation `ROUNDING` in a file, which no reconstruction should fit.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.extras import require

__all__ = [
    "ROUNDING",
    "ImageFile",
    "is_grey",
    "read_image",
    "read_mask",
    "with_channels",
    "write_image",
]

ROUNDING = 2 / 255 / math.sqrt(12)
"""Standard deviation of the rounding of a byte, in [-1, 1]: 58.9 dB below the peak of 2."""

LARGEST = 4096 * 4096
"""Pixels of the largest file that is read."""

_GREY, _DEEP = ("1", "L", "LA", "La"), ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(file: Path | str, fit: tuple[int, int] | None = None, name: str = "file") -> Tensor:
    """An image file, grey or colour, as a tensor (C, H, W) in [-1, 1] with C = 1 or 3.

    The orientation that a camera has noted is applied. Colour files of grey pixels stay in colour;
    see `is_grey`.

    Args:
        file: path.
        fit: crop the middle and resample it to this (height, width).
        name: of the argument, for messages.

    Raises:
        ValueError: if it is no image, damaged, transparent, or larger than `LARGEST`.
        OSError: if it cannot be read.
    """
    picture = _open(Path(file), name)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.mode not in ("LA", "La") else "LA")
        if min(picture.getchannel("A").getextrema()) < 255:
            raise ValueError(
                f"{name}: {file} has transparent pixels; flatten it to grey or RGB first"
            )
    return _tensor(_fitted(_levels(picture, f"{name}: {file}"), fit, "BICUBIC"))


def _levels(picture: Any, what: str) -> Any:
    """A picture on the scale 0 ... 255 in grey, mode L or F, or RGB; by the range of its own mode.

    Pillow's own `convert` would clip words to bytes.

    Raises:
        ValueError: for a mode without a range: floating point numbers, or whole numbers that only
            the file's maker can tell the largest of.
    """
    mode = picture.mode
    if mode in _DEEP:
        words = np.asarray(picture).astype(np.float32)
        return require("PIL.Image", "images").fromarray(words / 65535 * 255)  # mode F
    if mode == "I":
        numbers = np.asarray(picture)
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high > 65535:
            raise ValueError(f"{what} holds 32-bit numbers from {low} to {high}; expected 16 bits")
        return require("PIL.Image", "images").fromarray(numbers.astype(np.float32) / 65535 * 255)
    if mode == "F":
        raise ValueError(f"{what} holds floating point numbers; expected 8 or 16 bits")
    return picture.convert("L" if mode in _GREY else "RGB")


def read_mask(file: Path | str, fit: tuple[int, int] | None = None) -> Tensor:
    """A mask file, white where pixels are missing, as bool (H, W), True where they are known.

    Raises:
        ValueError: if it is no image, or hides nothing or everything.
        OSError: if it cannot be read.
    """
    picture = _open(Path(file), "mask")
    picture = _levels(picture, f"mask: {file}")
    picture = picture.convert("L") if picture.mode == "RGB" else picture
    known = _tensor(_fitted(picture, fit, "NEAREST"))[0] < 0
    if bool(known.all()):
        raise ValueError(f"mask: {file} hides nothing; white marks the pixels to fill in")
    if not bool(known.any()):
        raise ValueError(f"mask: {file} hides everything; black marks the pixels to keep")
    return known


def is_grey(image: Tensor) -> bool:
    """Whether an image (C, H, W) has one channel, or three that are equal."""
    return bool((image == image[:1]).all())


def with_channels(image: Tensor, channels: int, name: str = "file") -> Tensor:
    """A grey image in three channels, a grey one of three channels in one, or the image as it is.

    Raises:
        ValueError: if that would lose colour.
    """
    if image.shape[0] == channels:
        return image
    if channels == 1 and is_grey(image):
        return image[:1]
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    raise ValueError(f"{name}: expected a grey image, got one in colour")


def write_image(file: Path, image: Tensor) -> None:
    """Write an image (1 or 3, H, W) in [-1, 1], clipped, as PNG.

    Raises:
        ValueError: for pixels that are not numbers, which a PNG would show as black.
    """
    strange = int((~image.isfinite()).sum())
    if strange:
        raise ValueError(
            f"image: {strange} of {image.numel()} values of {file.name} are no numbers"
        )
    pixels = image.detach().cpu().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
    pixels = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    require("PIL.Image", "images").fromarray(np.ascontiguousarray(pixels)).save(file)


@dataclass(frozen=True)
class ImageFile:
    """How a `Command` is given an image (1 or 3, H, W) in [−1, 1]: as a file.

    Args:
        suffix: its kind, by its ending, e.g. ".png" or ".bmp".
    """

    suffix: str = ".png"

    def __call__(self, file: Path, image: Tensor) -> None:
        write_image(file, image)


def _open(file: Path, name: str) -> Any:
    """A decoded Pillow image; its size is checked before a pixel is."""
    module = require("PIL.Image", "images")
    if not file.is_file():
        raise ValueError(f"{name}: there is no file {file}")
    if not os.access(file, os.R_OK):
        raise PermissionError(f"{name}: cannot read {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", module.DecompressionBombWarning)
            picture = module.open(file)
            width, height = picture.size
            if width * height > LARGEST:
                raise _TooLarge(f"{width}x{height}")
            picture.load()
            return require("PIL.ImageOps", "images").exif_transpose(picture)
    except (_TooLarge, module.DecompressionBombError) as error:
        raise ValueError(
            f"{name}: expected at most {LARGEST} pixels, {file} is too large ({error})"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(
            f"{name}: {file} is no image that can be read, or is damaged ({error})"
        ) from error


class _TooLarge(Exception):
    pass


def _fitted(picture: Any, fit: tuple[int, int] | None, resample: str) -> Any:
    if fit is None or picture.size == fit[::-1]:
        return picture
    how = getattr(require("PIL.Image", "images").Resampling, resample)
    return require("PIL.ImageOps", "images").fit(picture, fit[::-1], how)


def _tensor(picture: Any) -> Tensor:
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return pixels.contiguous() / 127.5 - 1
