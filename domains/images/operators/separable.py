r"""Images filtered row by row and column by column: H = S_h ⊗ S_w, the same for every channel.

S is a 1-D filter with taps k, stride f, first tap o pixels beside the output's first pixel, and
a boundary rule that folds indices back into the line,

    (S x)_i = Σ_j k_j x[fold(f i + o + j)],       S = U diag(σ) V^T.

The singular values of H are the products σ_i σ_j, its coordinates V_h^T X V_w. One-dimensional
singular values below a cut are zero in S itself (DDRM cuts at 3e-2, Kawar et al., arXiv
2201.11793), hence in H, H^T, H† and P alike. Matrices are factorised once per image size, dtype
and device, in float64 on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.images.operators.checks import check_images
from ctrlgen.operators.base import LinearOperator, Spectrum
from ctrlgen.rows.constants import follow

__all__ = ["CUT", "Line", "Separable"]

CUT = 3e-2


@dataclass(frozen=True)
class Line:
    """A 1-D filter.

    Attributes:
        taps: weights k.
        offset: o, index of the first tap's pixel relative to the output's first pixel.
        stride: f, pixels from one output to the next.
        boundary: "zero" outside, "reflect" (the edge pixel is not repeated) or "circular".
    """

    taps: tuple[float, ...]
    offset: int
    stride: int
    boundary: str

    def matrix(self, size: int) -> np.ndarray:
        """S, shape (size / stride, size), float64."""
        outputs = size // self.stride
        pixel = self.stride * np.arange(outputs)[:, None] + self.offset + np.arange(len(self.taps))
        weight = np.broadcast_to(np.array(self.taps, dtype=np.float64), pixel.shape)
        if self.boundary == "circular":
            pixel = pixel % size
        elif self.boundary == "reflect":
            period = max(2 * (size - 1), 1)
            pixel = pixel % period
            pixel = np.where(pixel < size, pixel, period - pixel)
        else:
            inside = (pixel >= 0) & (pixel < size)
            pixel, weight = np.where(inside, pixel, 0), np.where(inside, weight, 0.0)
        matrix = np.zeros((outputs, size))
        np.add.at(matrix, (np.arange(outputs)[:, None], pixel), weight)
        return matrix


class _Factors(NamedTuple):
    """S with its small singular values cut, and what belongs to it; m = size / stride, n = size."""

    forward: Tensor  # S, (m, n)
    inverse: Tensor  # S†, (n, m)
    projector: Tensor  # S†S, (n, n)
    values: Tensor  # σ, zero where cut or where S has no rows, (n,)
    right: Tensor  # V^T, (n, n)
    left: Tensor  # U^T, zero where σ is, (n, m)


@lru_cache(maxsize=64)
def _factorise(line: Line, size: int, cut: float) -> tuple[np.ndarray, ...]:
    u, s, vt = np.linalg.svd(line.matrix(size))
    seen = s >= max(cut, size * np.finfo(np.float64).eps * s.max())
    s = np.where(seen, s, 0.0)
    m = len(s)
    inverse = np.where(seen, 1 / np.where(seen, s, 1), 0)
    values, left = np.zeros(size), np.zeros((size, m))
    values[:m], left[:m] = s, seen[:, None] * u.T
    return (
        (u * s) @ vt[:m],
        (vt[:m].T * inverse) @ u.T,
        (vt[:m].T * seen) @ vt[:m],
        values,
        vt,
        left,
    )


@lru_cache(maxsize=64)
def _arrays(line: Line, size: int, cut: float) -> tuple[Tensor, ...]:
    # Outside of inference mode, or a matrix first needed there could serve no gradient later.
    with torch.inference_mode(False):
        return tuple(map(torch.from_numpy, _factorise(line, size, cut)))


def _factors(line: Line, size: int, cut: float, x: Tensor) -> _Factors:
    """In the dtype of x and where it is."""
    return _Factors(*(follow(array, x) for array in _arrays(line, size, cut)))


def _both(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows X columns^T for every channel of every image."""
    return rows @ x @ columns.mT


class Separable(LinearOperator):
    """The linear operator S_h ⊗ S_w of one line filter, on images whose sides its stride divides.

    Args:
        line: the filter S.
        cut: 1-D singular values of less are zero, in the measurement as well.
    """

    def __init__(self, line: Line, cut: float = CUT) -> None:
        if not 0 <= cut < 1:
            raise ValueError(f"cut: expected a singular value in [0, 1), got {cut}")
        self.line, self.cut = line, float(cut)

    def _of(self, x: Tensor, name: str, scale: int) -> tuple[_Factors, _Factors]:
        """Factors of the columns (along H) and rows (along W) of images `scale` times x's size."""
        check_images(x, name)
        stride = self.line.stride
        height, width = x.shape[2] * scale, x.shape[3] * scale
        if height % stride or width % stride:
            raise ValueError(
                f"{name}: expected height and width divisible by the factor {stride}, "
                f"got {height}x{width}"
            )
        return (
            _factors(self.line, height, self.cut, x),
            _factors(self.line, width, self.cut, x),
        )

    def __call__(self, x: Tensor) -> Tensor:
        h, w = self._of(x, "x", 1)
        return _both(h.forward, x, w.forward)

    def adjoint(self, y: Tensor) -> Tensor:
        h, w = self._of(y, "y", self.line.stride)
        return _both(h.forward.mT, y, w.forward.mT)

    def pinv(self, y: Tensor) -> Tensor:
        h, w = self._of(y, "y", self.line.stride)
        return _both(h.inverse, y, w.inverse)

    def project(self, x: Tensor) -> Tensor:
        h, w = self._of(x, "x", 1)
        return _both(h.projector, x, w.projector)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (y.shape[1], y.shape[2] * self.line.stride, y.shape[3] * self.line.stride)

    def spectrum(self, x: Tensor) -> Spectrum:
        h, w = self._of(x, "x", 1)
        values = (h.values[:, None] * w.values).expand(1, x.shape[1], -1, -1)
        return Spectrum(
            values,
            right=lambda x: _both(h.right, x, w.right),
            right_inverse=lambda c: _both(h.right.mT, c, w.right.mT),
            left=lambda y: _both(h.left, y, w.left),
            left_inverse=lambda c: _both(h.left.mT, c, w.left.mT),
        )
