"""Per-sample batched L-BFGS: B independent limited-memory BFGS minimisations in one batch.

Every row follows Nocedal & Wright, Numerical Optimization, 2nd ed. 2006, Algorithm 7.5:

    p_k = -H_k g_k                        two-loop recursion over its last m pairs   (history.py)
    x_{k+1} = x_k + t_k p_k               its own strong-Wolfe step                  (linesearch.py)
    s_k = x_{k+1} - x_k, y_k = g_{k+1} - g_k join its memory

The first step of a row without memory is t = min(1, 1 / |g|_1), or one of a given length, t = l /
|g|_2; all others start at t = 1.

Rows do not wait for each other. A round evaluates the objective once on all running rows, each at
its own trial point: one row may be bracketing its third step while another, twenty iterations
further, tries the first point of a new one. A batch thus costs as many objective calls as its
slowest row needs on its own, and each row as many evaluations as it needs alone. On the device a
round costs 4 m multiply-adds of (b, d) tensors for the recursion; the memory holds 2 m of them.

A search that finds no lower point is repeated once along -g with an empty memory; should this
fail as well, the row ends with LINE_SEARCH. A search that meets only values or gradients that are
not finite, although it shrinks its step to 1e-10, ends the row with DIVERGED. Either way the row
keeps its best iterate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctrlgen.optimizers.base import Objective, Observer, Optimizer, Projection, Solution
from ctrlgen.optimizers.history import CurvatureMemory
from ctrlgen.optimizers.linesearch import WolfeSearch
from ctrlgen.optimizers.workingset import WorkingSet
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.status import Status

__all__ = ["LBFGS"]


@dataclass(frozen=True, kw_only=True)
class LBFGS(Optimizer):
    """Per-sample L-BFGS with strong-Wolfe line searches.

    A row stops at its target as soon as any trial point reaches it with a sufficient decrease of
    the value; it does not finish its line search first.

    Args:
        history: curvature pairs each row remembers, >= 1. Memory grows as pairs come in, up to
            2 * history tensors of the size of x.
        learning_rate: first step of each line search in units of the quasi-Newton step, > 0.
        first_step: l, Euclidean length of the first step of a row without memory, > 0; None for the
            cautious 1 / |g|_1, which costs a search of many evaluations where x is large.
        c1: sufficient decrease constant, 0 < c1 < c2.
        c2: curvature constant, c1 < c2 < 1.
        max_line_search: evaluations per line search, >= 1.

    The stopping rules are those of `Optimizer`.
    """

    history: int = 100
    learning_rate: float = 1.0
    first_step: float | None = None
    c1: float = 1e-4
    c2: float = 0.9
    max_line_search: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.c1 < self.c2 < 1:
            raise ValueError(f"c1, c2: expected 0 < c1 < c2 < 1, got c1={self.c1}, c2={self.c2}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if self.first_step is not None and not self.first_step > 0:
            raise ValueError(f"first_step: expected a positive number, got {self.first_step}")
        for name in ("history", "max_line_search"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def minimize(
        self,
        objective: Objective,
        x0: Tensor,
        *,
        target: float | Tensor | None = None,
        observer: Observer | None = None,
        projection: Projection | None = None,
    ) -> Solution:
        work = WorkingSet(
            self, objective, x0, target=target, observer=observer, projection=projection
        )
        low, direction = work.at, torch.zeros_like(work.at.x)
        memory = CurvatureMemory(work.at.x, self.history)
        search = WolfeSearch(work.at.value, self.c1, self.c2, self.max_line_search)
        fresh, starting, pairs = torch.ones_like(work.returning), work.active, 0

        while work.active:
            if starting:
                direction = self._aim(fresh, direction, work, memory, search, pairs)
                low = low.where(fresh, work.at)
            new = work.evaluate(torch.addcmul(work.at.x, direction, search.step[:, None]))
            slope = row_sum(new.gradient * direction)
            verdict = search.update(new.value, slope, work.reached(new))
            low = low.where(verdict.lower, new)

            searching = ~work.returning
            over = (verdict.over | (work.spent & ~verdict.found)) & searching
            accepted = (verdict.found & searching) | (over & (search.low.value < work.at.value))
            stuck = over & ~accepted & ~work.spent
            again = stuck & ~search.failing & (memory.count > 0)
            failure = torch.where(search.failing, int(Status.DIVERGED), int(Status.LINE_SEARCH))
            failure = failure.masked_fill(again | ~stuck, Status.RUNNING)

            memory.push(
                accepted,
                s=low.x - work.at.x,
                y=low.gradient - work.at.gradient,
                descent=-search.low.step * search.start.slope,
                most=pairs,
            )
            edge = over & search.failing
            round = work.close(accepted, low, failure, restart=again, watch=memory.count, edge=edge)
            if round.kept is not None:
                low, direction = low.take(round.kept), direction[round.kept]
                memory.take(round.kept)
                search.take(round.kept)
            memory.forget(round.restarted)
            fresh, starting, pairs = round.fresh, round.starting, round.watched
        return work.solution()

    def _aim(
        self,
        fresh: Tensor,
        direction: Tensor,
        work: WorkingSet,
        memory: CurvatureMemory,
        search: WolfeSearch,
        pairs: int,
    ) -> Tensor:
        """Give the `fresh` rows a new direction and begin their line searches."""
        x, gradient = work.at.x, work.at.gradient
        newton = memory.direction(gradient, pairs)
        slope = row_sum(newton * gradient)
        uphill = fresh & ~(slope.isfinite() & (slope < 0))
        memory.forget(uphill)
        newton = torch.where(uphill[:, None], -gradient, newton)
        slope = torch.where(uphill, -row_sum(gradient * gradient), slope)
        direction = torch.where(fresh[:, None], newton, direction)

        if self.first_step is None:
            cautious = row_sum(gradient.abs()).reciprocal().clamp_max(1)
        else:
            cautious = self.first_step * row_sum(gradient.square()).rsqrt()
        step = self.learning_rate * torch.where(memory.count == 0, cautious, 1)
        # No search goes on over an interval in which x cannot change.
        resolution = torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x, torch.inf, dim=1)
        reach = torch.linalg.vector_norm(direction, torch.inf, dim=1)
        least = resolution.clamp_min(self.change_tolerance) / reach
        search.begin(fresh, work.at.value, slope, step, least)
        return direction
