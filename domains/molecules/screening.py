r"""Where to begin: the best of many draws of every molecule, before any of them is steered.

A solve without gradients costs a third of one step of an optimiser, and a molecule that is whole
and near its target stays whole on the way there. So the first stage is `BestOf` in the order of
`standing`: it ends for a molecule as soon as a draw is whole and at its target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, as_cost
from ctrlgen.domains.molecules.molecule_batches import (
    Generated,
    alphabet_of,
    fitted,
    gather,
    molecules_of,
    whole,
)
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.methods import BestOf
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds, further
from ctrlgen.solvers import Solver

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.tasks import Task

__all__ = ["Standing", "chosen", "goal_of", "screen", "screened", "standing"]

_TORN = 4.0


def standing(costs: Tensor, signals: Tensor, name: str) -> Tensor:
    """What molecules are compared by, shape (B,), float64: whole ones first, then the lowest cost.

    Args:
        costs: shape (B,); NaN is worse than everything.
        signals: shape (B, N, 3 + K).
        name: their alphabet.
    """
    value = costs.double()
    value = value / (1 + value.abs()) + (~whole(signals, name)).double() * _TORN
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf)


def goal_of(target: float | None) -> float | None:
    """The `standing` at which a whole molecule has a cost, >= 0; None for none."""
    return None if target is None else target / (1 + target)


class Standing(Cost):
    """`standing` as a cost, by its values alone.

    Args:
        cost: of signals.
        name: their alphabet.
    """

    per_sample = ("cost",)
    differentiable = False

    def __init__(self, cost: CostLike, name: str) -> None:
        self.cost, self.name = as_cost(cost), name

    def forward(self, x: Tensor) -> Tensor:
        return standing(self.cost(x), x, self.name).to(x.dtype)


def screen(
    prior: Prior,
    cost: CostLike,
    seeds: Seeds,
    counts: Tensor,
    solver: Solver,
    *,
    draws: int,
    target: float | None = None,
) -> tuple[Tensor, Result]:
    """The seed of the best draw of each molecule, shape (B,), and the search that found it.

    Args:
        prior: of molecules.
        cost: of signals, for all molecules.
        seeds: of their first draws, shape (B,); see `ctrlgen.rows.seeds.further`.
        counts: atoms of each molecule, shape (B,), long.
        solver: of the flow.
        draws: to choose from, >= 1; the first of equals is taken.
        target: cost of a whole molecule at which its search ends, >= 0.
    """
    method = BestOf(n=draws, solver=solver, target=goal_of(target))
    result = method(fitted(prior, counts), Standing(cost, alphabet_of(prior)), seeds=seeds)
    return further(result.seeds, result.history["draw"][-1]), result


def screened(
    prior: Prior,
    task: Task,
    rows: Tensor,
    seeds: Tensor,
    counts: Tensor,
    settings: Settings,
    draws: int,
) -> Generated:
    """The best of some draws of each molecule; its costs are standings."""
    with carrying(lambda partial: partial and molecules_of(prior, partial, counts)):
        chosen, result = screen(
            prior, task.order(prior, rows, counts, settings), seeds, counts,
            prior.solver(settings.steps), draws=draws, target=settings.tolerance**2,
        )  # fmt: skip
    made = molecules_of(prior, result, counts)
    made.seeds = chosen
    return made


def chosen(
    prior: Prior,
    task: Task,
    rows: Tensor,
    seeds: Tensor,
    counts: Tensor,
    settings: Settings,
    named: Tensor,
) -> Generated:
    """The best draw of each molecule, or the one that is named, as it is."""
    parts, places = [], []
    for group, draws in ((~named, settings.draws), (named, 1)):
        if bool(group.any()):
            places.append(group.nonzero()[:, 0])
            of = (rows[group], seeds[group], counts[group])
            parts.append(screened(prior, task, *of, settings, draws))
    made = gather(parts).take(torch.cat(places).argsort())
    made.network = sum((part.network for part in parts), Evaluations())
    task.price(prior, made, rows, settings)
    return task.judged(prior, made, rows, settings)
