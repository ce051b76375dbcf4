r"""Renoising search: the best of each sample are put back to noise half-way and drawn again.

A population of every sample begins with the best μ of its draws. In each generation

    x_t = α_t x^p + σ_t ε,   ε of the source,   t one of a few times,     parents p by their rank
    x'  = Φ_{t→1}(x_t)                                                    children, scored
    the best of parents and children are the next parents.

x_t is what the path of the flow makes of a datum, so that the child of a draw of the prior is one:
where nothing is selected the law stays as it is, and where something is, the search keeps to the
data, which a search on the source point need not. An early t draws nearly anew, a late one keeps
most of the parent and costs little: from t on, only the steps of the solver that lie beyond it are
taken. Mutation by noise and denoising is that of SDEdit (Meng et al., arXiv 2108.01073); to select
among what comes of it is search over paths (Ma et al., arXiv 2501.09732) and, with a population,
evolutionary search (He et al., arXiv 2505.17618).

Noise is joined with data as the flow was trained (`Source.coupled`): one that learned from matched
noise breaks what is renoised with any other.

Selection keeps families apart: a parent and its children leave at most `family` of the next
parents, so that the offspring of one lucky draw does not take the place of all others at once.

With variants (`blackbox.candidates`) draws are of them in turn, and children are of their parent's:
a molecule may be looked for among several numbers of atoms at once, whichever breeds on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from ctrlgen.methods.blackbox.search import Search, SearchMethod
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.checks import check_sizes
from ctrlgen.rows.seeds import further
from ctrlgen.rows.status import Status
from ctrlgen.sampling.fresh import joined
from ctrlgen.sampling.grids import Level, level_at
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers import Solver
from ctrlgen.solvers.fixed import FixedStep

__all__ = ["RenoisingSearch"]

_GENERATIONS = 2**56  # first stream of the generations; 2^52 to 2^55 are of others


@dataclass(frozen=True, kw_only=True)
class RenoisingSearch(SearchMethod):
    """Evolution on the data: parents are renoised to a time of the path and drawn again from there.

    A run takes `draws + children × generations` calls of the cost a sample at most, and a full
    solve for each draw, the rest of one for each child. `Result.controls` are final states, not
    source points.

    Args:
        draws: of the source, scored first, >= parents.
        parents: μ, that a generation begins with.
        children: of a generation, shared out evenly among the times, >= as many as these.
        generations: at most so many.
        times: to which parents are put back, on the clock of the flow, in (0, 1).
        family: at most so many of a parent and its children are parents again, >= 1.
        variants: V, of each sample; prior and cost then hold V rows for each seed, one after the
            other. `Result.history` has which of them the best is of ("variant").

    Raises:
        ValueError: for numbers out of range.
    """

    control: ClassVar[str] = "what is drawn again"
    stochastic: ClassVar[bool] = True

    draws: int = 16
    parents: int = 8
    children: int = 8
    generations: int = 20
    times: tuple[float, ...] = (0.6, 0.7, 0.8, 0.88)
    family: int = 2
    variants: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("draws", "parents", "children", "generations", "family", "variants"):
            check_sizes(**{name: getattr(self, name)})
        if not isinstance(self.times, tuple) or not self.times:
            raise ValueError(f"times: expected a tuple of times, got {self.times!r}")
        if not all(0 < time < 1 for time in self.times):
            raise ValueError(f"times: expected numbers in (0, 1), got {self.times}")
        if self.draws < self.parents:
            raise ValueError(
                f"draws: expected at least the {self.parents} parents, got {self.draws}"
            )
        if self.children < len(self.times):
            raise ValueError(
                f"children: expected at least one for each of the {len(self.times)} times, "
                f"got {self.children}"
            )

    @property
    def each(self) -> int:
        return self.variants

    def within(self, evaluations: float, prior: Prior | None = None) -> Self:
        """The same search of as many generations as so many evaluations of the network are worth.

        Args:
            evaluations: for each sample, draws among them; one generation is made at least.
            prior: on whose grid and path a sampler steps; needed with one.

        Raises:
            ValueError: without a solver that says how many it takes, or a sampler's prior.
        """
        left = evaluations - self.draws * self._taken(prior)
        each = sum(
            len(part) * self._taken(prior, time)
            for part, time in zip(self._parts(), self.times, strict=True)
        )
        return replace(self, generations=max(1, round(left / each)))

    def _taken(self, prior: Prior | None, start: float = 0.0) -> int:
        """Evaluations of the network from a time on."""
        if isinstance(self.solver, FixedStep):
            return self.solver.after(start).evaluations
        if not isinstance(self.solver, Sampler):
            raise ValueError(f"solver: expected one of fixed steps, got {self.solver!r}")
        if prior is None:
            raise ValueError("prior: expected the one of the search, for its sampler, got None")
        return self.solver.evaluations(prior, start)

    def _parts(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Numbers of the children of a generation, shared out among the times."""
        return torch.arange(self.children, device=device).tensor_split(len(self.times))

    def search(self, search: Search, z: Tensor) -> None:
        """Draws, then generation by generation; see `SearchMethod`."""
        best = self._drawn(search, z)
        path = search.prior.flow.path
        rest = [(level_at(path, time), _after(search.solver, time)) for time in self.times]
        parts = self._parts(z.device)
        own = torch.cat(parts)
        for generation in range(self.generations):
            if not len(search.rows):
                break
            place = (own + generation) % self.parents
            place = torch.where(best.costs[:, place].isfinite(), place, 0)  # (b, λ)
            children = []
            for (level, solver), part in zip(rest, parts, strict=True):
                for few in part.split(self.chunk):
                    parents = best.of(place[:, few])
                    x = self._renoised(search, parents, few, level, generation)
                    number = self.draws + generation * self.children + few
                    children.append(
                        self._born(search, x, parents.kinds, solver, level.time, number)
                    )
            new = _Best.joined(children)
            self._note(search)
            status = search.lost(new.costs.isfinite().any(1))
            # a black box that has nothing to say of these children may have of the next
            status = torch.where(status == Status.FAILED, int(Status.RUNNING), status)
            kept = search.leave(torch.where(search.reached, int(Status.TARGET), status))
            families = torch.arange(self.parents, device=z.device).expand_as(best.costs)
            families = torch.cat((families, place), 1)
            best = _Best.joined([best, new]).survivors(families, self.family, self.parents)
            best = best if kept is None else best.take(kept)
        search.end(Status.MAX_ITERATIONS)

    def _drawn(self, search: Search, z: Tensor) -> _Best:
        """The best draws of the samples that stay; each leaves as soon as one meets its target."""
        own = torch.arange(self.draws, device=z.device)
        parts: list[_Best] = []
        for part in own.split(self.chunk):
            if parts and search.target is not None:
                kept = search.leave(torch.where(search.reached, int(Status.TARGET), 0))
                parts = parts if kept is None else [few.take(kept) for few in parts]
            if not len(search.rows):
                break
            draws = part.expand(len(search.rows), len(part))
            kinds = draws % self.variants
            drawn = search.draw(draws, self._told(kinds))
            parts.append(self._born(search, drawn, kinds, number=part))
        self._note(search, finished=False)
        best = _Best.joined(parts)
        if not len(search.rows):
            return best
        best = best.survivors(own.expand(len(search.rows), self.draws), 1, self.parents)
        status = search.lost(best.costs.isfinite().any(1))
        kept = search.leave(torch.where(search.reached, int(Status.TARGET), status))
        return best if kept is None else best.take(kept)

    def _note(self, search: Search, finished: bool = True) -> None:
        more = {"variant": search.kinds} if self.variants > 1 else {}
        search.note(finished, **more)

    def _born(
        self,
        search: Search,
        x: Tensor,
        kinds: Tensor,
        solver: Solver | Sampler | None = None,
        start: float = 0.0,
        number: Tensor | None = None,
    ) -> _Best:
        """What comes of states (b, J, *) of variants (b, J) at a time, scored; see `solved`."""
        draws = None if number is None else number.expand(kinds.shape)
        ends = search.solved(x, solver, start, self._told(kinds), draws)
        return _Best(ends, search.judged(ends, ends, kinds=self._told(kinds)), kinds)

    def _told(self, kinds: Tensor) -> Tensor | None:
        """The variants, where there are several."""
        return kinds if self.variants > 1 else None

    def _renoised(
        self, search: Search, parents: _Best, own: Tensor, level: Level, generation: int
    ) -> Tensor:
        """States (b, J, *) at a level on the path from fresh noise to final states (b, J, *).

        Args:
            search: the samples.
            parents: J of each.
            own: numbers of the children in their generation, shape (J,).
            level: of t.
            generation: its number.
        """
        seeds = further(search.seeds.unsqueeze(1), own).flatten()
        prior, _ = search.candidates(len(own), self._told(parents.kinds))
        x = parents.states.flatten(0, 1)
        stream = _GENERATIONS + generation
        noise = prior.source.sample(seeds, stream, dtype=x.dtype, device=x.device)
        noise = joined(prior, noise, x)
        x = prior.source.project(prior.flow.noised(x, noise, level.alpha, level.sigma))
        return x.unflatten(0, parents.states.shape[:2])


