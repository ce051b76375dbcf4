r"""Phase retrieval: the modulus of an oversampled Fourier transform.

The image is padded with zeros, p = ⌊ρ n / 8⌋ pixels on each side of a dimension of n pixels for
the oversampling ρ (ρ = 2: 256 to 384), then  y = |F x|  with the centred orthonormal transform
(Chung et al., arXiv 2209.14687). Images that differ by sign or by a point reflection measure the
same: run several seeds. The pseudo-inverse is a heuristic, |F^-1 y| cropped to the image.
"""

from __future__ import annotations

import math
from itertools import count

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images
from ctrlgen.operators.base import Operator
from ctrlgen.rows.checks import check_precision

__all__ = ["PhaseRetrieval"]


class PhaseRetrieval(Operator):
    """Modulus of the Fourier transform of the zero-padded image, low frequencies in the middle.

    Args:
        oversample: ρ >= 0; 2 pads a quarter of the image's size on each side.
    """

    def __init__(self, oversample: float = 2.0) -> None:
        if not (oversample >= 0 and math.isfinite(oversample)):
            raise ValueError(f"oversample: expected a number >= 0, got {oversample}")
        self.oversample = float(oversample)

    def _margin(self, size: int) -> int:
        return math.floor(self.oversample / 8 * size)

    def _unpadded(self, size: int) -> int:
        """n from n + 2 p(n), which grows with n."""
        for n in count(1):
            padded = n + 2 * self._margin(n)
            if padded == size:
                return n
            if padded > size:
                break
        raise ValueError(f"y: no image is padded to {size} pixels at oversample {self.oversample}")

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        check_precision(x=x)
        rows, columns = self._margin(x.shape[2]), self._margin(x.shape[3])
        padded = torch.nn.functional.pad(x, (columns, columns, rows, rows))
        shifted = torch.fft.ifftshift(padded, dim=(2, 3))
        return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(2, 3)).abs()

    def pinv(self, y: Tensor) -> Tensor:
        check_images(y, "y")
        check_precision(y=y)
        height, width = self._unpadded(y.shape[2]), self._unpadded(y.shape[3])
        top, left = self._margin(height), self._margin(width)
        wave = torch.fft.ifft2(torch.fft.ifftshift(y, dim=(2, 3)), norm="ortho")
        image = torch.fft.fftshift(wave, dim=(2, 3)).abs()
        return image[:, :, top : top + height, left : left + width]
