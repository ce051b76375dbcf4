"""What every table of images says of a set of them: PSNR, SSIM, LPIPS and a Fréchet distance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ctrlgen.domains.images.frechet import embed, frechet_distance, load_embedder
from ctrlgen.domains.images.metrics import lpips, psnr, ssim
from ctrlgen.rows.errors import MissingExtra

__all__ = ["quality"]

EMBEDDERS = {"mnist": "FD-MNISTClassifier", "cifar10": "FD-EfficientNetLite0"}


def quality(images: Tensor, truth: Tensor, prior_name: str) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS per image, and the named Fréchet distance of the set."""
    name = EMBEDDERS[prior_name]
    embedder = load_embedder(name, truth.device)
    features = (embed(embedder, part) for part in (images.clamp(-1, 1), truth))
    try:
        perceptual: Any = lpips(images, truth).tolist()
    except (MissingExtra, RuntimeError) as error:  # no weights offline: the row says so
        perceptual = {"unavailable": str(error)}
    return {
        "psnr": psnr(images, truth).tolist(),
        "ssim": ssim(images, truth).tolist(),
        "lpips": perceptual,
        "frechet": {
            "embedder": name,
            "images": len(truth),
            "value": float(frechet_distance(*features)),
        },
    }
