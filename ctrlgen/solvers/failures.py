"""Where a solve that ended in something that is no number left the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.rows.batching import flat
from ctrlgen.solvers.fixed import FixedStep

__all__ = ["Failure", "failures"]


class Failure(NamedTuple):
    """The first step after which a row is not finite.

    Attributes:
        row: of the batch.
        step: counted from 1; 0 for a source point that is not finite itself.
        time: at the end of that step.
    """

    row: int
    step: int
    time: float


def failures(
    solver: FixedStep, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor
) -> list[Failure]:
    """The rows of a solve from t = 0 to 1 that do not stay finite, by solving once more.

    Args:
        solver: of the solve.
        velocity: u(x, t), x (B, *), t (B,).
        x: states at t = 0, shape (B, *).
    """
    alive = flat(x).isfinite().all(1)
    lost = [Failure(row, 0, 0.0) for row in (~alive).nonzero().flatten().tolist()]
    with torch.no_grad():
        for step, (t, h) in enumerate(solver._clock(x, 0.0, 1.0), 1):
            x = solver.step(velocity, x, t, h)
            now = flat(x).isfinite().all(1)
            gone = (alive & ~now).nonzero().flatten().tolist()
            lost += [Failure(row, step, float((t + h)[row])) for row in gone]
            alive &= now
            if not bool(alive.any()):
                break
    return sorted(lost)
