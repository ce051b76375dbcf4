r"""The search for a front of molecules: one pool of draws for all directions, then D-Flow for each.

    draws of all seeds, solved once ── assigned to directions ── steered, each along its own

A draw costs the same whoever looks at it. So all draws of a run are one pool, and each direction
starts from a draw that is its own: the assignment of least total `standing` (Kuhn 1955), for as
many starts of each direction as it may need, which keeps two directions from the same molecule.
The size of a molecule is that of its draw, so the search chooses sizes too. A molecule that is not
whole at the end starts again from the next draw of its direction.

The pool belongs to the run, as its seeds and directions do: what becomes of a molecule depends on
those, never on who is computed with it. Every process makes the pool once, for itself. Each row
counts, and remembers in its history, the draws of its own seed: values of guide and evaluator, NaN
for a draw that is no valid molecule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ctrlgen.costs import Cost
from ctrlgen.costs.chebyshev import scalarised
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.front_tables import DRAWS, JUDGES
from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.domains.molecules.generation import steer
from ctrlgen.domains.molecules.molecule_batches import Generated, fitted, padded, whole
from ctrlgen.domains.molecules.scoring import score
from ctrlgen.domains.molecules.screening import standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.starts import Best
from ctrlgen.domains.molecules.steering import Course
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, as_seeds, further

__all__ = ["FrontSearch", "Places"]

_BATCH = 64


class Places(PerSample):
    """Which direction of a front every molecule has: what a run hands to `FrontSearch`.

    Args:
        seeds: of all molecules of the run, whose draws are the pool.
    """

    per_sample = ("places",)

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self.places = torch.arange(len(self.seeds))


class Draws(NamedTuple):
    """Draws of a prior, one row each.

    Attributes:
        seeds, counts, evaluations: of each, long, shape (P,).
        signals: shape (P, N, F).
        terms: costs of the properties of the front, shape (P, K).
        others: what else is asked and valences that are not met, shape (P,).
    """

    seeds: Tensor
    counts: Tensor
    evaluations: Tensor
    signals: Tensor
    terms: Tensor
    others: Tensor


@dataclass(frozen=True)
class FrontSearch:
    """The search as a method: molecules of some places of a front.

    Attributes:
        designer: networks and wish, the properties of the front among its extremes.
        settings: how; `draws` are of each seed, `restarts` are of molecules that are not whole.
        front: what is traded off.
        compare: make as many draws more as steering costs, which nobody starts from: what as many
            evaluations give without steering.
    """

    designer: Designer
    settings: Settings
    front: Front
    compare: bool = False
    _pools: dict[tuple[int, ...], tuple[Draws, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __repr__(self) -> str:
        return f"FrontSearch({self.front}, {self.settings!r})"

    def __call__(
        self, prior: Prior, cost: Places, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """The best start of each molecule.

        Args:
            prior: that of the designer.
            cost: their places.
            seeds: one per molecule.
            observer: receives the events of every batch, of all molecules each.
        """
        pool, starts = self._pool(prior, cost.seeds)
        places = cost.places.cpu()
        directions = self.front.weights(len(cost.seeds))[places]
        own = as_seeds(seeds)
        course = None if observer is None else Course(observer, len(own))
        best, total = Best(len(own)), Evaluations()
        rows, part = torch.arange(len(own)), torch.arange(0)

        def there(cut: Generated | None) -> Result | None:
            entire = cut is not None and len(cut) == len(part)
            made = best.molecules(total, (rows[part].tolist(), cut) if cut and entire else None)
            return made and self._counted(made, pool, places).plain(repr(self))

        with carrying(there):
            for turn in range(starts.shape[1]):
                if turn:
                    rows = torch.tensor([i for i in rows.tolist() if not best.satisfied(i)])
                if not len(rows):
                    break
                begin = starts[places[rows], turn]
                order = torch.argsort(pool.counts[begin], stable=True)
                for part in order.split(self.settings.batch):
                    which, counts = begin[part], pool.counts[begin[part]]
                    made = steer(
                        prior, self._cost(counts, directions[rows[part]]), pool.seeds[which],
                        counts, self.settings,
                        observer=None
                        if course is None
                        else course.part(turn, rows[part], pool.seeds[which]),
                    )  # fmt: skip
                    made.satisfied = whole(made.samples, self.designer.name)
                    total += made.network
                    scores = standing(made.costs, made.samples, self.designer.name)
                    best.add(rows[part].tolist(), made, scores.tolist())
                best.round()
            molecules = best.molecules(total)
            assert molecules is not None
            self._counted(molecules, pool, places)
            shown = pool.signals[self._mine(places)]
            if self.compare:
                after = self.settings.draws + torch.arange(self.settings.worth)
                extra = self._draw(prior, further(own[:, None], after).flatten())
                molecules.network = molecules.network + _passes(extra.evaluations)
                shown = torch.cat((shown, extra.signals.unflatten(0, (len(own), -1))), 1)
            molecules.history |= self._values(shown)
            return molecules.plain(repr(self))

    def _mine(self, places: Tensor) -> Tensor:
        """The draws of the seeds at some places of the run, in the pool, shape (b, J)."""
        draws = self.settings.draws
        return places[:, None] * draws + torch.arange(draws)

    def _counted(self, molecules: Generated, pool: Draws, places: Tensor) -> Generated:
        """The molecules, with the draws of their own seeds counted."""
        spent = pool.evaluations[self._mine(places)]
        molecules.network = molecules.network + _passes(spent)
        for name, more in (("evaluations", spent.sum(1)), ("objective_calls", spent.shape[1])):
            setattr(molecules, name, getattr(molecules, name) + more)
            molecules.history[name] = molecules.history[name] + more
        return molecules

    def _cost(self, counts: Tensor, weights: Tensor) -> Cost:
        about = self.designer
        assert about.guide is not None
        return about.penalised(
            self.front.whole_cost(about.wish, about.guide, about.name, counts, weights, about.types)
        )

    def _pool(self, prior: Prior, seeds: tuple[int, ...]) -> tuple[Draws, Tensor]:
        """The draws of all seeds, and which of them each direction starts from, (D, starts)."""
        if seeds not in self._pools:
            draws = torch.arange(self.settings.draws)
            pool = self._draw(prior, further(as_seeds(list(seeds))[:, None], draws).flatten())
            self._pools[seeds] = pool, self._assigned(pool, len(seeds))
        return self._pools[seeds]

    def _assigned(self, pool: Draws, number: int) -> Tensor:
        """Draws of each direction, each draw to one alone, best first; shape (number, starts)."""
        starts = min(self.settings.restarts + 1, self.settings.draws)
        weights = self.front.weights(number).to(pool.terms)
        values = scalarised(pool.terms, weights[:, None], pool.terms.new_zeros(())) + pool.others
        torn = standing(values[0] * 0, pool.signals, self.designer.name)
        order = values / (1 + values.abs()) + torn  # as `standing`, of all directions
        order = order.double().nan_to_num(nan=9.0, posinf=9.0, neginf=9.0)
        _, taken = linear_sum_assignment(order.repeat_interleave(starts, 0).cpu().numpy())
        own = torch.from_numpy(taken).unflatten(0, (number, starts))
        return own.gather(1, order.cpu().gather(1, own).argsort(dim=1, stable=True))

    def _draw(self, prior: Prior, seeds: Tensor) -> Draws:
        """Draws of some seeds, every one of a size of its own, in batches of alike sizes."""
        about, solver = self.designer, prior.solver(self.settings.steps)
        counts = about.sizes.draw(about.wish.requests, seeds)
        order = torch.argsort(counts, stable=True)
        parts = []
        for part in order.split(_BATCH):
            own, atoms = seeds[part], counts[part]
            bound = fitted(prior, atoms)
            start = bound.start(own)
            metered, meter = bound.metered(own.to(start.device))
            even = torch.ones(len(own), len(self.front.names), dtype=torch.float64)
            assert about.guide is not None
            front = self.front.cost(about.wish, about.guide, about.name, atoms, even, "hard")
            rest = about.penalised(self.settings.valence * ValenceCost(about.name))
            if (others := self.front.others(about.wish)) is not None:
                rest = rest + others.cost(about.guide, about.name, atoms, about.types)
            with torch.no_grad():
                signals = metered.generate(start, solver)
                terms, other = front.terms(signals), rest(signals)
            parts.append(
                Draws(own, atoms, meter.evaluations.cpu(), padded(signals, prior), terms, other)
            )
        back = torch.argsort(order)
        return Draws(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))

    def _values(self, signals: Tensor) -> dict[str, Tensor]:
        """Histories of draws (B, J, N, F): their properties by guide and evaluator, (J, B)."""
        about, flat = self.designer, signals.flatten(0, 1)
        there = whole(flat, about.name).nonzero().flatten().cpu()
        columns = self.front.columns
        values = {w: torch.full((len(flat), len(columns)), torch.nan) for w in JUDGES}
        if len(there):
            told = score(flat[there], about.name, guide=about.guide, evaluator=about.evaluator)
            own = there[told.valid]
            for who in JUDGES:
                values[who][own] = getattr(told, who)[told.valid][:, columns]
        return {
            DRAWS.format(who, name): table[:, place].unflatten(0, signals.shape[:2]).T.contiguous()
            for who, table in values.items()
            for place, name in enumerate(self.front.names)
        }


def _passes(evaluations: Tensor) -> Evaluations:
    """Of draws that were solved at once."""
    return Evaluations(forward=int(evaluations.max()), forward_rows=int(evaluations.sum()))
