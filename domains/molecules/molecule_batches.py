r"""Ragged batches of molecules: rows of any sizes, what is found of each, and how they are joined.

A batch has as many places as its largest molecule; the numbers that a seed draws for an atom do not
depend on the places. Nor does any result of heavy atoms, which always have nine; with all atoms a
sum over more places may round otherwise, in the last digits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import ALPHABETS, described
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import Atoms, split
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Grid
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import Ancestral
from ctrlgen.solvers import Solver
from ctrlgen.solvers.fixed import FixedStep

__all__ = [
    "CHURN",
    "Generated",
    "alphabet_of",
    "drawn",
    "fitted",
    "gather",
    "molecules_of",
    "padded",
    "qm9_of",
    "stepping",
    "whole",
]

CHURN = 16.0
"""Rate of fresh noise in the steps of draws: of 2 to 64 the best (weights/quality)."""

_FEW = 9


@dataclass(kw_only=True, repr=False)  # that of a result
class Generated(Result):
    """Molecules of a run, one row each, in the order of the request.

    As of `Result`; seed, status and iterations are of the start that was kept, counts of all
    starts with their draws. The history has a row per start: "cost" of the best one so far, and
    "evaluations", "objective_calls" and "starts" up to there.

    Attributes:
        atoms: of the prior's alphabet, long, shape (B,).
        starts: how many starts it took, shape (B,).
        satisfied: in one piece, stable, on target; bool, shape (B,).
    """

    atoms: Tensor
    starts: Tensor
    satisfied: Tensor

    per_sample = (*Result.per_sample, "atoms", "starts", "satisfied")

    def plain(self, method: str) -> Result:
        """What a run keeps of it, as made by a method."""
        own = {each.name: getattr(self, each.name) for each in fields(Result)}
        return Result(**{**own, "method": method})


def alphabet_of(prior: Prior) -> str:
    """Alphabet of a prior of molecules, by its number of classes.

    Raises:
        ValueError: if it is no prior of molecules.
    """
    known = {3 + len(own.classes): name for name, own in ALPHABETS.items()}
    if not isinstance(prior.source, Atoms) or prior.source.features not in known:
        raise ValueError(f"prior: expected one of molecules, got {prior!r}")
    return known[prior.source.features]


def qm9_of(prior: Prior) -> str:
    """Alphabet of a prior of QM9's molecules.

    Raises:
        ValueError: if it is another prior, also one of drug-like molecules, for which there are no
            guides and evaluators of QM9's properties.
    """
    name = alphabet_of(prior)
    if not described(name).properties:
        raise ValueError(
            f"prior: expected one of QM9's molecules, got the drug-like {prior!r}; it is steered "
            "by scores, `molecule sample --score`, and in Python by any cost of "
            f"`cg.molecules.Molecules({name!r})`"
        )
    return name


def fitted(prior: Prior, counts: Tensor) -> Prior:
    """The prior bound to numbers of atoms, with as many places as the largest molecule needs.

    The numbers that a seed draws for an atom do not depend on the places. Molecules of few heavy
    atoms always have all nine, which cost little: sums over places then round alike in every batch.
    """
    source = prior.source
    assert isinstance(source, Atoms)
    clone = copy.copy(prior)
    places = max(2, int(counts.max()))
    clone.source = source.of(max(places, min(source.places, _FEW)), None)
    return clone.bind(counts=counts)


def stepping(
    prior: Prior, steps: int, churn: float | None = None, grid: Grid | None = None
) -> FixedStep | Sampler:
    """What draws molecules of a prior.

    Args:
        prior: of molecules.
        steps: midpoint steps, or stochastic ones.
        churn: λ of stochastic steps; None for those of the ODE.
        grid: of the steps; the prior's by default.
    """
    if churn is None:
        return prior.solver(steps, grid=grid)
    return Sampler(steps, Ancestral(churn), grid)


def drawn(prior: Prior, counts: Tensor, solver: Solver | Sampler, batch: int) -> Tensor:
    """Signals (B, N, F) of a prior of molecules from seeds 0, 1, ...

    Args:
        prior: unconditional but for the numbers of atoms.
        counts: atoms of each, shape (B,).
        solver: of the flow, or a sampler.
        batch: molecules at a time.
    """
    signals = torch.zeros(len(counts), *prior.source.shape, device=prior.device)
    # batches of alike sizes: pairs of atoms that are padding cost as much as others
    for seeds in torch.argsort(counts, stable=True).split(batch):
        own = fitted(prior, counts[seeds])
        found = solver(own, seeds) if isinstance(solver, Sampler) else own.sample(seeds, solver)
        signals[seeds, : found.shape[1]] = found
    return signals


def padded(x: Tensor, prior: Prior) -> Tensor:
    """States or signals (B, n, F) of a `fitted` prior, with all N places of the prior."""
    return torch.nn.functional.pad(x, (0, 0, 0, prior.source.shape[0] - x.shape[1]))


def whole(signals: Tensor, name: str) -> Tensor:
    """Molecules in one piece with every atom stable, bool, shape (B,)."""
    parts = split(signals)
    told = stability(parts.positions, parts.hard, name)
    return told.molecules & told.connected


def gather(parts: Sequence[Generated]) -> Generated:
    """Rows put together, without their histories."""
    rows: dict[str, Any] = {
        key: torch.cat([getattr(p, key) for p in parts]) for key in Generated.per_sample
    }
    return Generated(**rows)


def molecules_of(prior: Prior, result: Result, counts: Tensor) -> Generated:
    """What a method has made, with all places of the prior.

    Args:
        prior: of molecules.
        result: of a method on the `fitted` prior.
        counts: atoms of each, shape (B,).
    """
    samples = padded(result.samples, prior)
    own = {
        **{field.name: getattr(result, field.name) for field in fields(Result)},
        "samples": samples,
        "controls": padded(result.controls, prior),
    }
    return Generated(
        **own,
        atoms=counts.to(result.seeds.device),
        starts=torch.ones_like(result.seeds),
        satisfied=(result.status == Status.TARGET) & whole(samples, alphabet_of(prior)),
    )
