r"""Evolution on the source point: a separable CMA-ES for every sample, all samples at once.

With λ candidates a generation, their best μ = λ/2 weighed by w_i ∝ ln((λ+1)/2) − ln i:

    x^k = m + σ √c ∘ n^k,   n^k ~ N(0, I)              candidates: Φ(x^k) is solved and scored
    m   ← m + σ ⟨√c ∘ n⟩                               ⟨v⟩ = Σ w_i v^{(i)}, best first
    p_σ ← (1 − c_σ) p_σ + √(c_σ (2 − c_σ) μ_eff) ⟨n⟩
    σ   ← σ exp((c_σ/d_σ)(‖p_σ‖/E‖N(0, I)‖ − 1))
    p_c ← (1 − c_c) p_c + h √(c_c (2 − c_c) μ_eff) ⟨√c ∘ n⟩
    c   ← (1 − c_1 − c_μ) c + c_1 (p_c² + (1 − h) c_c (2 − c_c) c) + c_μ ⟨c ∘ n²⟩

(Hansen, The CMA evolution strategy: a tutorial, arXiv 1604.00772, eqs 16-47; its diagonal form and
the factor (d + 2)/3 of c_1 and c_μ: Ros and Hansen, A simple modification in CMA-ES achieving
linear time and space complexity, PPSN 2008.)

Geometry. Candidates are projected to where the source is (padding, centre of mass) before they are
solved. The search itself runs on all real entries of a state: it minimises C ∘ Φ ∘ project, on
which the directions that the projection takes out have no effect, so that c stays unbiased. The
rates depend on the number of real entries of the sample, never on its padding. With `sphere` the
candidates have the radius of the sample's own draw, which the source gave: in high dimension a
point is likely where its radius is, and a search without it leaves the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ctrlgen.methods.blackbox.search import Search, SearchMethod
from ctrlgen.rows.batching import expand_like, row_sum
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.seeds import further, normal
from ctrlgen.rows.status import Status

__all__ = ["EvolutionStrategy"]

_GENERATIONS = 2**52  # first stream of the generations


@dataclass(frozen=True, kw_only=True)
class EvolutionStrategy(SearchMethod):
    """A separable CMA-ES on the source point of every sample.

    A run takes `draws + population × generations` calls of the cost a sample at most. For d entries
    of a state the customary population is 4 + 3 ln d, 16 for a molecule and 24 for an image.
    `Result.history` has the step size of each generation ("sigma").

    Args:
        population: λ, candidates of a generation, >= 4.
        generations: at most so many.
        sigma: first step size, in standard deviations of the source.
        draws: the search begins at the best of so many draws of the source.
        sphere: whether candidates keep the radius of the sample's own draw.
        tolerance: a sample has converged when all its steps are at most this.

    Raises:
        ValueError: for numbers out of range.
    """

    control: ClassVar[str] = "source point"

    population: int = 16
    generations: int = 50
    sigma: float = 0.5
    draws: int = 1
    sphere: bool = False
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(population=self.population, generations=self.generations, draws=self.draws)
        if self.population < 4:
            raise ValueError(f"population: expected at least 4, got {self.population}")
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma: expected a positive number, got {self.sigma}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance: expected at least 0, got {self.tolerance}")

    def search(self, search: Search, z: Tensor) -> None:
        """Draws, then generation by generation; see `SearchMethod`."""
        draws = torch.arange(self.draws, device=z.device).expand(len(z), self.draws)
        for part in draws.split(self.chunk, dim=1):
            search.score(search.draw(part), part)
        real = (z != 0).to(z)  # padding is zero in every draw
        radius = row_sum(z.square()).sqrt()
        state = _State.at(search.incumbents["points"], real, radius, self.sigma)
        search.note(finished=False, sigma=state.sigma)
        sigmas = state.sigma
        reached = torch.where(search.reached, int(Status.TARGET), int(Status.RUNNING))
        kept = search.leave(reached)
        state = state if kept is None else state.take(kept)
        weights = _weights(self.population, z)
        for generation in range(self.generations):
            if not len(search.rows):
                break
            noise, points = self._candidates(search, state, generation)
            costs = [search.score(part) for part in points.split(self.chunk, dim=1)]
            table = torch.cat(costs, 1)
            state = _updated(state, noise, table, weights, generation, self.sphere, search)
            sigmas = sigmas.index_copy(0, search.rows, state.sigma)
            search.note(sigma=sigmas)
            kept = search.leave(self._status(search, state, table))
            state = state if kept is None else state.take(kept)
        search.end(Status.MAX_ITERATIONS)

    def _candidates(self, search: Search, state: _State, generation: int) -> tuple[Tensor, Tensor]:
        """Noise n and candidates x of a generation, (b, λ, *) each."""
        count, number = len(search.rows), self.population
        own = torch.arange(number, device=search.rows.device)
        seeds = further(search.seeds.unsqueeze(1), own).flatten()
        mean, shape = state.mean, state.mean.shape[1:]
        noise = normal(
            seeds, shape, _GENERATIONS + generation, dtype=mean.dtype, device=mean.device
        )
        noise = noise.unflatten(0, (count, number)) * state.real.unsqueeze(1)
        points = state.mean.unsqueeze(1) + _wide(state.sigma, noise) * _steps(state, noise)
        source = search.prior.take(search.wide(number)).source
        points = source.project(points.flatten(0, 1))
        if self.sphere:
            points = _on_sphere(points, state.radius.repeat_interleave(number))
        return noise, points.unflatten(0, (count, number))

    def _status(self, search: Search, state: _State, costs: Tensor) -> Tensor:
        """How the samples at work stand after a generation, (b,)."""
        status = search.lost(costs.isfinite().any(1))
        largest = state.sigma * state.variance.flatten(1).amax(1).sqrt()
        still = (status == Status.RUNNING) & (largest <= self.tolerance)
        status = torch.where(still, int(Status.CONVERGED_CHANGE), status)
        return torch.where(search.reached, int(Status.TARGET), status)


class _State(NamedTuple):
    """The distributions of the samples at work.

    Attributes:
        mean: m, shape (b, *).
        variance: c, shape (b, *).
        sigma: σ, shape (b,).
        path_sigma, path_c: p_σ and p_c, shape (b, *).
        real: 1 where an entry is no padding, shape (b, *).
        radius: of the sample's own draw, shape (b,).
    """

    mean: Tensor
    variance: Tensor
    sigma: Tensor
    path_sigma: Tensor
    path_c: Tensor
    real: Tensor
    radius: Tensor

    @classmethod
    def at(cls, mean: Tensor, real: Tensor, radius: Tensor, sigma: float) -> _State:
        none = torch.zeros_like(mean)
        return cls(
            mean, torch.ones_like(mean), torch.full_like(radius, sigma), none, none, real, radius
        )

    def take(self, index: Tensor) -> _State:
        return _State(*(field[index] for field in self))


class _Rates(NamedTuple):
    """Of each sample, (b,), by the number of its real entries."""

    path_sigma: Tensor
    damping: Tensor
    path_c: Tensor
    one: Tensor
    mu: Tensor
    length: Tensor  # E‖N(0, I)‖

    @classmethod
    def of(cls, d: Tensor, mass: float) -> _Rates:
        """Args: d: entries (b,). mass: μ_eff."""
        path_sigma = (mass + 2) / (d + mass + 5)
        more = (((mass - 1) / (d + 1)).sqrt() - 1).clamp_min(0)
        separable = (d + 2) / 3
        one = separable * 2 / ((d + 1.3).square() + mass)
        mu = separable * 2 * (mass - 2 + 1 / mass) / ((d + 2).square() + mass)
        return cls(
            path_sigma,
            1 + 2 * more + path_sigma,
            (4 + mass / d) / (d + 4 + 2 * mass / d),
            one.clamp_max(0.5),
            torch.minimum(mu, 1 - one.clamp_max(0.5)),
            d.sqrt() * (1 - 1 / (4 * d) + 1 / (21 * d.square())),
        )


def _weights(population: int, like: Tensor) -> Tensor:
    """w, shape (μ,), of sum 1."""
    rank = torch.arange(1, population // 2 + 1, device=like.device).to(like)
    weights = math.log((population + 1) / 2) - rank.log()
    return weights / weights.sum()


def _mass(population: int) -> float:
    """μ_eff = 1/Σ w²."""
    weights = [math.log((population + 1) / 2) - math.log(i) for i in range(1, population // 2 + 1)]
    return sum(weights) ** 2 / sum(w**2 for w in weights)


def _updated(
    state: _State,
    noise: Tensor,
    costs: Tensor,
    weights: Tensor,
    generation: int,
    sphere: bool,
    search: Search,
) -> _State:
    """The distributions after a generation; candidates without a cost weigh nothing."""
    mass = _mass(costs.shape[1])
    rates = _Rates.of(row_sum(state.real), mass)
    order = costs.argsort(dim=1, stable=True)[:, : len(weights)]
    w = weights * costs.gather(1, order).isfinite()
    w = w / w.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    each = torch.arange(len(order), device=order.device).unsqueeze(1)
    best = noise[each, order]

    def mean_of(values: Tensor) -> Tensor:
        return (_wide(w, values) * values).sum(1)

    def like(value: Tensor) -> Tensor:
        return expand_like(value, state.mean)

    direction = mean_of(best)
    step = state.variance.sqrt() * direction
    mean = search.prior.source.project(state.mean + like(state.sigma) * step)
    if sphere:
        mean = _on_sphere(mean, state.radius)
    gain = (rates.path_sigma * (2 - rates.path_sigma) * mass).sqrt()
    path_sigma = like(1 - rates.path_sigma) * state.path_sigma + like(gain) * direction
    length = row_sum(path_sigma.square()).sqrt()
    growth = (rates.path_sigma / rates.damping * (length / rates.length - 1)).clamp_max(1)
    settled = (1 - (1 - rates.path_sigma) ** (2 * (generation + 1))).sqrt()
    d = row_sum(state.real)
    short = (length / settled < (1.4 + 2 / (d + 1)) * rates.length).to(length)
    pull = rates.path_c * (2 - rates.path_c)
    path_c = like(1 - rates.path_c) * state.path_c + like(short * (pull * mass).sqrt()) * step
    keep = 1 - rates.one - rates.mu + rates.one * (1 - short) * pull
    variance = (
        like(keep) * state.variance
        + like(rates.one) * path_c.square()
        + like(rates.mu) * state.variance * mean_of(best.square())
    )
    variance = torch.where(state.real > 0, variance, 0)  # padding has no steps
    sigma = state.sigma * growth.exp()
    return state._replace(
        mean=mean, variance=variance, sigma=sigma, path_sigma=path_sigma, path_c=path_c
    )


def _steps(state: _State, noise: Tensor) -> Tensor:
    """√c ∘ n, shape of n."""
    return state.variance.sqrt().unsqueeze(1) * noise


def _wide(value: Tensor, like: Tensor) -> Tensor:
    """(b,) or (b, J) to broadcast against (b, J, *)."""
    return value.reshape(*value.shape, *(1,) * (like.ndim - value.ndim))


def _on_sphere(x: Tensor, radius: Tensor) -> Tensor:
    """x (b, *) at radii (b,)."""
    length = row_sum(x.square()).sqrt()
    return x * expand_like(radius / length.clamp_min(torch.finfo(x.dtype).tiny), x)
