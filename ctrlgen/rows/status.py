"""How a sample ended.

Nothing disappears: every sample carries a status, and one that failed is returned with its last
finite state instead of being dropped.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from ctrlgen.rows.constants import numbers

__all__ = ["Status", "ended_well"]


class Status(IntEnum):
    """Why a sample stopped. Stored as int64 in tensors of shape (B,).

    Attributes:
        RUNNING: at work; in a result, of a run that was cut off.
        CONVERGED_GRADIENT: a stationary point, its gradient is below tolerance.
        CONVERGED_CHANGE: the objective no longer changes.
        TARGET: its cost reached the target of the method.
        MAX_ITERATIONS: the budget of iterations is spent.
        MAX_EVALUATIONS: the budget of evaluations is spent.
        LINE_SEARCH: no lower point along the search direction.
        DIVERGED: value or gradient not finite; it holds its last finite state.
        FINISHED: all steps of a method without a stopping test are taken.
        STEADY: stopped early, its iterates were steadiest before.
        FAILED: something was raised for it, its cost for one; it holds its last finite state.
    """

    RUNNING = 0
    CONVERGED_GRADIENT = 1
    CONVERGED_CHANGE = 2
    TARGET = 3
    MAX_ITERATIONS = 4
    MAX_EVALUATIONS = 5
    LINE_SEARCH = 6
    DIVERGED = 7
    FINISHED = 8
    STEADY = 9
    FAILED = 10

    @property
    def label(self) -> str:
        """The status in words, for tables and reports."""
        return _LABELS[self]

    @property
    def converged(self) -> bool:
        """Whether the sample got what it was sent for: its target, or a stationary point."""
        return self in (Status.CONVERGED_GRADIENT, Status.CONVERGED_CHANGE, Status.TARGET)


def ended_well(status: Tensor) -> Tensor:
    """Which of some codes, any shape, mean a target or a stationary point; bool."""
    codes = tuple(int(code) for code in Status if code.converged)
    return torch.isin(status, numbers(codes, status))


_LABELS = {
    Status.RUNNING: "running",
    Status.CONVERGED_GRADIENT: "converged: gradient below tolerance",
    Status.CONVERGED_CHANGE: "converged: change below tolerance",
    Status.TARGET: "reached its target",
    Status.MAX_ITERATIONS: "stopped: iteration budget spent",
    Status.MAX_EVALUATIONS: "stopped: evaluation budget spent",
    Status.LINE_SEARCH: "stopped: no lower point along the search direction",
    Status.DIVERGED: "diverged: value or gradient not finite",
    Status.FINISHED: "finished: all steps taken",
    Status.STEADY: "stopped early: the iterates were steadiest before",
    Status.FAILED: "failed: an error was raised",
}
