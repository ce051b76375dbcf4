r"""A blur that depends on what it blurs: bright and dark pixels move differently.

With K motion kernels k_j frozen by a seed, grey levels c_j = j / (K - 1) and the local brightness
ℓ(x) in [0, 1] (mean over channels of (x + 1)/2, smoothed by a Gaussian g of one pixel),

    y = Σ_j w_j(x) ⊙ (k_j * x),      w(x) = softmax_j(-(ℓ(x) - c_j)² / 2τ²),  τ = 1/4,

as a shaken camera whose highlights are exposed at other moments than its shadows. It is smooth,
maps constant images to themselves, and is reflected at the edges. No weights are learned; it
stands in for the learned kernels of Tran et al. (arXiv 2104.00317) used as a benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images, check_positive_integer
from ctrlgen.domains.images.operators.kernels import gaussian_taps, motion_kernels
from ctrlgen.operators.base import Operator
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import derived, follow
from ctrlgen.rows.seeds import as_seeds

__all__ = ["NonlinearBlur"]

_TEMPERATURE = 0.25  # τ
_SMOOTHING = 5  # window of g


class NonlinearBlur(Operator):
    """A mixture of motion blurs, weighed at every pixel by its brightness; H† = y (a heuristic).

    Args:
        seed: of the kernels; the same seed is the same operator.
        size: side of the kernels in pixels, odd; 61 would suit 256 x 256.
        intensity: of their shake, in [0, 1].
        kernels: K >= 2, their number.
    """

    task = "deblur"

    def __init__(
        self, seed: int = 0, size: int = 9, intensity: float = 0.5, kernels: int = 3
    ) -> None:
        check_positive_integer(kernels, "kernels")
        check_positive_integer(size, "size")
        if kernels < 2:
            raise ValueError(f"kernels: expected at least 2, got {kernels}")
        if size % 2 == 0:
            raise ValueError(f"size: expected an odd number of pixels, got {size}")
        # Seeds of one family, far from those of its neighbours.
        family = as_seeds([seed]) % 2**31 * 2**31 + torch.arange(kernels, device="cpu")
        self.kernels = motion_kernels(family, size, intensity, dtype=torch.float64)
        taps = torch.tensor(gaussian_taps(1.0, _SMOOTHING), dtype=torch.float64, device="cpu")
        self.smoothing = torch.outer(taps, taps).unsqueeze(0)

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        brightness = _convolve((x.mean(dim=1, keepdim=True) + 1) / 2, self.smoothing)
        levels = torch.linspace(0, 1, len(self.kernels), dtype=x.dtype, device=x.device)
        closeness = -(brightness - levels[:, None, None]).square() / (2 * _TEMPERATURE**2)
        return (closeness.softmax(dim=2) * _convolve(x, self.kernels)).sum(dim=2)

    def pinv(self, y: Tensor) -> Tensor:
        return y


def _convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Every channel with every kernel, reflected at the edges: (B, C, H, W) to (B, C, K, H, W).

    Through Fourier transforms: their gradient is several times quicker than a convolution's.
    """
    check_precision(x=x)
    rows, columns = kernels.shape[1:]
    x = x.index_select(2, _reflected(x.shape[2], rows // 2, x.device))
    x = x.index_select(3, _reflected(x.shape[3], columns // 2, x.device))
    plane = x.shape[2:]
    key = ("rfft2", plane, x.dtype, x.device)
    transfer = derived(kernels, key, lambda: torch.fft.rfft2(follow(kernels, x), s=plane))
    blurred = torch.fft.irfft2(torch.fft.rfft2(x).unsqueeze(2) * transfer, s=plane)
    return blurred[..., rows - 1 :, columns - 1 :]  # where no kernel wraps around


def _reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """Indices of a line of pixels with a margin that mirrors it, however wide."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-margin, size + margin, device=device) % period
    return torch.minimum(index, period - index)
