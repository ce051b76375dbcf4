r"""Operators that keep pixels or hide them: denoising (H = I) and inpainting (H = diag(m)).

A mask m is True where a pixel is known. Hidden pixels are measured as zero, so that measurements
keep the image's shape and  H = H^T = H† = P = diag(m),  V = I, s = m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images, check_rows
from ctrlgen.domains.images.operators.strokes import free_form_mask
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.batching import rows_like
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import Seeds, uniform

__all__ = ["Denoise", "Inpainting"]

_RANDOM_MASK = 2**32 + 1  # stream of the random numbers that a mask consumes


def _same(x: Tensor) -> Tensor:
    return x


class Denoise(LinearOperator):
    """The identity, y = x: what is measured differs from the image by its noise alone."""

    task = "denoise"

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def project(self, x: Tensor) -> Tensor:
        return x

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(x.new_ones(()).expand(1, *x.shape[1:]), _same, _same, _same, _same)


class Inpainting(LinearOperator):
    """Known pixels stay, hidden ones become zero: y = m ⊙ x.

    Args:
        mask: what is kept (True or 1): shared by all samples, shape (H, W), (1, H, W) or
            (C, H, W), or one per sample, shape (B, 1, H, W) or (B, C, H, W).

    Raises:
        TypeError: where the mask is no tensor.
        ValueError: where it has another shape, values other than 0 and 1, or hides everything.
    """

    task = "inpaint"

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask: expected a tensor, got {type(mask).__name__}")
        if mask.ndim not in (2, 3, 4) or 0 in mask.shape:
            raise ValueError(
                "mask: expected shape (H, W), (1|C, H, W) or, per sample, (B, 1|C, H, W), "
                f"got {tuple(mask.shape)}"
            )
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise ValueError("mask: expected 1 where a pixel is kept and 0 where it is hidden")
        mask = mask.bool()
        if mask.ndim == 4:
            self.per_sample = ("mask",)
            rows = mask
        else:
            mask = mask if mask.ndim == 3 else mask.unsqueeze(0)
            rows = mask.unsqueeze(0)
        empty = (~rows.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            which = f" of samples {empty}" if mask.ndim == 4 else ""
            raise ValueError(f"mask: hides every pixel{which}; at least one must be kept (True)")
        self.mask = mask

    @classmethod
    def centre(cls, size: int | tuple[int, int], shape: Sequence[int]) -> Inpainting:
        """Hide a rectangle in the middle.

        Args:
            size: side of the hole in pixels, or (height, width). The paper of D-Flow hides
                40 x 40 of 128 x 128.
            shape: of one image, (C, H, W) or (H, W).
        """
        height, width = _plane(shape)
        hole = (size, size) if isinstance(size, int) else tuple(size)
        if not (len(hole) == 2 and 0 < hole[0] <= height and 0 < hole[1] <= width):
            raise ValueError(f"size: expected a hole that fits in {height}x{width}, got {size}")
        mask = torch.ones(1, height, width, dtype=torch.bool, device="cpu")
        top, left = (height - hole[0]) // 2, (width - hole[1]) // 2
        mask[:, top : top + hole[0], left : left + hole[1]] = False
        return cls(mask)

    @classmethod
    def random(
        cls,
        drop: float,
        shape: Sequence[int],
        seeds: Seeds,
        device: torch.device | str | None = None,
    ) -> Inpainting:
        """Hide each pixel with probability `drop`, all its channels together, another mask for
        every sample.

        Args:
            drop: probability in [0, 1).
            shape: of one image, (C, H, W) or (H, W).
            seeds: one per sample.
        """
        if not 0 <= drop < 1:
            raise ValueError(f"drop: expected a probability in [0, 1), got {drop}")
        draws = uniform(
            seeds, (1, *_plane(shape)), _RANDOM_MASK, dtype=torch.float64, device=device
        )
        return cls(draws >= drop)

    @classmethod
    def free_form(
        cls,
        shape: Sequence[int],
        seeds: Seeds,
        coverage: tuple[float, float] = (0.2, 0.3),
        device: torch.device | str | None = None,
    ) -> Inpainting:
        """Hide strokes of a brush, another drawing for every sample.

        Args:
            shape: of one image, (C, H, W) or (H, W).
            seeds: one per sample.
            coverage: least and greatest hidden fraction, in [0, 1).
        """
        return cls(free_form_mask(_plane(shape), seeds, coverage, device))

    def _mask_for(self, x: Tensor, name: str) -> Tensor:
        check_images(x, name)
        if self.per_sample:
            check_rows(x, self.mask.shape[0], name)
        channels, *plane = self.mask.shape[-3:]
        if tuple(x.shape[2:]) != tuple(plane) or channels not in (1, x.shape[1]):
            raise ValueError(
                f"{name}: the mask is of shape {tuple(self.mask.shape)}, "
                f"got images of shape {tuple(x.shape)}"
            )
        mask = follow(self.mask, x)
        return mask if mask.ndim == 4 else mask.unsqueeze(0)

    def __call__(self, x: Tensor) -> Tensor:
        # where, not a product: hidden pixels cannot leak, be they infinite
        return torch.where(self._mask_for(x, "x"), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.where(self._mask_for(y, "y"), y, 0)

    pinv = adjoint
    project = __call__

    def measured(self, y: Tensor) -> Tensor:
        mask = self._mask_for(y, "y")
        return mask.expand(y.shape).flatten(1).sum(1).to(y.dtype)

    def observed(self, y: Tensor) -> Tensor:
        return self(y)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        r2, n = rows_like(variance, residual), rows_like(noise, residual)
        return self.adjoint(residual) / (r2 + n**2)

    def spectrum(self, x: Tensor) -> Spectrum:
        mask = self._mask_for(x, "x")
        values = mask.to(x.dtype).expand(-1, *x.shape[1:])
        return Spectrum(values, _same, _same, self.adjoint, self.adjoint)


def _plane(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image's shape (C, H, W) or (H, W)."""
    if len(shape) not in (2, 3) or math.prod(shape) < 1:
        raise ValueError(f"shape: expected (C, H, W) or (H, W), got {tuple(shape)}")
    return int(shape[-2]), int(shape[-1])
