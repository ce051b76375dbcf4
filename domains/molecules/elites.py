r"""Starts that breed: the best draws of a molecule are put back to noise half-way and drawn again.

    draws ── the best by `standing` ── x_t = α_t x^p + σ_t ε ── drawn again ── ... ── the elite
                                                      the elite ── its source point ── D-Flow

The search is `RenoisingSearch` in the order of `standing`, whole molecules first, so it needs no
gradient, and it ends for a molecule as soon as one is whole and at its target. What it finds is no
draw of a seed: D-Flow goes on from the source point that the flow, solved backwards, gives it
(`lead_optimization`), and the elite stays where that is no better.

With sizes every draw has a number of atoms of its own, from p(n | targets), and all breed in one
population, each child of as many atoms as its parent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.molecules.lead_optimization import source_of
from ctrlgen.domains.molecules.molecule_batches import Generated, alphabet_of, fitted, gather
from ctrlgen.domains.molecules.screening import Standing, goal_of, standing
from ctrlgen.methods import RenoisingSearch
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event, Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.seeds import Seeds
from ctrlgen.solvers import Solver

__all__ = ["better", "breed", "source_points"]


def breed(
    prior: Prior,
    cost: CostLike,
    seeds: Seeds,
    counts: Tensor,
    solver: Solver,
    *,
    draws: int,
    generations: int,
    target: float | None = None,
    observer: Observer | None = None,
) -> tuple[Result, Tensor]:
    """The search of each molecule, and the numbers of atoms of what it found, shape (B,).

    Args:
        prior: of molecules.
        cost: of signals, for V variants of each molecule, one after the other.
        seeds: of the molecules, shape (B,).
        counts: atoms of the variants, shape (B, V), long.
        solver: of the flow.
        draws: to begin with, as many as breed at least.
        generations: of eight children, at most.
        target: cost of a whole molecule at which its search ends, >= 0.
        observer: receives an event per generation.
    """
    method = RenoisingSearch(
        draws=draws,
        generations=generations,
        variants=counts.shape[1],
        solver=solver,
        target=goal_of(target),
    )
    result = method(
        fitted(prior, counts.flatten()),
        Standing(cost, alphabet_of(prior)),
        seeds=seeds,
        observer=None if observer is None else _in_costs(observer),
    )
    place = torch.zeros(len(counts), 1, dtype=torch.int64)
    if method.variants > 1:
        place = result.history["variant"][-1].cpu()[:, None]
    return result, counts.gather(1, place)[:, 0]


def _in_costs(observer: Observer) -> Observer:
    """An observer that is told costs where a search has standings."""

    def observe(event: Event) -> None:
        share = event.value.remainder(1)  # c / (1 + c), torn or not
        cost = torch.where(event.value.isfinite(), share / (1 - share), torch.inf)
        observer(event._replace(value=cost, monitor=cost))

    return observe


def source_points(prior: Prior, found: Generated, solver: Solver) -> tuple[Tensor, Meter]:
    """Where the flow makes these molecules from, shape (B, N, F), and the meter of asking.

    Args:
        prior: of molecules.
        found: molecules.
        solver: of the flow, which is solved backwards.
    """
    bound, meter = fitted(prior, found.atoms).metered(found.seeds)
    signals = found.samples[:, : bound.source.shape[0]]
    return source_of(bound, signals, found.seeds, solver=solver), meter


def better(elite: Generated, steered: Generated, left: Tensor, name: str) -> Generated:
    """The elite, or what was made of it where that stands better; with the counts of both.

    Args:
        elite: molecules, as many as there are.
        steered: of some of them.
        left: places of these, shape (b,).
        name: alphabet.
    """
    old, new = (standing(part.costs, part.samples, name) for part in (elite.take(left), steered))
    place = torch.arange(len(elite))
    place[left] = torch.where((new < old).cpu(), len(elite) + torch.arange(len(left)), left)
    chosen = gather([elite, steered]).take(place)
    for key in ("evaluations", "backward_passes", "objective_calls"):
        spent = getattr(elite, key).clone()
        spent[left] += getattr(steered, key)
        setattr(chosen, key, spent)
    chosen.network = elite.network + steered.network
    return chosen
