r"""A Gaussian process on what was scored, for every sample its own, all samples at once.

    f ~ GP(μ, s² k),    k(x, x') = exp(−‖x − x'‖²/(2ℓ²)),    y = f(x) + s √ν ε
    mean(x) = μ + s k(x, X) α,    α = (K + νI)^{-1} (y − μ)/s

μ and s are mean and standard deviation of the values. Length ℓ and noise ν are the ones of a few
whose marginal likelihood is greatest (Rasmussen and Williams, Gaussian processes for machine
learning, 2006, eqs 2.23 and 2.30); lengths are multiples of the root mean square distance of the
points. What has no value stands in the table with a noise that lets it say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GaussianProcess"]

LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (1e-6, 1e-3, 1e-1)
_UNKNOWN = 1e8  # noise of what has no value


class GaussianProcess(NamedTuple):
    """The posterior means of m functions of B samples.

    Attributes:
        points: X, float64, shape (B, n, d).
        alpha: α, shape (B, n, m).
        length: ℓ, shape (B,).
        mean, scale: μ and s, shape (B, 1, m).
    """

    points: Tensor
    alpha: Tensor
    length: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, points: Tensor, values: Tensor) -> GaussianProcess:
        """From points (B, n, d) and values (B, n, m); a row that is not finite has none."""
        points, values = points.double(), values.double()
        there = values.isfinite().all(2, keepdim=True)
        count = there.sum(1, keepdim=True).clamp_min(1)
        values = torch.where(there, values, 0)
        mean = values.sum(1, keepdim=True) / count
        centred = torch.where(there, values - mean, 0)
        scale = (centred.square().sum(1, keepdim=True) / count).sqrt()
        scale = torch.where(scale > 0, scale, 1)
        y = centred / scale
        squares = _squares(points, points)
        pairs = there * there.mT
        apart = (squares * pairs).sum((1, 2)) / (pairs.sum((1, 2)) - count.flatten()).clamp_min(1)
        apart = apart.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        unknown = torch.where(there.squeeze(2), 0, _UNKNOWN)
        fits = [
            _fitted(squares, y, unknown, multiple * apart, noise)
            for multiple in LENGTHS
            for noise in NOISES
        ]
        evidence = torch.stack([one[0] for one in fits], 1)
        best = evidence.nan_to_num(nan=-torch.inf).argmax(1)
        each = torch.arange(len(best), device=best.device)
        alpha = torch.stack([one[1] for one in fits], 1)[each, best]
        length = torch.stack([one[2] for one in fits], 1)[each, best]
        return cls(points, alpha, length, mean, scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Means (B, q, m) at x (B, q, d), float64, differentiable in x."""
        kernel = _kernel(_squares(x.double(), self.points), self.length)
        return self.mean + self.scale * (kernel @ self.alpha)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖², shape (B, n, m)."""
    inner = a @ b.mT
    return (a.square().sum(2).unsqueeze(2) + b.square().sum(2).unsqueeze(1) - 2 * inner).clamp_min(
        0
    )


def _kernel(squares: Tensor, length: Tensor) -> Tensor:
    return torch.exp(-squares / (2 * length.square().reshape(-1, 1, 1)))


def _fitted(
    squares: Tensor, y: Tensor, unknown: Tensor, length: Tensor, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log marginal likelihood (B,), but for a constant, α (B, n, m) and the length (B,)."""
    gram = _kernel(squares, length) + torch.diag_embed(unknown + noise)
    root, _ = torch.linalg.cholesky_ex(gram)
    alpha = torch.cholesky_solve(y, root)
    diagonal = root.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * (y * alpha).sum((1, 2)) - y.shape[2] * diagonal, alpha, length
