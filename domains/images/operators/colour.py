r"""Colourisation: a grey image is the mean of the channels, y = (1/C) Σ_c x_c.

At every pixel H = w^T with w = (1, ..., 1)/C; its one singular value is 1/√C, and V is the
orthonormal cosine basis over channels, whose first vector is the constant one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images, check_positive_integer
from ctrlgen.operators.base import LinearOperator, Spectrum

__all__ = ["Colourise"]


class Colourise(LinearOperator):
    """Mean over channels: (B, C, H, W) to (B, 1, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int = 3) -> None:
        check_positive_integer(channels, "channels")
        self.channels = channels

    def _check(self, x: Tensor, name: str, channels: int) -> None:
        check_images(x, name)
        if x.shape[1] != channels:
            raise ValueError(f"{name}: expected {channels} channels, got shape {tuple(x.shape)}")

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x, "x", self.channels)
        return x.mean(dim=1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.channels

    def pinv(self, y: Tensor) -> Tensor:
        self._check(y, "y", 1)
        return y.expand(-1, self.channels, -1, -1)

    def project(self, x: Tensor) -> Tensor:
        return self.pinv(self(x))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (self.channels, *y.shape[2:])

    def spectrum(self, x: Tensor) -> Spectrum:
        self._check(x, "x", self.channels)
        c = self.channels
        index = torch.arange(c, dtype=torch.float64, device=x.device)
        basis = torch.cos(math.pi * index[:, None] * (index + 0.5) / c) * math.sqrt(2 / c)
        basis[0] = 1 / math.sqrt(c)
        v = basis.to(x.dtype)
        values = torch.zeros(c, dtype=x.dtype, device=x.device)
        values[0] = 1 / math.sqrt(c)
        nothing = (0, 0, 0, 0, 0, c - 1)  # y has the first coordinate only
        return Spectrum(
            values[:, None, None].expand(1, -1, *x.shape[2:]),
            right=lambda x: torch.einsum("kc,bchw->bkhw", v, x),
            right_inverse=lambda k: torch.einsum("kc,bkhw->bchw", v, k),
            left=lambda y: torch.nn.functional.pad(y, nothing),
            left_inverse=lambda k: k[:, :1],
        )
