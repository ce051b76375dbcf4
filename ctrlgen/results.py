"""What a run returns: how each sample ended.

Nothing disappears: every sample carries a status, and a sample that failed is returned with its
last good state instead of being dropped.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """Why a sample stopped. Stored as int64 in tensors of shape (B,)."""

    RUNNING = 0
    CONVERGED_GRADIENT = 1
    CONVERGED_CHANGE = 2
    TARGET = 3
    MAX_ITERATIONS = 4
    MAX_EVALUATIONS = 5
    LINE_SEARCH = 6
    DIVERGED = 7

    @property
    def label(self) -> str:
        """The status in words, for tables and reports."""
        return _LABELS[self]

    @property
    def converged(self) -> bool:
        """Whether the sample got what it was sent for: its target, or a stationary point."""
        return self in (Status.CONVERGED_GRADIENT, Status.CONVERGED_CHANGE, Status.TARGET)


_LABELS = {
    Status.RUNNING: "running",
    Status.CONVERGED_GRADIENT: "converged: gradient below tolerance",
    Status.CONVERGED_CHANGE: "converged: change below tolerance",
    Status.TARGET: "reached its target",
    Status.MAX_ITERATIONS: "stopped: iteration budget spent",
    Status.MAX_EVALUATIONS: "stopped: evaluation budget spent",
    Status.LINE_SEARCH: "stopped: no lower point along the search direction",
    Status.DIVERGED: "diverged: value or gradient not finite",
}
