r"""Where to begin: of several source points of a molecule the one whose molecule is nearest.

One solve without gradients tells where a source point leads, at about a third of what one step of
an optimiser costs, and a start that is whole and near its target stays whole on the way there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.molecules.molecule_batches import alphabet_of, fitted, whole
from ctrlgen.methods.base import CostLike
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers import Solver

__all__ = ["screen", "standing"]


def standing(costs: Tensor, signals: Tensor, name: str) -> Tensor:
    """What molecules are compared by, shape (B,), float64: whole ones first, then the lowest cost.

    Args:
        costs: shape (B,); NaN is worse than everything.
        signals: shape (B, N, 3 + K).
        name: their alphabet.
    """
    value = costs.double()
    value = value / (1 + value.abs()) + (~whole(signals, name)).double() * 4
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf)


def screen(
    prior: Prior, cost: CostLike, draws: Tensor, counts: Tensor, solver: Solver
) -> tuple[Tensor, Evaluations]:
    """The seed of the best draw of each molecule, shape (B,), and what finding it took.

    Args:
        prior: of molecules.
        cost: of signals, for all molecules.
        draws: seeds to choose from, shape (D, B); the first of equals is taken.
        counts: atoms of each molecule, shape (B,), long.
        solver: of the flow.
    """
    bound, before = fitted(prior, counts), prior.flow.evaluations.copy()
    chosen = draws[0].clone()
    best = torch.full((len(counts),), torch.inf, dtype=torch.float64, device=counts.device)
    with torch.no_grad():
        for seeds in draws:
            signals = bound.sample(seeds, solver)
            found = standing(cost(signals), signals, alphabet_of(prior)).to(best)
            better = found < best
            chosen, best = torch.where(better, seeds, chosen), torch.where(better, found, best)
    return chosen, prior.flow.evaluations - before
