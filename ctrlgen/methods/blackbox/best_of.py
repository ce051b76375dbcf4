r"""The best of n draws of each sample, by successive halving over the steps of the solver.

    n draws ── rung 1: a few steps, the best share goes on ── ... ── rung R ── the full solve

A coarse solve costs little and ranks draws nearly as the full one does, so that only the survivors
are solved in full: successive halving (Karnin, Koren and Somekh 2013; Jamieson and Talwalkar,
arXiv 1502.07943) with the number of steps as the budget of an arm. Without rungs all draws are
solved in full. Survivors are solved best first, and a sample ends at its target.

Draw 0 is the sample itself, draw j the sample of the seed that is 2³² j further on: the best draw
can be had again by its seed, and more draws only add to fewer. Its expected cost is that of the
least of n: about the 1/n quantile of the costs of the prior, whatever the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.blackbox.search import Search, SearchMethod
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.status import Status
from ctrlgen.solvers import Solver

__all__ = ["BestOf", "Rung"]


@dataclass(frozen=True)
class Rung:
    """A coarse solve of draws, of which a share goes on.

    Args:
        steps: midpoint steps on the prior's grid, of two evaluations each, >= 1.
        share: of the draws, in (0, 1]; one goes on at least.
    """

    steps: int
    share: float = 0.5

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"share: expected a number in (0, 1], got {self.share}")

    def survivors(self, count: int) -> int:
        """How many of `count` go on."""
        return max(1, math.ceil(self.share * count - 1e-9))


@dataclass(frozen=True, kw_only=True)
class BestOf(SearchMethod):
    """Keeps the best of several draws of every sample.

    `Result.history` has an entry for each chunk: the best so far ("cost") of the rung that is at
    work, and which draw it is ("draw").

    Args:
        n: draws of each sample, >= 1; 1 is plain sampling.
        rungs: coarse solves before the full one, in their order; none by default.

    Raises:
        TypeError: for rungs that are none.
        ValueError: for numbers that are not positive.
    """

    control: ClassVar[str] = "which draw"
    stochastic: ClassVar[bool] = True

    n: int = 16
    rungs: tuple[Rung, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(n=self.n)
        if not isinstance(self.rungs, tuple) or any(not isinstance(r, Rung) for r in self.rungs):
            raise TypeError(f"rungs: expected a tuple of Rung, got {self.rungs!r}")

    def search(self, search: Search, z: Tensor) -> None:
        """Rung by rung; see `SearchMethod`."""
        draws = torch.arange(self.n, device=search.rows.device)
        draws = draws.expand(len(search.rows), self.n)
        for rung in self.rungs:
            costs = self._rung(search, draws, search.prior.solver(rung.steps))
            best_first = costs.argsort(dim=1, stable=True)
            draws = draws.gather(1, best_first[:, : rung.survivors(draws.shape[1])])
            search.renew()
        self._rung(search, draws, None)

    def _rung(self, search: Search, draws: Tensor, solver: Solver | None) -> Tensor:
        """Costs of draws (b, J) by a coarse solver; by the full one, samples leave at the target.

        Without a target nothing is read by the host.
        """
        costs, parts = [], draws.split(self.chunk, dim=1)
        for turn, part in enumerate(parts):
            part = draws[:, turn * self.chunk :][:, : part.shape[1]]
            costs.append(search.score(search.draw(part), part, solver))
            search.note(finished=turn == 0, draw=search.draws)
            if solver is None and search.target is not None and turn < len(parts) - 1:
                kept = search.leave(torch.where(search.reached, int(Status.TARGET), 0))
                if kept is not None:
                    draws, costs = draws[kept], [c[kept] for c in costs]
                if not len(search.rows):
                    break
        table = torch.cat(costs, 1)
        if solver is None:
            status = search.lost(table.isfinite().any(1))
            status = torch.where(search.reached, int(Status.TARGET), status)
            search.status = search.status.index_copy(0, search.rows, status)
        return table
