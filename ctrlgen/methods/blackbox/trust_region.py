r"""A trust region around the best source point, in which a guide fitted on the scores is descended.

    f̂ ← Gaussian process of what was scored so far            (`surrogate`, per sample)
    x^k = argmin f̂(x),   ‖x − x_best‖ ≤ ρ √d,                  by gradient descent, q starts
    score Φ(x^k);   ρ ← 1.5 ρ where the best has become better, else 0.6 ρ

(Eriksson et al., Scalable global optimization via local Bayesian optimization, TuRBO, arXiv
1910.01739, with a round ball on the source of a flow.) The gradient is that of the guide alone: the
network is solved and the score asked, neither is differentiated.

A cost that is a sum of squares of a black box, a `LevelSet` or `PropertyCost` of one, gives more
than its value: the guide is fitted on the residuals r, and Σ r̂² is descended, so that the side on
which a value lies is known (composite optimisation: Astudillo and Frazier, arXiv 1906.01537).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, differentiable
from ctrlgen.methods.blackbox.search import Search, SearchMethod
from ctrlgen.methods.blackbox.surrogate import GaussianProcess
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, flat, row_sum
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.seeds import Seeds, further, normal
from ctrlgen.rows.status import Status

__all__ = ["TrustRegionSearch"]

_ROUNDS = 2**55  # first stream of the starts of the descents


@dataclass(frozen=True, kw_only=True)
class TrustRegionSearch(SearchMethod):
    """Descends a Gaussian process of the scores within a trust region, and scores again.

    A run takes `draws + batch × rounds` calls of the cost a sample at most. `Result.history` has
    the radius of each round ("radius").

    Args:
        draws: of the source, scored first, >= 2.
        batch: q, candidates of a round.
        rounds: at most so many.
        radius: ρ at first, in standard deviations of the source.
        smallest: a sample has converged when its ρ is at most this.
        descent: steps of gradient descent on the guide.
        memory: points nearest to the best on which the guide is fitted.

    Raises:
        ValueError: for numbers out of range.
    """

    control: ClassVar[str] = "source point"

    draws: int = 16
    batch: int = 4
    rounds: int = 20
    radius: float = 0.5
    smallest: float = 1e-3
    descent: int = 30
    memory: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("draws", "batch", "rounds", "descent", "memory"):
            check_sizes(**{name: getattr(self, name)})
        if self.draws < 2:
            raise ValueError(f"draws: expected at least 2, got {self.draws}")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius: expected a positive number, got {self.radius}")
        if not 0 <= self.smallest < math.inf:
            raise ValueError(f"smallest: expected a number >= 0, got {self.smallest}")

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`. No gradient is taken of the network or the cost."""
        opaque: Any = cost
        if not differentiable(cost) and getattr(cost, "squares", "no") == "sum":
            opaque = _Residuals(cost)
        return super().__call__(prior, opaque, seeds=seeds, observer=observer)

    def search(self, search: Search, z: Tensor) -> None:
        """Draws, then round by round; see `SearchMethod`."""
        draws = torch.arange(self.draws, device=z.device).expand(len(z), self.draws)
        state = _State.empty(z, self.radius)
        for part in draws.split(self.chunk, dim=1):
            state = state.joined(*self._asked(search, search.draw(part)))
        radius = state.radius
        search.note(finished=False, radius=radius)
        status = search.lost(state.scored(0))
        kept = search.leave(torch.where(search.reached, int(Status.TARGET), status))
        state = state if kept is None else state.take(kept)
        for number in range(self.rounds):
            if not len(search.rows):
                break
            before = search.incumbents["costs"][search.rows]
            start = state.points.shape[1]
            for part in self._candidates(search, state, number).split(self.chunk, dim=1):
                state = state.joined(*self._asked(search, part))
            after = search.incumbents["costs"][search.rows]
            better = after < before - 1e-3 * before.abs()
            state = state._replace(radius=state.radius * torch.where(better, 1.5, 0.6))
            radius = radius.index_copy(0, search.rows, state.radius)
            search.note(radius=radius)
            status = search.lost(state.scored(start))
            # a black box that has nothing to say of a round says something of a smaller region
            status = torch.where(status == Status.FAILED, int(Status.RUNNING), status)
            still = (status == Status.RUNNING) & (state.radius <= self.smallest)
            status = torch.where(still, int(Status.CONVERGED_CHANGE), status)
            kept = search.leave(torch.where(search.reached, int(Status.TARGET), status))
            state = state if kept is None else state.take(kept)
        search.end(Status.MAX_ITERATIONS)

    def _asked(self, search: Search, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (b, J, *) as they come, and what the guide is fitted on, (b, J, m)."""
        costs = search.score(points)
        book = getattr(search.cost, "book", None)
        values = costs.unsqueeze(2) if book is None else book.pop().unflatten(0, costs.shape)
        return points, torch.where(costs.isfinite().unsqueeze(2), values.double(), torch.inf)

    def _candidates(self, search: Search, state: _State, number: int) -> Tensor:
        """The next candidates, (b, q, *): where descents of the guide end in the trust region."""
        best = search.incumbents["points"][search.rows]
        centre = flat(best).double().unsqueeze(1)
        guide = state.guide(centre, self.memory)
        reach = state.radius.double() * row_sum(state.real).double().sqrt()
        own = torch.arange(self.batch, device=best.device)
        seeds = further(search.seeds.unsqueeze(1), own).flatten()
        noise = normal(
            seeds, best.shape[1:], _ROUNDS + number, dtype=best.dtype, device=best.device
        )
        source = search.prior.take(search.wide(self.batch)).source
        step = flat(source.project(noise)).double().unflatten(0, (len(best), self.batch))
        first = (own > 0).reshape(1, -1, 1)  # one starts at the best itself
        x = centre + first * 0.5 * reach.reshape(-1, 1, 1) * _unit(step)
        composite = getattr(search.cost, "book", None) is not None
        for turn in range(self.descent):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                found = guide(x)
                value = found.square().sum(2) if composite else found[..., 0]
                (slope,) = torch.autograd.grad(value.sum(), x)
            length = 0.5 * (1 - turn / self.descent) ** 2 * reach.reshape(-1, 1, 1)
            move = x.detach() - length * _unit(slope) - centre
            far = move.norm(dim=2, keepdim=True).clamp_min(1e-300)
            x = centre + move * (reach.reshape(-1, 1, 1) / far).clamp_max(1)
        points = x.flatten(0, 1).to(best.dtype).reshape(-1, *best.shape[1:])
        return source.project(points).unflatten(0, (len(best), self.batch))


def _unit(x: Tensor) -> Tensor:
    """Along the last dimension; nothing where it is nothing."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-300)


class _Residuals(PerSample):
    """A sum of squares as a cost that keeps the residuals of its last call."""

    per_sample = ("cost",)
    differentiable = False

    def __init__(self, cost: Any) -> None:
        self.cost, self.book = cost, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        residual = self.cost.least_squares(x).detach()
        self.book[:] = [residual]
        return residual.square().sum(1)


class _State(NamedTuple):
    """What was scored for the samples at work.

    Attributes:
        points: shape (b, n, d).
        values: shape (b, n, m), infinite where there is none; None before the first.
        real: 1 where an entry is no padding, shape (b, *).
        radius: ρ, shape (b,).
    """

    points: Tensor
    values: Tensor | None
    real: Tensor
    radius: Tensor

    @classmethod
    def empty(cls, z: Tensor, radius: float) -> _State:
        return cls(flat(z).unsqueeze(1)[:, :0], None, (z != 0).to(z), z.new_full((len(z),), radius))

    def joined(self, points: Tensor, values: Tensor) -> _State:
        """With points (b, J, *) and their values (b, J, m)."""
        own = values if self.values is None else torch.cat((self.values, values), 1)
        return self._replace(points=torch.cat((self.points, points.flatten(2)), 1), values=own)

    def scored(self, start: int) -> Tensor:
        """Samples of which something was, from a point on, bool, shape (b,)."""
        assert self.values is not None
        return self.values[:, start:].isfinite().all(2).any(1)

    def guide(self, centre: Tensor, memory: int) -> GaussianProcess:
        """Fitted on the points nearest to a centre (b, 1, d)."""
        assert self.values is not None
        apart = (self.points - centre).square().sum(2)
        nearest = apart.argsort(dim=1, stable=True)[:, :memory]
        each = torch.arange(len(nearest), device=nearest.device).unsqueeze(1)
        return GaussianProcess.fit(self.points[each, nearest], self.values[each, nearest])

    def take(self, index: Tensor) -> _State:
        assert self.values is not None
        return _State(self.points[index], self.values[index], self.real[index], self.radius[index])
