"""Why a row stops: the rules of an optimizer on what a round has brought, the first that applies.

    DIVERGED            the method gave up there, or hardly moves at the edge of what is finite
    TARGET              the monitor of a point that may be returned is at the target
    (the reason of a row that was only to be projected before it leaves)
    CONVERGED_GRADIENT  |g|_∞ <= gradient_tolerance
    CONVERGED_CHANGE    |f − f'| <= tolerance max(1, |f|), or |x − x'|_∞ <= tolerance
    STEADY              early stopping has seen enough
    LINE_SEARCH         the method found no step
    MAX_ITERATIONS, MAX_EVALUATIONS

A change of the value that is smaller than its rounding says nothing of convergence by itself: the
gradient foretells it, and rounds in which no value is shown to fall add up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Optimizer
from ctrlgen.optimizers.linesearch import rounding_of
from ctrlgen.optimizers.points import Point
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.status import Status

__all__ = ["Stopping"]


class Stopping:
    """The rules, and what they remember of each running row.

    Args:
        rules: the optimizer that has them.
        first: the initial points.
    """

    def __init__(self, rules: Optimizer, first: Point) -> None:
        self.rules = rules
        self._shown, self._hidden = first.value, torch.zeros_like(first.value)

    def judge(
        self,
        previous: Point,
        at: Point,
        *,
        accepted: Tensor,
        moved: Tensor,
        met: Tensor,
        failure: Tensor,
        reason: Tensor,
        clock: Tensor,
        spent: Tensor,
        steady: Tensor | None,
        edge: Tensor | None,
    ) -> Tensor:
        """Status of each running row, RUNNING where none of the rules applies.

        Args:
            previous: where the rows were.
            at: where they are.
            accepted: rows that complete an iteration; this and what follows of shape (b,).
            moved: these, and rows that arrived from outside of the method.
            met: rows on target.
            failure: `Status` of rows on which the method gives up.
            reason: why a row leaves that was projected for that.
            clock: iterations.
            spent: rows without objective calls.
            steady: what early stopping says; None without.
            edge: rows that what is not finite keeps from moving; None for a method without.
        """
        rules, tolerance = self.rules, self.rules.change_tolerance
        verdicts: list[tuple[Tensor, Tensor | Status]] = [
            (failure == Status.DIVERGED, Status.DIVERGED),
            (met, Status.TARGET),
            (reason != Status.RUNNING, reason),
            (moved & (at.gradient_norm <= rules.gradient_tolerance), Status.CONVERGED_GRADIENT),
        ]
        if tolerance > 0:
            step = torch.linalg.vector_norm(at.x - previous.x, torch.inf, dim=1)
            still = self._change(accepted, previous, at) <= tolerance * at.value.abs().clamp_min(1)
            still = accepted & (still | (step <= tolerance))
            if edge is not None:
                verdicts.append((still & edge, Status.DIVERGED))
            verdicts.append((still, Status.CONVERGED_CHANGE))
        if steady is not None:
            verdicts.append((steady, Status.STEADY))
        verdicts += [
            (failure == Status.LINE_SEARCH, Status.LINE_SEARCH),
            (moved & (clock >= rules.max_iterations), Status.MAX_ITERATIONS),
        ]
        if rules.max_evaluations is not None:
            verdicts.append((spent, Status.MAX_EVALUATIONS))
        status = torch.zeros_like(failure)
        for holds, code in verdicts:
            status = torch.where((status == Status.RUNNING) & holds, code, status)
        return status

    def keep(self, kept: Tensor) -> None:
        """Go on with the rows at these positions, int64."""
        self._shown, self._hidden = self._shown[kept], self._hidden[kept]

    def _change(self, accepted: Tensor, previous: Point, at: Point) -> Tensor:
        """By how much the value of each running row has changed, shape (b,); see `Optimizer`."""
        rounding = rounding_of(previous.value)
        change = (at.value - previous.value).abs()
        foretold = 0.5 * row_sum((at.gradient + previous.gradient) * (at.x - previous.x)).abs()
        change = torch.where(change > rounding, change, foretold.minimum(rounding))
        shown = self._shown - at.value > rounding
        self._shown = torch.where(shown, at.value, self._shown)
        hidden = torch.where(accepted, self._hidden + change, self._hidden)
        self._hidden = hidden.masked_fill(shown, 0)
        return change.masked_fill(self._hidden > 4 * rounding, 0)
