r"""Ragged batches of molecules: rows of any sizes, what is found of each, and how they are joined.

A batch has as many places as its largest molecule; the numbers that a seed draws for an atom do not
depend on the places. Nor does any result of heavy atoms, which always have nine; with all atoms a
sum over more places may round otherwise, in the last digits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import Atoms, split
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.counts import Evaluations

__all__ = ["Found", "alphabet_of", "fitted", "gather", "padded", "result_of", "whole"]

_FEW = 9


@dataclass
class Found(PerSample):
    """Molecules of a run, one row each, in the order of the request.

    Attributes:
        signals: positions in Angstrom and class weights, shape (B, N, 3 + K).
        controls: source points, shape (B, N, 3 + K).
        costs: without the penalty, shape (B,).
        counts: atoms of the prior's alphabet, long, shape (B,).
        seeds: of the start that was kept, shape (B,).
        status: `ctrlgen.methods.result.Status`, shape (B,).
        iterations: of the start that was kept, shape (B,).
        evaluations: of the network, for all starts with their draws, shape (B,).
        backward_passes: through the network, for all starts, shape (B,).
        objective_calls: of all starts, shape (B,).
        starts: how many starts it took, shape (B,).
        satisfied: in one piece, stable, on target; bool, shape (B,).
        history: by name, tensors (R, B), one row per start: "cost" of the best one so far, and
            "evaluations", "objective_calls" and "starts" up to there.
    """

    signals: Tensor
    controls: Tensor
    costs: Tensor
    counts: Tensor
    seeds: Tensor
    status: Tensor
    iterations: Tensor
    evaluations: Tensor
    backward_passes: Tensor
    objective_calls: Tensor
    starts: Tensor
    satisfied: Tensor
    history: dict[str, Tensor] = field(default_factory=dict)

    per_sample = (
        "signals", "controls", "costs", "counts", "seeds", "status", "iterations", "evaluations",
        "backward_passes", "objective_calls", "starts", "satisfied",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, index: Tensor) -> Found:
        """The molecules `index`, with their histories."""
        taken = super().take(index)
        where = index.to(self.seeds.device)
        taken.history = {k: v.index_select(1, where) for k, v in self.history.items()}
        return taken


def alphabet_of(prior: Prior) -> str:
    """Alphabet of a prior of molecules, by its number of classes.

    Raises:
        ValueError: if it is no prior of molecules.
    """
    known = {8: "qm9", 17: "qm9-heavy"}
    if not isinstance(prior.source, Atoms) or prior.source.features not in known:
        raise ValueError(f"prior: expected one of molecules, got {prior!r}")
    return known[prior.source.features]


def fitted(prior: Prior, counts: Tensor) -> Prior:
    """The prior bound to numbers of atoms, with as many places as the largest molecule needs.

    The numbers that a seed draws for an atom do not depend on the places. Molecules of few heavy
    atoms always have all nine, which cost little: sums over places then round alike in every batch.
    """
    source = prior.source
    assert isinstance(source, Atoms)
    clone = copy.copy(prior)
    places = max(2, int(counts.max()))
    clone.source = Atoms(max(places, min(source.places, _FEW)), source.features)
    return clone.bind(counts=counts)


def padded(x: Tensor, prior: Prior) -> Tensor:
    """States or signals (B, n, F) of a `fitted` prior, with all N places of the prior."""
    return torch.nn.functional.pad(x, (0, 0, 0, prior.source.shape[0] - x.shape[1]))


def whole(signals: Tensor, name: str) -> Tensor:
    """Molecules in one piece with every atom stable, bool, shape (B,)."""
    parts = split(signals)
    told = stability(parts.positions, parts.hard, name)
    return told.molecules & told.connected


def gather(parts: Sequence[Found]) -> Found:
    """Rows put together."""
    rows: dict[str, Any] = {
        key: torch.cat([getattr(p, key) for p in parts]) for key in Found.per_sample
    }
    return Found(**rows)


def result_of(found: Found, network: Evaluations, method: str = "") -> Result:
    """Molecules as the result of a run; the seed of each is that of the start that was kept."""
    return Result(
        samples=found.signals,
        controls=found.controls,
        network=network,
        history=found.history,
        method=method,
        **{
            name: getattr(found, name)
            for name in (
                "costs", "status", "seeds", "iterations", "evaluations", "backward_passes",
                "objective_calls",
            )
        },
    )  # fmt: skip
