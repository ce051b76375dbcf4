r"""Searches for a source point by the values of a cost: what they share.

    x_0* = argmin C(decode(Φ(x_0)))      over candidates x_0^1, x_0^2, ...  of every sample,

where C may be anything that gives a number. A candidate costs one solve without a gradient and one
objective call. Every sample has candidates of its own, all of a round in one batch, and keeps its
incumbent: the best candidate so far.

A candidate whose cost is not finite (a scorer that failed, a network that diverged) is worse than
all others and does no harm beyond. A sample is lost where no candidate of a round has a cost: it
ends DIVERGED, or FAILED where its signals are finite and a black box had nothing to say of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_dtype,
    check_parts,
    first_points,
    try_cost,
)
from ctrlgen.methods.blackbox.candidates import Search
from ctrlgen.methods.blackbox.variants import first_variants, metered
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer, check_target
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.rows.status import Status
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Solver

__all__ = ["STEPS", "Search", "SearchMethod"]

STEPS = 3
"""Of the prior's own solver, where a search is given none; as `DFlow` has."""


@dataclass(frozen=True, kw_only=True)
class SearchMethod(Method):
    """Base of the searches: implement `search`.

    Args:
        solver: Φ; `STEPS` midpoint steps on the prior's grid by default. What keeps its candidates
            and solves no point again (`stochastic`) takes a `Sampler` as well, whose noise is the
            candidate's.
        target: a sample stops when its cost is at most this; None for no target.
        chunk: candidates of a sample that are solved at once, which bounds the memory.
        dtype: of states.
        device: of states; the network's by default.
    """

    needs: ClassVar[str] = "values alone"
    stochastic: ClassVar[bool] = False

    solver: Solver | Sampler | None = None
    target: float | None = None
    chunk: int = 8
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_sizes(chunk=self.chunk)
        if self.solver is not None and not (self.stochastic and isinstance(self.solver, Sampler)):
            check_parts(self, solver=Solver)
        check_dtype(self.dtype)

    @property
    def each(self) -> int:
        """Variants of each sample, of which prior and cost hold a row each."""
        return 1

    @abstractmethod
    def search(self, search: Search, z: Tensor) -> None:
        """Try candidates; what `search` then holds is the result.

        Args:
            search: the samples that are still at work, and what was found.
            z: source points of all samples, shape (B, *).
        """

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`. No gradient is taken of the network or the cost."""
        solver, variants = self.solver or prior.solver(STEPS), self.each
        first, own = prior, cost
        if variants > 1:
            first, own = first_variants(prior, cost, len(as_seeds(seeds)), variants)
        rows, z = first_points(first, seeds, self.dtype, self.device)
        goal = check_target(self.target, z)
        try_cost(first, own, z, self.target, gradient=False)
        prior, meter = metered(prior, rows, variants)
        search = Search(prior, cost, solver, rows, z, goal, self.chunk, observer, meter, variants)
        text = repr(replace(self, solver=solver))
        with torch.no_grad(), carrying(lambda _: search.result(text)):
            self.search(search, z)
            search.end(Status.FINISHED)
        return search.result(text)
