"""Secants of a residual: moves of a point and what they did to it, made orthogonal as they come.

With s_i the moves and q_i = r(x + s_i) − r(x) their images, Gram and Schmidt's steps on the images,
done to the moves alike, keep QᵀQ = 1, so that −S Qᵀ r is the least-squares step in the span of the
moves (Fang & Saad, Numer. Linear Algebra Appl. 16, 2009).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.rows.batching import row_sum

__all__ = ["Secants"]

_DEPENDENT = 1e-3
"""Share of a secant's image that is new, below which it says nothing."""


class Secants:
    """Moves s_i (b, d) and their images q_i (b, m), orthonormal; zero where they say nothing."""

    def __init__(self, memory: int) -> None:
        self.memory, self.pairs = memory, list[tuple[Tensor, Tensor]]()

    def add(self, move: Tensor, image: Tensor) -> None:
        """Another pair, made orthogonal to the others by Gram and Schmidt; the oldest may go."""
        self.pairs = self.pairs[-self.memory + 1 :] if self.memory > 1 else []
        whole = torch.linalg.vector_norm(image, dim=1)
        back, image = self.solved(image)
        move = move - back
        length = torch.linalg.vector_norm(image, dim=1)
        new = (length > _DEPENDENT * whole) & move.isfinite().all(1)
        scale = torch.where(new, length, 1)[:, None]
        zero = move.new_zeros(())
        move, image = (torch.where(new[:, None], v / scale, zero) for v in (move, image))
        self.pairs.append((move, image))

    def solved(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """S Qᵀ r, shape (b, d), and what is left, (I − QQᵀ) r, of residuals r (b, m)."""
        back: Tensor | None = None
        for s, q in self.pairs:
            share = row_sum(q * residual)[:, None]
            residual, part = residual - share * q, share * s
            back = part if back is None else back + part
        return (residual.new_zeros(()) if back is None else back), residual

    def take(self, index: Tensor) -> None:
        self.pairs = [(s[index], q[index]) for s, q in self.pairs]
