r"""Training images as one file: differences to a prediction, losslessly.

A byte is predicted from its left, upper and upper left neighbours a, b, c by the median of a, b and
a + b - c (Martucci 1990; the MED of JPEG-LS), and the difference modulo 256 is kept; of colours,
green and the differences of red and blue to it. What remains is noise for the most part, coded
channel by channel: CIFAR-10 takes 4.45 bits a byte, 86 MB for its 50,000 training images. Where
less has to travel, the first images of the split are packed alone, 1.71 kB each.

    ctrlgen train images/cifar10 --data data/cifar10 --pack cifar10.safetensors --samples 26000
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from ctrlgen.training.packed import read_packed, write_packed

__all__ = ["load", "residuals", "restored", "save"]


def _predicted(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The median of a, b and a + b - c, int16."""
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), a + b - c))


def residuals(pixels: np.ndarray) -> np.ndarray:
    """What the neighbours do not tell of uint8 images (N, C, H, W), uint8 of the same shape."""
    planes = pixels.astype(np.int16)
    if planes.shape[1] == 3:
        red, green, blue = planes.transpose(1, 0, 2, 3)
        planes = np.stack((green, (red - green) & 255, (blue - green) & 255), axis=1)
    framed = np.pad(planes, ((0, 0), (0, 0), (1, 0), (1, 0)))
    left, above, corner = framed[..., 1:, :-1], framed[..., :-1, 1:], framed[..., :-1, :-1]
    return ((planes - _predicted(left, above, corner)) & 255).astype(np.uint8)


def restored(differences: np.ndarray) -> np.ndarray:
    """The images of `residuals`; pixel after pixel, all images at a time."""
    count, channels, height, width = differences.shape
    # Pixels first: what is read and written in one round lies together.
    values = np.ascontiguousarray(differences.transpose(2, 3, 1, 0)).astype(np.int16)
    framed = np.zeros((height + 1, width + 1, channels, count), np.int16)
    for i in range(height):
        for j in range(width):
            guess = _predicted(framed[i + 1, j], framed[i, j + 1], framed[i, j])
            framed[i + 1, j + 1] = (values[i, j] + guess) & 255
    planes = framed[1:, 1:].astype(np.uint8)
    if channels == 3:
        green = planes[:, :, 0]
        planes = np.stack((planes[:, :, 1] + green, green, planes[:, :, 2] + green), axis=2)
    return np.ascontiguousarray(planes.transpose(3, 2, 0, 1))


def save(pixels: np.ndarray, labels: np.ndarray, name: str, path: str | Path) -> Path:
    """Write uint8 images (N, C, H, W) and their labels (N,) in 0..9 of the data set `name`."""
    planes = residuals(pixels).transpose(1, 0, 2, 3)
    return write_packed(
        path, name, {"residuals": planes, "labels": labels.astype(np.uint8)}, zlib.Z_RLE
    )


def load(name: str, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, C, H, W) and int64 labels (N,).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not packed, of another data set, or damaged.
    """
    arrays = read_packed(path, name)
    if set(arrays) != {"residuals", "labels"}:
        raise ValueError(f"{path}: expected packed images, got arrays {sorted(arrays)}")
    residuals, labels = arrays["residuals"], arrays["labels"]
    if residuals.ndim != 4 or labels.shape != residuals.shape[1:2]:
        raise ValueError(
            f"{path}: expected residuals (C, N, H, W) and labels (N,), got {residuals.shape} and "
            f"{labels.shape}"
        )
    if residuals.dtype != np.uint8 or labels.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected bytes, got {residuals.dtype} residuals and {labels.dtype} labels"
        )
    return restored(arrays["residuals"].transpose(1, 0, 2, 3)), arrays["labels"].astype(np.int64)
