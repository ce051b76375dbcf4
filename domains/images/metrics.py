r"""Image metrics, one value per sample, on images (B, C, H, W) in [-1, 1].

    PSNR = 10 log10(R^2 / mean (x - y)^2)  in dB, R = 2 the data range,
    SSIM = mean (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2)),

over Gaussian windows of standard deviation 1.5 (11x11) that lie inside the image, c_1 = (0.01 R)^2,
c_2 = (0.03 R)^2 (Wang et al. 2004, eqs. 13-17). Images are not clipped first. LPIPS (Zhang et al.
2018), FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) are those of torchmetrics and need
weights that it downloads; for a distance without downloads see `frechet`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ctrlgen.extras import require

__all__ = ["fid", "kid", "lpips", "psnr", "ssim"]


def _pair(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"y: expected the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    if x.ndim < 2 or not x.is_floating_point() or not y.is_floating_point():
        raise ValueError(f"x, y: expected floating point (B, ...), got {x.dtype} {tuple(x.shape)}")


def psnr(x: Tensor, y: Tensor, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, shape (B,); infinite for equal images.

    Args:
        x, y: signals of one shape (B, *).
        data_range: R, 2 for values in [-1, 1].

    Raises:
        ValueError: the shapes differ.
    """
    _pair(x, y)
    error = (x - y).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(data_range**2 / error)


def ssim(x: Tensor, y: Tensor, data_range: float = 2.0) -> Tensor:
    """Structural similarity, shape (B,); 1 for equal images.

    Args:
        x, y: images of one shape (B, C, H, W), sides of at least 11 pixels.
        data_range: R, 2 for values in [-1, 1].

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window.
    """
    _pair(x, y)
    if x.ndim != 4 or min(x.shape[-2:]) < 11:
        raise ValueError(f"x: expected (B, C, H, W) of at least 11x11, got {tuple(x.shape)}")
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = (-(offsets**2) / (2 * 1.5**2)).exp()
    window = window / window.sum()
    channels = x.shape[1]
    rows = window.view(1, 1, 11, 1).expand(channels, 1, 11, 1)

    def average(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, rows, groups=channels), rows.transpose(2, 3), groups=channels)

    mean_x, mean_y = average(x), average(y)
    variance_x = average(x * x) - mean_x**2
    variance_y = average(y * y) - mean_y**2
    covariance = average(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _colour(x: Tensor) -> Tensor:
    """Three channels in [-1, 1]."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"x: expected (B, 1 or 3, H, W), got {tuple(x.shape)}")
    return x.clamp(-1, 1).expand(-1, 3, -1, -1)


def lpips(x: Tensor, y: Tensor, network: Literal["alex", "vgg", "squeeze"] = "alex") -> Tensor:
    """Learned perceptual distance, shape (B,), lower is closer.

    Args:
        x, y: images of one shape (B, 1 or 3, H, W) in [-1, 1].
        network: backbone of LPIPS.

    Raises:
        MissingExtra: torchmetrics is not installed.
        RuntimeError: torchvision or the weights of the backbone cannot be had.
    """
    _pair(x, y)
    module = require("torchmetrics.functional.image.lpips", "metrics")
    try:
        distance: Tensor = module.learned_perceptual_image_patch_similarity(
            _colour(x), _colour(y), net_type=network, reduction="none"
        )
    except (ImportError, NameError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"LPIPS needs torchvision and its {network} weights, downloaded at first use; "
            f"they could not be had: {error}"
        ) from error
    return distance.flatten(1).mean(dim=1)


def _inception(metric: str, generated: Tensor, real: Tensor, **options: object) -> Tensor:
    """One of torchmetrics' Inception metrics between two sets; a scalar."""
    kind, name = {
        "FID": ("fid", "FrechetInceptionDistance"),
        "KID": ("kid", "KernelInceptionDistance"),
    }[metric]
    module = require(f"torchmetrics.image.{kind}", "metrics")
    try:
        judge = getattr(module, name)(**options)
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"{metric} needs torch-fidelity and the Inception-v3 weights that it downloads; they "
            f"could not be had: {error}. frechet_distance with another embedder works offline"
        ) from error
    for images, is_real in ((real, True), (generated, False)):
        for part in _colour(images).split(64):
            judge.update(((part + 1) * 127.5).round().to(torch.uint8), real=is_real)
    value = judge.compute()
    return value[0] if isinstance(value, tuple) else value


def fid(generated: Tensor, real: Tensor) -> Tensor:
    """Frechet Inception distance of two sets of images (N, 1 or 3, H, W) in [-1, 1]; a scalar.

    Raises:
        MissingExtra: torchmetrics is not installed.
        RuntimeError: torch-fidelity or its weights cannot be had.
    """
    return _inception("FID", generated, real)


def kid(generated: Tensor, real: Tensor, subset: int = 100) -> Tensor:
    """Kernel Inception distance of two sets of images, as `fid`; subset: images per estimate."""
    return _inception("KID", generated, real, subset_size=subset)
