"""Scores without a gradient in a steered search: they choose, and are counted."""

from __future__ import annotations

import torch
from tiny_molecules import Cards
from torch import Tensor

from ctrlgen.costs import BlackBoxCost, FunctionCost
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.molecule_batches import fitted
from ctrlgen.domains.molecules.screening import standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import split
from ctrlgen.priors.prior import load
from ctrlgen.rows.seeds import further

SEEDS = [3, 14]


def gyration(signal: Tensor) -> Tensor:
    """The mean square radius in Angstrom², shape (B,)."""
    parts = split(signal)
    return parts.positions.square().sum((1, 2)) / parts.counts


def test_scores_without_a_gradient_choose_among_draws_and_starts(cards: Cards) -> None:
    """The lowest of all that were looked at, of as many calls as are told."""
    asked: list[int] = []

    def score(x: Tensor) -> Tensor:
        asked.append(len(x))
        return gyration(x)

    prior = load(cards.prior)
    settings = Settings(steps=2, draws=3, restarts=1, iterations=0, valence=0.0)
    nothing = FunctionCost(lambda x: 0 * x.flatten(1).sum(1))
    task = Task(
        cost=lambda rows, counts: nothing,
        counts=lambda rows, seeds: torch.full((len(rows),), 4),
        scores=((BlackBoxCost(score, cache=False), True),),
    )
    found = generate(prior, task, SEEDS, settings)
    four = fitted(prior, torch.full((6,), 4))
    for row, seed in enumerate(SEEDS):
        seeds = further(torch.tensor(seed), torch.arange(6))
        signals = four.sample(seeds, four.solver(2))
        ranked = standing(gyration(signals), signals, "qm9-heavy")
        assert int(found.seeds[row]) == int(seeds[ranked.argmin()])
    assert not bool(found.satisfied.any()) and found.starts.tolist() == [2, 2]
    torch.testing.assert_close(found.costs, gyration(found.samples))
    steered = found.backward_passes // 4
    assert sum(asked) == int((found.objective_calls - steered + found.starts).sum())
