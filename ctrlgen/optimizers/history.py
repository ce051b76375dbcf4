"""The limited memory of L-BFGS, one per row: curvature pairs and the two-loop recursion.

A row remembers its last m pairs s_k = x_{k+1} - x_k, y_k = g_{k+1} - g_k. They define an inverse
Hessian H without forming it: H_0 = gamma I with gamma = s'y / y'y of the newest pair, and for each
pair, from the oldest to the newest, with rho_k = 1 / (y_k's_k),

    H <- (I - rho_k s_k y_k') H (I - rho_k y_k s_k') + rho_k s_k s_k'

The product -H g takes two passes over the pairs (Nocedal & Wright 2006, Algorithm 7.4). A pair
is only stored where s'y > 0 beyond rounding, which keeps H positive definite.

A pair with rho = 0 changes nothing in either pass. Rows with fewer pairs than their neighbours
need no other treatment: their empty slots have rho = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.batching import row_sum, take

__all__ = ["CurvatureMemory"]


class CurvatureMemory:
    """Curvature pairs of b rows of d unknowns: two tensors of shape (slots, b, d).

    Slots are allocated as rows fill them (doubling, up to `capacity`); each row then overwrites
    its oldest pair.

    Args:
        like: tensor of shape (b, d), for the sizes, the dtype and the device.
        capacity: pairs to remember per row, >= 1.

    Attributes:
        pushed: pairs stored since the row last forgot, int64 of shape (b,).
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        self.capacity = capacity
        self.s = like.new_zeros(0, *like.shape)
        self.y = like.new_zeros(0, *like.shape)
        self.rho = like.new_zeros(0, len(like))
        self.gamma = like.new_ones(len(like))
        self.pushed = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def take(self, index: Tensor) -> None:
        """Keep the memories of the rows `index` only."""
        self.s, self.y, self.rho = (full[:, index] for full in (self.s, self.y, self.rho))
        self.gamma, self.pushed = take(self.gamma, index), take(self.pushed, index)

    def forget(self, rows: Tensor) -> None:
        """Empty the memories of the rows of a mask, shape (b,)."""
        self.rho = self.rho.masked_fill(rows, 0)
        self.gamma = self.gamma.masked_fill(rows, 1)
        self.pushed = self.pushed.masked_fill(rows, 0)

    def push(self, rows: Tensor, s: Tensor, y: Tensor, descent: Tensor, most: int) -> None:
        """Remember one more pair in the rows of a mask.

        Args:
            rows: which, bool of shape (b,).
            s: change of the iterate, shape (b, d).
            y: change of the gradient, shape (b, d).
            descent: -s'g at the old iterate, the curvature's yardstick, shape (b,).
            most: an upper bound of `pushed` over all rows, known to the host.
        """
        self._grow(most)
        sy, yy = row_sum(s * y), row_sum(y * y)
        rho, gamma = 1 / sy, sy / yy
        rows = rows & (sy > torch.finfo(s.dtype).eps * descent) & rho.isfinite() & (gamma > 0)
        rows = rows & gamma.isfinite()
        place = self.pushed % self.capacity, torch.arange(len(rows), device=rows.device)
        self.s[place] = torch.where(rows[:, None], s, self.s[place])
        self.y[place] = torch.where(rows[:, None], y, self.y[place])
        self.rho[place] = torch.where(rows, rho, self.rho[place])
        self.gamma = torch.where(rows, gamma, self.gamma)
        self.pushed = self.pushed + rows

    def direction(self, gradient: Tensor, most: int) -> Tensor:
        """-H g per row.

        Args:
            gradient: g, shape (b, d).
            most: an upper bound of `pushed` over all rows, known to the host.
        """
        ages = range(min(most, self.capacity))
        full = most > self.capacity
        q, alphas = -gradient, []
        for age in reversed(ages):  # from the newest pair to the oldest
            s, y, rho = self._pair(age, full)
            alpha = rho * row_sum(s * q)
            q = q.addcmul_(y, alpha[:, None], value=-1)
            alphas.append(alpha)
        q = q.mul_(self.gamma[:, None])
        for age in ages:
            s, y, rho = self._pair(age, full)
            beta = rho * row_sum(y * q)
            q = q.addcmul_(s, (alphas.pop() - beta)[:, None])
        return q

    def _pair(self, age: int, full: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The pair number `age` of every row, 0 being its oldest."""
        if not full:  # no row has begun to overwrite: slots are in order of age
            return self.s[age], self.y[age], self.rho[age]
        oldest = torch.where(self.pushed > self.capacity, self.pushed, 0)
        place = (oldest + age) % self.capacity, torch.arange(len(oldest), device=oldest.device)
        return self.s[place], self.y[place], self.rho[place]

    def _grow(self, most: int) -> None:
        slots = len(self.rho)
        if most < slots or slots == self.capacity:
            return
        more = min(max(slots, 4), self.capacity - slots)
        self.s, self.y, self.rho = (
            torch.cat([full, full.new_zeros(more, *full.shape[1:])])
            for full in (self.s, self.y, self.rho)
        )
