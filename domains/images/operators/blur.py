r"""Blurs: convolutions with a stated boundary, the same when simulating and when inverting.

`GaussianBlur` is separable, H = S ⊗ S with a circular, zero or reflecting boundary (see
`separable`). `Blur` takes any kernel and wraps around the edges: with ĥ the kernel's discrete
Fourier transform and F the orthonormal one,

    H = F^-1 diag(ĥ) F,      s = |ĥ|,      H† = F^-1 diag(conj(ĥ) / |ĥ|²) F  where |ĥ| is not cut.

Its coordinates are real, of the image's shape, and V orthogonal: V^T is the discrete Hartley
transform, Re F x - Im F x, which is its own inverse, and U = Φ V with Φ the convolution by the
phases ĥ / |ĥ|.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images, check_rows
from ctrlgen.domains.images.operators.kernels import gaussian_taps, motion_kernels
from ctrlgen.domains.images.operators.separable import CUT, Line, Separable
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.batching import rows_like
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import derived, follow
from ctrlgen.rows.seeds import Seeds

__all__ = ["Blur", "GaussianBlur", "MotionBlur"]

_BOUNDARIES = ("circular", "zero", "reflect")


class GaussianBlur(Separable):
    """Gaussian blur, window x window pixels, the same for every channel.

    Args:
        std: standard deviation in pixels; 1 for 128 x 128 images in the paper of D-Flow.
        window: side of the kernel in pixels, odd; it may exceed the image.
        boundary: "circular", "zero" outside of the image, or "reflect".
        cut: 1-D singular values of less are zero, in the measurement as well.
    """

    task = "deblur"

    def __init__(
        self, std: float = 1.0, window: int = 61, boundary: str = "circular", cut: float = CUT
    ) -> None:
        if boundary not in _BOUNDARIES:
            raise ValueError(f"boundary: expected one of {_BOUNDARIES}, got {boundary!r}")
        super().__init__(Line(gaussian_taps(std, window), -(window // 2), 1, boundary), cut)
        self.std, self.window, self.boundary = std, window, boundary


class Blur(LinearOperator):
    """Circular convolution with any kernel, the same for every channel.

    Args:
        kernel: shape (k, l) for all samples or (B, k, l), one per sample; its centre is
            (k // 2, l // 2), and it may exceed the image. Gradients flow into it.
        cut: frequencies with |ĥ| of less are zero, in the measurement as well.

    Raises:
        TypeError: where the kernel is no floating tensor.
        ValueError: for another shape, values that are not finite, or a cut outside [0, 1).
    """

    task = "deblur"

    def __init__(self, kernel: Tensor, cut: float = CUT) -> None:
        if not isinstance(kernel, Tensor) or not kernel.is_floating_point():
            got = kernel.dtype if isinstance(kernel, Tensor) else type(kernel).__name__
            raise TypeError(f"kernel: expected a floating tensor, got {got}")
        if kernel.ndim not in (2, 3) or 0 in kernel.shape:
            raise ValueError(
                f"kernel: expected shape (k, l) or (B, k, l), got {tuple(kernel.shape)}"
            )
        if not kernel.isfinite().all():
            raise ValueError("kernel: holds values that are not finite")
        if not 0 <= cut < 1:
            raise ValueError(f"cut: expected a singular value in [0, 1), got {cut}")
        self.kernel, self.cut = kernel, float(cut)
        if kernel.ndim == 3:
            self.per_sample = ("kernel",)

    def _transfer(self, x: Tensor, name: str) -> Tensor:
        """ĥ for images like x, zero where cut, shape (1|B, 1, H, W), complex."""
        check_images(x, name)
        check_precision(**{name: x})
        if self.per_sample:
            check_rows(x, self.kernel.shape[0], name)
        key = ("transfer", self.cut, x.shape[2:], x.dtype, x.device)
        return derived(self.kernel, key, lambda: self._transferred(x))

    def _transferred(self, x: Tensor) -> Tensor:
        # In float64, so that the same frequencies are cut in every dtype.
        kernel = follow(self.kernel, x, torch.float64)
        plane = kernel if kernel.ndim == 3 else kernel.unsqueeze(0)
        for dim, size in ((1, x.shape[2]), (2, x.shape[3])):
            index = (torch.arange(plane.shape[dim], device=x.device) - plane.shape[dim] // 2) % size
            shape = [size if d == dim else n for d, n in enumerate(plane.shape)]
            plane = plane.new_zeros(shape).index_add(dim, index, plane)
        full = torch.fft.fft2(plane).unsqueeze(1)
        floor = plane.shape[1:].numel() * torch.finfo(torch.float64).eps
        magnitude = full.abs()
        mirrored = magnitude.flip((2, 3)).roll((1, 1), (2, 3))  # k and -k are cut together
        magnitude = torch.maximum(magnitude, mirrored)
        largest = magnitude.amax(dim=(2, 3), keepdim=True)
        seen = magnitude >= torch.clamp(floor * largest, min=self.cut)
        return torch.where(seen, full, 0).to(x.dtype.to_complex())

    @staticmethod
    def _filter(x: Tensor, multiplier: Tensor) -> Tensor:
        half = x.shape[3] // 2 + 1
        spectrum = torch.fft.rfft2(x) * multiplier[..., :half]
        return torch.fft.irfft2(spectrum, s=x.shape[2:])

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer(x, "x"))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self._transfer(y, "y").conj())

    def pinv(self, y: Tensor) -> Tensor:
        transfer = self._transfer(y, "y")
        seen = transfer != 0
        return self._filter(y, torch.where(seen, 1 / torch.where(seen, transfer, 1), 0))

    def project(self, x: Tensor) -> Tensor:
        return self._filter(x, (self._transfer(x, "x") != 0).to(x.dtype))

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        transfer = self._transfer(residual, "residual")
        r2, n = rows_like(variance, residual), rows_like(noise, residual)
        seen = transfer != 0
        power = torch.where(seen, transfer.abs().square(), 1)
        return self._filter(residual, transfer.conj() / (r2 * power + n**2))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def spectrum(self, x: Tensor) -> Spectrum:
        transfer = self._transfer(x, "x")
        values = transfer.abs()
        phase = transfer / torch.where(values > 0, values, 1)
        return Spectrum(
            values.expand(-1, *x.shape[1:]),
            right=_hartley,
            right_inverse=_hartley,
            left=lambda y: _hartley(self._filter(y, phase.conj())),
            left_inverse=lambda c: self._filter(_hartley(c), phase),
        )


class MotionBlur(Blur):
    """Blur by the trace of a shaken camera, another for every sample; circular boundary.

    Args:
        seeds: one per sample.
        size: side of the kernel's window in pixels.
        intensity: from 0, a straight line, to 1, an erratic scribble.
        cut: frequencies with |ĥ| of less are zero, in the measurement as well.
    """

    def __init__(
        self,
        seeds: Seeds,
        size: int = 61,
        intensity: float = 0.5,
        cut: float = CUT,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            motion_kernels(seeds, size, intensity, dtype=torch.float64, device=device), cut
        )


def _hartley(x: Tensor) -> Tensor:
    """Discrete Hartley transform over the last two dimensions: orthogonal and its own inverse."""
    c = torch.fft.fft2(x, norm="ortho")
    return c.real - c.imag
