"""Where a solve that ended in something that is no number left the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctrlgen.rows.batching import flat
from ctrlgen.solvers.fixed import FixedStep

__all__ = ["Failure", "failures", "lost_seeds", "lost_text"]


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


def lost_seeds(
    solver: FixedStep,
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    seeds: Sequence[int],
    good: Tensor,
) -> list[dict[str, Any]]:
    """Seeds of samples that are no numbers, each with the step and the time at which they arose.

    Args:
        solver, velocity, x: of the solve, see `failures`.
        seeds: of the rows.
        good: rows whose samples are finite, bool, shape (B,).

    Returns:
        One {"seed", "step", "time"} for each other row; step and time are None where the states
        stayed finite and what is made of them is not.
    """
    first = {failure.row: failure for failure in failures(solver, velocity, x)}
    rows = (~good).nonzero().flatten().tolist()
    return [
        {
            "seed": seeds[row],
            "step": first[row].step if row in first else None,
            "time": first[row].time if row in first else None,
        }
        for row in rows
    ]


def lost_text(lost: Sequence[dict[str, Any]], steps: int) -> str:
    """What `lost_seeds` found, in words: the first step of all, and the first few seeds."""
    first = min(lost, key=lambda item: (item.get("step") is None, item.get("step") or 0))
    names = ", ".join(str(item["seed"]) for item in lost[:8]) + (", ..." if len(lost) > 8 else "")
    where = "in the codec" if "step" in first else "on the way"
    if first.get("step") is not None:
        where = f"from step {first['step']} of {steps} (t = {first['time']:.3g}) on"
    return f"its network gives what is no number {where}; seeds {names}"
