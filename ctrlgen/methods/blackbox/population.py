"""A population of particles of every sample: where they are, what they cost, what was spent.

Particle j of a sample draws by the seed that lies j · 2³² further on (`rows.seeds.further`): its
noise depends on neither the other particles nor the other samples.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows, differentiable
from ctrlgen.methods.blackbox.course import Course, lowest, unscored
from ctrlgen.methods.blackbox.resampling import chosen, effective, weights_of
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.flows import bounded
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.seeds import further
from ctrlgen.rows.status import Status
from ctrlgen.sampling.fresh import Mix, fresh_noise, step_noise
from ctrlgen.sampling.grids import Level

__all__ = ["Ends", "Population"]


class Ends(NamedTuple):
    """Particles at the end of the path.

    Attributes:
        states: shape (B, K, *).
        signals: shape (B, K, *signal).
        costs: infinite where there is none, shape (B, K).
    """

    states: Tensor
    signals: Tensor
    costs: Tensor

    def where(self, mask: Tensor, other: Ends) -> Ends:
        """These where a mask (B, K) holds, and others elsewhere."""
        pairs = zip(self, other, strict=True)
        return Ends(*(torch.where(expand_like(mask, one), one, two) for one, two in pairs))

    def at(self, places: Tensor) -> Ends:
        """One particle of each sample, by its place (B,): shapes (B, *)."""
        each = torch.arange(len(places), device=places.device)
        return Ends(*(part[each, places] for part in self))


class Population:
    """K particles of each of B samples, on their way from noise to data.

    Attributes:
        seeds: of the particles, int64, shape (B, K).
        x: where they walk, their last finite states, shape (B, K, *).
        alive: those that are finite still, bool, shape (B, K).
        log: logarithms of their weights, float64, shape (B, K).
        ends: those that have arrived; None before.
        gone: samples that were lost on the way, bool, shape (B,).
    """

    def __init__(
        self,
        prior: Prior,
        cost: CostLike,
        seeds: Tensor,
        count: int,
        chunk: int,
        meter: Meter,
        observer: Observer | None,
    ) -> None:
        self._prior, self._cost, self._meter = prior, cost, meter
        self._course = Course(seeds, meter, observer)
        self._count, self._chunk, self._own = count, chunk, seeds
        self.seeds = further(seeds.unsqueeze(1), torch.arange(count, device=seeds.device))
        self._parts: dict[int, tuple[Prior, CostLike]] = {}
        self._source = self._wide(count)[0].source
        self._calls = 0
        self._scored = torch.zeros_like(seeds, dtype=torch.bool)
        self.gone = torch.zeros_like(self._scored)
        self.ends: Ends | None = None
        self._best: Ends | None = None  # of each sample, (B, *)

    def begin(self, z: Tensor, level: Level) -> None:
        """At a level, by the source; z (B, *) are the draws of the samples themselves."""
        draws = self._source.sample(self.seeds.flatten(), dtype=z.dtype, device=z.device)
        scale = (level.alpha**2 + level.sigma**2) ** 0.5
        self.x = scale * draws.unflatten(0, self.seeds.shape)
        self.alive = torch.ones_like(self.seeds, dtype=torch.bool)
        self.log = z.new_zeros(self.seeds.shape, dtype=torch.float64)
        self._least = z.new_full((len(z),), torch.inf)

    def _wide(self, count: int) -> tuple[Prior, CostLike]:
        """Prior and cost of `count` particles of every sample."""
        if count not in self._parts:
            place = torch.arange(len(self._own), device=self._own.device)
            wide = place.repeat_interleave(count)
            self._parts[count] = self._prior.take(wide), cost_rows(self._cost, wide)
        return self._parts[count]

    def predict(self, level: Level, clip: float | None) -> tuple[Tensor, Tensor]:
        """x̂ and ε̂ of all particles, shape (B, K, *) each; one evaluation of each."""
        data, noise = [], []
        for part in self.x.split(self._chunk, dim=1):
            prior, _ = self._wide(part.shape[1])
            seen = prior.predict(part.flatten(0, 1), level.time)
            bound = seen.data if clip is None else bounded(seen.data, clip)
            data.append(bound.unflatten(0, part.shape[:2]))
            noise.append(seen.noise.unflatten(0, part.shape[:2]))
        return torch.cat(data, 1), torch.cat(noise, 1)

    def noise(self, mix: Mix, number: int, data: Tensor) -> Tensor:
        """What a step from x̂ (B, K, *) mixes in beside the noise that is predicted."""
        like, seeds = self.x.flatten(0, 1), self.seeds.flatten()
        draw = partial(step_noise, self._source, seeds, number, like)
        fresh = fresh_noise(self._wide(self._count)[0], mix, data.flatten(0, 1), draw)
        return fresh.unflatten(0, self.seeds.shape)

    def gather(self, value: Tensor, ancestors: Tensor) -> Tensor:
        """The rows of ancestors (B, K) among those of particles (B, K, *)."""
        first = torch.arange(len(value), device=value.device).unsqueeze(1) * self._count
        return value.flatten(0, 1)[(first + ancestors).flatten()].unflatten(0, ancestors.shape)

    def go(self, new: Tensor) -> None:
        """States that stay finite go on; the others keep their last finite one for good."""
        new = self._source.project(new.flatten(0, 1)).unflatten(0, new.shape[:2])
        self.alive = self.alive & new.flatten(2).isfinite().all(2)
        self.x = torch.where(expand_like(self.alive, new), new, self.x)

    def look(self, states: Tensor) -> Tensor:
        """Costs (B, K) of the signals of denoised states, float64, as they come.

        A cost that has a gradient has a value: a sample where it has none for any particle is lost.
        """
        costs = self._judged(states)[1].double()
        least = torch.where(costs.isfinite(), costs, torch.inf).min(1).values
        self._least = torch.where(least.isfinite(), least.to(self._least), self._least)
        if differentiable(self._cost):
            self.gone = self.gone | ~costs.isfinite().any(1)
            self.alive = self.alive & ~self.gone.unsqueeze(1)
        return costs

    def arrive(self) -> Ends:
        """Those who walk, at the end; the best so far is remembered."""
        signals, costs = self._judged(self.x)
        whole = signals.flatten(2).isfinite().all(2) & self.alive & ~self.gone.unsqueeze(1)
        costs = torch.where(whole & costs.isfinite(), costs.to(self.x.dtype), torch.inf)
        self._scored = self._scored | whole.any(1)
        value, first = lowest(costs)
        arrived = Ends(self.x, signals, costs)
        best = arrived.at(first)
        if self._best is not None:
            best = best.where(value < self._best.costs, self._best)
            opaque = not differentiable(self._cost)
            self.gone = self.gone | ~(whole if opaque else costs.isfinite()).any(1)
        self._best, self._least = best, best.costs
        return arrived

    def _judged(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Signals (B, K, *signal) and costs (B, K) of states; one objective call of each."""
        signals, costs = [], []
        for part in states.split(self._chunk, dim=1):
            prior, cost = self._wide(part.shape[1])
            signal = prior.codec.decode(part.flatten(0, 1))
            costs.append(cost(signal).detach().unflatten(0, part.shape[:2]))
            signals.append(signal.unflatten(0, part.shape[:2]))
        self._calls += self._count
        return torch.cat(signals, 1), torch.cat(costs, 1)

    def note(self, finished: bool = True) -> None:
        """End a step: remember costs and counts, tell the observer.

        Args:
            finished: whether it is one of the method's iterations.
        """
        self._course.note(
            torch.arange(len(self._own), device=self._own.device),
            self._least,
            self._called,
            self._status(Status.RUNNING),
            finished=finished,
            effective=effective(weights_of(self.log)),
        )

    @property
    def _called(self) -> Tensor:
        """Objective calls of each sample, (B,)."""
        return torch.full_like(self._own, self._calls)

    def _status(self, well: Status) -> Tensor:
        """`Status` (B,) of samples: `well` where something was scored, or may still be."""
        lost = unscored(self._scored, self._cost)
        fine = self.alive.any(1) if self._best is None else self._best.costs.isfinite()
        return torch.where(fine & ~self.gone, int(well), lost)

    def result(self, method: str, well: Status, draw: Tensor | None = None) -> Result:
        """Of all samples, as it stands: what was never scored is what its first particle is.

        Args:
            method: its text.
            well: `Status` of those that are not lost.
            draw: uniform numbers (B,) that choose particles by their weights; the best by default.
        """
        states = self.x[:, 0] if self.ends is None else self.ends.states[:, 0]
        samples, costs = (
            self._prior.codec.decode(states),
            states.new_full((len(states),), torch.inf),
        )
        picked = self._best
        if draw is not None and self.ends is not None:
            picked = self.ends.at(chosen(weights_of(self.log), draw))
        if picked is not None:
            first = Ends(states, samples, costs)
            states, samples, costs = picked.where(picked.costs.isfinite(), first)
        return Result(
            samples=samples,
            controls=states,
            costs=costs,
            status=self._status(well),
            seeds=self._own,
            iterations=self._course.iterations,
            evaluations=self._meter.evaluations,
            backward_passes=self._meter.backward_passes,
            objective_calls=self._called,
            network=self._meter.total,
            history=self._course.tables(),
            method=method,
        )
