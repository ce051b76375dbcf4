r"""Particles along the path: sequential Monte Carlo for every sample, by values of the cost alone.

K particles of every sample come down the levels t_0 < ... < t_n by the prior's own stochastic step
p(x_{k+1} | x_k), DDIM with η = 1 by default. What they are worth on the way is looked up ahead, at
the denoised state x̂_k of each:

    log ψ_k = −λ (α_k²/(α_k² + σ_k²))^a C(decode(x̂_k)),        log ψ_n = −λ C(decode(x_n))
    log w ← log w + log ψ_k − log ψ_{k−1};     resampled where the effective number falls below ρK

which is twisted sequential Monte Carlo (Naesseth et al., arXiv 1903.04797; Wu et al., arXiv
2306.17775, with the prior's transition for a proposal, since the cost has no gradient).

What it targets. The weighted particles are consistent, K → ∞, for

    π(x) ∝ p(x) e^{−λ C(x)},     p the law of the prior under the same steps,

whatever is looked up and whatever a is, since the last ψ is the exact one; `log_evidence` is that
of E_p[e^{−λC}], whose exponential is unbiased for every K. The law of the steps is that of the
prior itself up to their discretisation. One particle by its weight is a draw of π with a bias of
O(1/K); the best one is what a search wants.

Moves. Particles that share an ancestor part by fresh noise. After the last step, `moves` times,
each is brought back to the level t_{n−depth} and comes down again, and is taken with the
probability min(1, e^{−λ (C(x') − C(x))}). Going up by q(x_t | x) and down by p(x' | x_t) is
reversible in p, so that this leaves π as it is: Metropolis and Hastings by values alone. Up to the
discretisation: steps that are few make what comes down narrower than p, a little more every move.

A cost that cannot be said of x̂_k (a scorer that fails) leaves the weight as it was; one that cannot
be said at the end weighs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_clip,
    check_clock,
    check_dtype,
    check_levels,
    check_parts,
    first_points,
    try_cost,
)
from ctrlgen.methods.blackbox.population import Ends, Population
from ctrlgen.methods.blackbox.resampling import effective, log_mean, systematic, weights_of
from ctrlgen.methods.result import Result
from ctrlgen.methods.stepping import check_rule
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, uniform
from ctrlgen.rows.status import Status
from ctrlgen.sampling.fresh import back, renoise
from ctrlgen.sampling.grids import Grid, Level, Uniform
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["ParticleResampling", "Particles"]

Pick = Literal["best", "draw"]

_CHOICES = 2**53  # first stream of the resampling; 2^52 and before are of others
_TRIALS = 2**54  # first stream of the acceptance of moves


class Particles(NamedTuple):
    """The particles of B samples at the end.

    Attributes:
        signals: shape (B, K, *signal).
        states: shape (B, K, *).
        costs: shape (B, K); infinite where there is none.
        weights: of sum 1 over the particles of a sample, shape (B, K), float64.
        log_evidence: log E_p[e^{−λC}] estimated, shape (B,), float64.
    """

    signals: Tensor
    states: Tensor
    costs: Tensor
    weights: Tensor
    log_evidence: Tensor


@dataclass(frozen=True, kw_only=True)
class ParticleResampling(Method):
    """Twisted sequential Monte Carlo on a population of every sample, for any cost.

    A sample takes `population × (n + moves × depth)` evaluations of the network, where n are the
    steps of the grid, and `population × (looks + 1 + moves)` calls of the cost, fewer looks where n
    has no room for them. `Result.history` has the effective number of particles ("effective") and
    the least cost so far.

    Args:
        strength: λ > 0, in the inverse unit of the cost: a cost of 1/λ more is e times less likely.
        population: K, particles of each sample, >= 2.
        grid: noise levels to visit.
        looks: levels at which the cost of x̂ is looked up, evenly among those from `begin` on.
        begin: share of the steps before the first look, in [0, 1).
        annealing: a >= 0; 0 trusts x̂ as much as the sample itself.
        threshold: ρ in [0, 1]: share of the effective number below which particles are resampled.
        moves: Metropolis moves of every particle at the end.
        depth: steps of a move, at most those of the grid.
        pick: "best", the particle of the least cost; "draw", one by its weight.
        rule: of the steps, with fresh noise.
        clip: bound of |x̂|, e.g. 1 for images in [−1, 1]; None for none.
        chunk: particles of a sample that are evaluated at once, which bounds the memory.
        clock: path on which the prior is read; None for its own.
        dtype: of states.
        device: of states; the network's by default.

    Raises:
        TypeError: for parts of another kind.
        ValueError: for numbers out of range, or a rule without fresh noise.
    """

    control: ClassVar[str] = "which particles go on"
    needs: ClassVar[str] = "values alone"

    strength: float = 1.0
    population: int = 16
    grid: Grid = field(default_factory=lambda: Uniform(20))
    looks: int = 8
    begin: float = 0.25
    annealing: float = 1.0
    threshold: float = 0.5
    moves: int = 0
    depth: int = 5
    pick: Pick = "best"
    rule: StepRule = field(default_factory=lambda: DDIM(1.0))
    clip: float | None = None
    chunk: int = 64
    clock: Path | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, grid=Grid)
        check_sizes(population=self.population, depth=self.depth, chunk=self.chunk)
        if self.population < 2:
            raise ValueError(f"population: expected at least 2, got {self.population}")
        for name in ("looks", "moves"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}: expected an integer >= 0, got {value!r}")
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength: expected a positive number, got {self.strength}")
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin: expected a number in [0, 1), got {self.begin}")
        if not 0 <= self.annealing < float("inf"):
            raise ValueError(f"annealing: expected a number >= 0, got {self.annealing}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: expected a number in [0, 1], got {self.threshold}")
        if self.pick not in ("best", "draw"):
            raise ValueError(f"pick: expected 'best' or 'draw', got {self.pick!r}")
        check_rule(self.rule)
        check_clip(self.clip)
        check_clock(self.clock)
        check_dtype(self.dtype)

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`. No gradient is taken of the network or the cost."""
        return self._run(prior, cost, seeds, observer)[0]

    def particles(self, prior: Prior, cost: CostLike, *, seeds: Seeds) -> Particles:
        """All particles of a run with their weights, as `__call__` has them at its end."""
        return self._run(prior, cost, seeds, None)[1]

    def _run(
        self, prior: Prior, cost: CostLike, seeds: Seeds, observer: Observer | None
    ) -> tuple[Result, Particles]:
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        prior = prior.on(self.clock)
        levels = self.grid(prior.flow.path)
        check_levels(prior, levels)
        self._check(levels)
        try_cost(prior, cost, z, gradient=False)
        prior, meter = prior.metered(rows)
        crowd = Population(prior, cost, rows, self.population, self.chunk, meter, observer)
        text, draw = repr(self), self._chance(crowd, -1) if self.pick == "draw" else None
        with torch.no_grad(), carrying(lambda _: crowd.result(text, Status.RUNNING, draw)):
            crowd.begin(z, levels[0])
            evidence = self._descend(crowd, levels)
            if self.moves:
                self._move(crowd, levels)
            result = crowd.result(text, Status.FINISHED, draw)
        ends = crowd.ends
        assert ends is not None
        return result, Particles(
            ends.signals, ends.states, ends.costs, weights_of(crowd.log), evidence
        )

    def _descend(self, crowd: Population, levels: list[Level]) -> Tensor:
        """From noise to the end; the logarithm of the evidence (B,)."""
        looks = self._looks(len(levels) - 1)
        psi, evidence = crowd.log, crowd.log[:, 0]
        for step, (t, s) in enumerate(pairwise(levels)):
            data, noise = crowd.predict(t, self.clip)
            if step in looks:
                new = -self._weight(t) * crowd.look(data)
                new = torch.where(new.isfinite(), new, psi)  # what is not known says nothing
                crowd.log, psi = crowd.log + new - psi, new
                ancestors, gained = self._resample(crowd, step, self.threshold)
                evidence = evidence + gained
                data, noise, psi = (crowd.gather(part, ancestors) for part in (data, noise, psi))
                crowd.x, crowd.alive = (crowd.gather(v, ancestors) for v in (crowd.x, crowd.alive))
            crowd.go(self._stepped(crowd, data, noise, t, s, step))
            crowd.log = torch.where(crowd.alive, crowd.log, -torch.inf)
            crowd.note()
        crowd.ends = crowd.arrive()
        crowd.log = crowd.log - self.strength * crowd.ends.costs.double() - psi
        crowd.note(finished=False)
        return evidence + log_mean(crowd.log)

    def _stepped(
        self, crowd: Population, data: Tensor, noise: Tensor, t: Level, s: Level, number: int
    ) -> Tensor:
        mix = self.rule.mix(t, s)
        z = crowd.noise(mix, number, data) if mix.fresh else None
        return self.rule(data, noise, t, s, z)

    def _weight(self, t: Level) -> float:
        """λ of a look from a level."""
        share = t.alpha**2 / (t.alpha**2 + t.sigma**2)
        return float(self.strength * share**self.annealing)

    def _chance(self, crowd: Population, number: int) -> Tensor:
        """A uniform number of each sample, (B,)."""
        like = crowd.seeds[:, 0]
        return uniform(like, (1,), _CHOICES + number, dtype=torch.float64, device=like.device)[:, 0]

    def _resample(self, crowd: Population, number: int, threshold: float) -> tuple[Tensor, Tensor]:
        """Ancestors (B, K) where the effective number is below a share, and what the evidence
        gains there (B,)."""
        log = crowd.log
        weights = weights_of(log)
        due = (effective(weights) < threshold * self.population) & log.isfinite().any(1)
        own = torch.arange(self.population, device=log.device).expand_as(log)
        ancestors = systematic(weights, self._chance(crowd, number))
        gained = torch.where(due, log_mean(log), 0)
        due = due.unsqueeze(1)
        crowd.log = torch.where(due, 0, log)
        return torch.where(due, ancestors, own), gained

    def _move(self, crowd: Population, levels: list[Level]) -> None:
        """Metropolis moves of particles that were resampled."""
        start, ends = len(levels) - 1 - self.depth, crowd.ends
        assert ends is not None
        ancestors, _ = self._resample(crowd, len(levels), torch.inf)
        ends = crowd.ends = Ends(*(crowd.gather(part, ancestors) for part in ends))
        for move in range(self.moves):
            number = len(levels) + move * (self.depth + 1)
            noise = crowd.noise(back(levels[-1], levels[start]), number, ends.states)
            crowd.x = renoise(ends.states, levels[-1], levels[start], noise)
            crowd.alive = torch.ones_like(crowd.alive)
            for step, (t, s) in enumerate(pairwise(levels[start:])):
                data, noise = crowd.predict(t, self.clip)
                crowd.go(self._stepped(crowd, data, noise, t, s, number + 1 + step))
            new = crowd.arrive()
            u = uniform(crowd.seeds.flatten(), (1,), _TRIALS + move, device=crowd.log.device)
            rise = self.strength * (new.costs - ends.costs).double()  # −∞ where there was no cost
            taken = (u.log().reshape(rise.shape) < -rise) & new.costs.isfinite()
            crowd.log = torch.where(taken & crowd.log.isneginf(), 0, crowd.log)
            ends = crowd.ends = new.where(taken, ends)
            crowd.note()

    def _check(self, levels: list[Level]) -> None:
        """Raise where the steps have no fresh noise, or moves are longer than the grid."""
        pairs = list(pairwise(levels[:-1]))
        if pairs and not any(self.rule.draws(t, s) for t, s in pairs):
            raise ValueError(
                "rule: expected one with fresh noise, as DDIM(1.0), by which particles differ; "
                f"got {self.rule}"
            )
        if self.moves and self.depth >= len(levels):
            raise ValueError(
                f"depth: expected at most the {len(levels) - 1} steps of the grid, got {self.depth}"
            )

    def _looks(self, steps: int) -> set[int]:
        """At which of the levels 1 ... n − 2 the cost is looked up; x̂ of the one after is x_n."""
        first, last = max(1, round(self.begin * steps)), steps - 2
        count = min(self.looks, last - first + 1)
        if count < 1:
            return set()
        gap = (last - first + 1) / count
        return {last - int(gap * place) for place in range(count)}
