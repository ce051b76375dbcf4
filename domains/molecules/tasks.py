"""What is wanted of each molecule of a run: costs, sizes, scores, and when it is satisfied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, FunctionCost, as_cost
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.lead_optimization import Ball
from ctrlgen.domains.molecules.molecule_batches import Generated, alphabet_of, whole
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.methods.base import CostLike
from ctrlgen.priors.prior import Prior

__all__ = ["Task", "with_valences"]

_UNSCORED = 1e6
"""What a molecule costs that has no score: finite, so that its other costs still order it."""


@dataclass(frozen=True)
class Task:
    """What is wanted of each molecule of a run; `rows` are their places in it, long, shape (b,).

    Attributes:
        cost: the cost of some molecules from `rows` and their numbers of atoms (b,).
        counts: their numbers of atoms from `rows` and the seeds of a start (b,).
        aim: the part of the cost that says whether a molecule has what was asked, at most the
            square of the tolerance then; None where that is the whole cost.
        scores: costs without a gradient, by which draws and starts are chosen beside the cost, and
            whether each is at most the square of the tolerance where a molecule has what was asked.
        start: source points (b, N, F) and the ball they stay in, from `rows`, seeds and counts;
            None to begin with draws.
    """

    cost: Callable[[Tensor, Tensor], CostLike]
    counts: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Ball]] | None = None
    aim: Callable[[Tensor, Tensor], CostLike | None] | None = None
    scores: tuple[tuple[Cost, bool], ...] = ()

    def scored(self, signals: Tensor) -> list[Tensor]:
        """The scores of signals (b, N, F), shape (b,) each, `_UNSCORED` for none."""
        with torch.no_grad():
            values = [cost(signals.detach()) for cost, _ in self.scores]
        return [v.to(signals).nan_to_num(_UNSCORED, _UNSCORED).clamp_max(_UNSCORED) for v in values]

    def order(self, prior: Prior, rows: Tensor, counts: Tensor, settings: Settings) -> CostLike:
        """What draws of some molecules are compared by: their cost with valences and scores."""
        cost = with_valences(self.cost(rows, counts), prior, settings)
        if not self.scores:
            return cost
        return as_cost(cost) + FunctionCost(lambda x: sum(self.scored(x), x.new_zeros(len(x))))

    def price(self, prior: Prior, made: Generated, rows: Tensor, settings: Settings) -> None:
        """Write the costs of molecules beside them, where a search has their standings."""
        cost = as_cost(with_valences(self.cost(rows, made.atoms.cpu()), prior, settings))
        with torch.no_grad():
            made.costs = cost(made.samples).to(made.costs)

    def judged(self, prior: Prior, made: Generated, rows: Tensor, settings: Settings) -> Generated:
        """Molecules with their scores among the costs, and whether they are satisfied."""
        if self.aim is not None:
            aim = self.aim(rows, made.atoms.cpu())
            made.satisfied = whole(made.samples, alphabet_of(prior))
            if aim is not None:
                with torch.no_grad():
                    made.satisfied &= as_cost(aim)(made.samples) <= settings.tolerance**2
        for (_, aimed), value in zip(self.scores, self.scored(made.samples), strict=True):
            made.costs = made.costs + value
            if aimed:
                made.satisfied &= value <= settings.tolerance**2
        return made


def with_valences(cost: CostLike, prior: Prior, settings: Settings) -> CostLike:
    """A cost with that of valences that are not met, where it has a weight."""
    if not settings.valence:
        return cost
    return as_cost(cost) + settings.valence * ValenceCost(alphabet_of(prior))