def _after(solver: Solver | Sampler, time: float) -> Solver | Sampler:
    """What goes on from a time; a sampler is told of it when it steps."""
    return solver if isinstance(solver, Sampler) else solver.after(time)


class _Best(NamedTuple):
    """Candidates of the samples at work.

    Attributes:
        states: final ones, shape (b, J, *).
        costs: infinite where there is none, shape (b, J).
        kinds: variants that they are of, int64, shape (b, J).
    """

    states: Tensor
    costs: Tensor
    kinds: Tensor

    @classmethod
    def joined(cls, parts: list[_Best]) -> _Best:
        """All of some parts."""
        return cls(*(torch.cat(rows, 1) for rows in zip(*parts, strict=True)))

    def take(self, index: Tensor) -> _Best:
        return _Best(*(part[index] for part in self))

    def of(self, places: Tensor) -> _Best:
        """Those at places (b, K)."""
        each = torch.arange(len(places), device=places.device).unsqueeze(1)
        return _Best(*(part[each, places] for part in self))

    def survivors(self, families: Tensor, most: int, count: int) -> _Best:
        """The best `count`, best first; of each family the best `most`, others after all these.

        Args:
            families: numbers of them, shape (b, J).
            most: of a family.
            count: how many, <= J.
        """
        order = self.costs.argsort(dim=1, stable=True)
        same = families.gather(1, order)
        same = same.unsqueeze(2) == same.unsqueeze(1)  # [j, i]: i, which is better, is of j's
        more = same.tril(-1).sum(2) >= most
        order = order.gather(1, more.to(torch.int8).argsort(dim=1, stable=True)[:, :count])
        return self.of(order)
