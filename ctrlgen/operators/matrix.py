r"""The linear operator of a matrix, for signals that are vectors:

    y = Hx,    H = U diag(s) V^T,

with the decomposition by LAPACK. Coordinates are as many as the longer side of H has; those that
the shorter side lacks are zero, and so are singular values that are rounding, below max(m, d) ε of
the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.checks import check_precision
from ctrlgen.rows.constants import follow

__all__ = ["Matrix"]


class Matrix(LinearOperator):
    """y = Hx for signals (B, d) and measurements (B, m).

    Args:
        matrix: H, shape (m, d) where all samples share it, (B, m, d) where each has its own.

    Raises:
        ValueError: for another number of dimensions, or a matrix that is not floating point.
        TypeError: where a signal in half precision asks for the decomposition.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim not in (2, 3) or not matrix.is_floating_point():
            raise ValueError(
                "matrix: expected a floating point tensor of shape (m, d) or (B, m, d), got "
                f"{tuple(matrix.shape)}, {matrix.dtype}"
            )
        self.matrix = matrix if matrix.ndim == 3 else matrix.unsqueeze(0)
        self.per_sample = ("matrix",) if matrix.ndim == 3 else ()

    def __call__(self, x: Tensor) -> Tensor:
        return _times(follow(self.matrix, x, x.dtype), x)

    def adjoint(self, y: Tensor) -> Tensor:
        return _times(follow(self.matrix, y, y.dtype).mT, y)

    def spectrum(self, x: Tensor) -> Spectrum:
        check_precision(x=x)
        u, s, vt = torch.linalg.svd(follow(self.matrix, x, x.dtype), full_matrices=True)
        m, d = self.matrix.shape[1:]
        size = max(m, d)
        s = torch.where(s > size * torch.finfo(s.dtype).eps * s[:, :1], s, 0)
        return Spectrum(
            pad(s, (0, size - s.shape[1])),
            right=lambda v: pad(_times(vt, v), (0, size - d)),
            right_inverse=lambda c: _times(vt.mT, c[:, :d]),
            left=lambda y: pad(_times(u.mT, y), (0, size - m)),
            left_inverse=lambda c: _times(u, c[:, :m]),
        )

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (self.matrix.shape[2],)


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (B or 1, m, d) with vectors (B, d)."""
    return (matrix @ vectors.unsqueeze(2)).squeeze(2)
