r"""Linear systems of many samples at once, by products with their matrix alone.

    A x = b,   A symmetric and positive semidefinite, b in its range

Conjugate gradients (Hestenes & Stiefel 1952): one step length per sample, and its own tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.rows.batching import expand_like, row_sum

__all__ = ["conjugate_gradients"]

TOLERANCE, ITERATIONS = 1e-6, 500
"""Of conjugate gradients: residual relative to the right hand side, and how many at most."""


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    target: Tensor,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Tensor:
    """The solution of  A x = b  for every sample, A symmetric and positive semidefinite.

    Args:
        apply: A of states (B, *), row by row.
        target: b, in the range of A, shape (B, *).
        tolerance: a row stops once ‖Ax − b‖ is at most this times ‖b‖.
        iterations: at most; a row that has not converged by then is NaN, so that no wrong solution
            passes for one.
    """
    goal = tolerance**2 * row_sum(target**2)
    solution, direction, rest = torch.zeros_like(target), target, target
    square = row_sum(rest**2)
    for _ in range(iterations):
        working = square > goal
        if not bool(working.any()):
            break
        image = apply(direction)
        curvature = row_sum(direction * image)
        # A row that has converged stands still, whatever its neighbours do.
        step = torch.where(working, square / torch.where(working, curvature, 1), 0)
        solution = solution + expand_like(step, target) * direction
        rest = rest - expand_like(step, target) * image
        before, square = square, row_sum(rest**2)
        ratio = torch.where(working, square / torch.where(working, before, 1), 0)
        direction = rest + expand_like(ratio, target) * direction
    return torch.where(expand_like(square <= goal, target), solution, torch.nan)
