"""The limited memory of L-BFGS, one per row: curvature pairs and the two-loop recursion.

A row remembers its last m pairs s_k = x_{k+1} - x_k, y_k = g_{k+1} - g_k. They define an inverse
Hessian H without forming it: H_0 = gamma I with gamma = s'y / y'y of the newest pair, and for each
pair, from the oldest to the newest, with rho_k = 1 / (y_k's_k),

    H <- (I - rho_k s_k y_k') H (I - rho_k y_k s_k') + rho_k s_k s_k'

The product -H g takes two passes over the pairs (Nocedal & Wright 2006, Algorithm 7.4). A pair
is only stored where s'y > 0 beyond rounding, which keeps H positive definite.

Slot k holds the k-th oldest pair of every row; a row that is full shifts its pairs down by one
slot to make room. A pair with rho = 0 changes nothing in either pass, so that rows with fewer
pairs than their neighbours need no other treatment: their empty slots have rho = 0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ctrlgen.rows.batching import row_sum, take

__all__ = ["CurvatureMemory"]


class CurvatureMemory:
    """Curvature pairs of b rows of d unknowns: two tensors of shape (slots, b, d).

    Slots are allocated as rows fill them: doubling, up to `capacity`.

    Args:
        like: tensor of shape (b, d), for the sizes, the dtype and the device.
        capacity: pairs to remember per row, >= 1.

    Attributes:
        count: pairs that each row remembers, int64 of shape (b,).
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        self.capacity = capacity
        self.s = like.new_zeros(0, *like.shape)
        self.y = like.new_zeros(0, *like.shape)
        self.rho = like.new_zeros(0, len(like))
        self.gamma = like.new_ones(len(like))
        self.count = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def take(self, index: Tensor) -> None:
        """Keep the memories of the rows `index` only."""
        self.s, self.y, self.rho = (full[:, index] for full in (self.s, self.y, self.rho))
        self.gamma, self.count = take(self.gamma, index), take(self.count, index)

    def forget(self, rows: Tensor) -> None:
        """Empty the memories of the rows of a mask, shape (b,)."""
        self.rho = self.rho.masked_fill(rows, 0)
        self.gamma = self.gamma.masked_fill(rows, 1)
        self.count = self.count.masked_fill(rows, 0)

    def push(self, rows: Tensor, s: Tensor, y: Tensor, descent: Tensor, most: int) -> None:
        """Remember one more pair in the rows of a mask.

        Args:
            rows: which, bool of shape (b,).
            s: change of the iterate, shape (b, d).
            y: change of the gradient, shape (b, d).
            descent: -s'g at the old iterate, the curvature's yardstick, shape (b,).
            most: an upper bound of `count` over all rows, known to the host.
        """
        sy, yy = row_sum(s * y), row_sum(y * y)
        rho, gamma = 1 / sy, sy / yy
        curved = (sy > torch.finfo(s.dtype).eps * descent) & (gamma > 0)
        rows = rows & curved & rho.isfinite() & gamma.isfinite()

        if most == self.capacity:
            self._shift(rows & (self.count == self.capacity))
        elif most == len(self.rho):
            self._grow()
        slot = self.count.clamp_max(self.capacity - 1)
        place = slot, torch.arange(len(rows), device=rows.device)
        self.s[place] = torch.where(rows[:, None], s, self.s[place])
        self.y[place] = torch.where(rows[:, None], y, self.y[place])
        self.rho[place] = torch.where(rows, rho, self.rho[place])
        self.gamma = torch.where(rows, gamma, self.gamma)
        self.count = (self.count + rows).clamp_max(self.capacity)

    def direction(self, gradient: Tensor, most: int) -> Tensor:
        """-H g per row.

        Args:
            gradient: g, shape (b, d).
            most: an upper bound of `count` over all rows, known to the host.
        """
        pairs = [*zip(self.s[:most], self.y[:most], self.rho[:most], strict=True)]
        q, alphas = -gradient, []
        for s, y, rho in reversed(pairs):  # from the newest pair to the oldest
            alpha = rho * row_sum(s * q)
            q.addcmul_(y, alpha[:, None], value=-1)
            alphas.append(alpha)
        q.mul_(self.gamma[:, None])
        for s, y, rho in pairs:
            beta = rho * row_sum(y * q)
            q.addcmul_(s, (alphas.pop() - beta)[:, None])
        return q

    def _shift(self, rows: Tensor) -> None:
        """Drop the oldest pair in the rows of a mask, shape (b,)."""
        for full in (self.s, self.y, self.rho):
            mask = rows.reshape(-1, *(1,) * (full.ndim - 2))
            for older, newer in pairwise(full):
                torch.where(mask, newer, older, out=older)

    def _grow(self) -> None:
        slots = len(self.rho)
        more = min(max(slots, 4), self.capacity - slots)
        self.s, self.y, self.rho = (
            torch.cat([full, full.new_zeros(more, *full.shape[1:])])
            for full in (self.s, self.y, self.rho)
        )
