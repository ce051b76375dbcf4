"""The rows of `drugs`: scores of drug-like molecules, and the ways to molecules that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import Cost, PropertyCost
from ctrlgen.domains.molecules.molecule_batches import CHURN, alphabet_of, fitted, padded, stepping
from ctrlgen.domains.molecules.rdkit_scores import SCALES, ScoreWish
from ctrlgen.domains.molecules.regressors import Regressor
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.domains.molecules.screening import Standing
from ctrlgen.experiments.dflow.molecules_rows import denoised_guidance
from ctrlgen.experiments.molecules.draws import Draw, best
from ctrlgen.methods import RenoisingSearch
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import further
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import Ancestral

__all__ = ["Bench", "drawn", "guidance", "renoising"]


@dataclass(frozen=True)
class Bench:
    """A wish, and all that the rows share.

    Attributes:
        prior, guide: networks.
        wishes: of scores.
        counts: heavy atoms of each molecule, shape (B,), long.
        steps: stochastic steps of a draw.
        strengths: of guidance, to choose from.
    """

    prior: Prior
    guide: Regressor
    wishes: Sequence[ScoreWish]
    counts: Tensor
    steps: int
    strengths: Sequence[float]

    @property
    def seeds(self) -> Tensor:
        """Of the molecules, 0, 1, ..."""
        return torch.arange(len(self.counts))

    @property
    def standing(self) -> Cost:
        """What finished molecules are compared by: whole ones first, then their exact scores."""
        name = alphabet_of(self.prior)
        cost: Any = sum(wish.cost(name) for wish in self.wishes)
        return Standing(cost, name)

    @property
    def guided(self) -> Cost:
        """The same wishes as the guide sees them."""
        cost: Any = sum(
            PropertyCost(
                Guide(self.guide, [wish.name], "soft"), *wish.bounds, scale=SCALES[wish.name]
            )
            for wish in self.wishes
        )  # fmt: skip
        return cost


def drawn(bench: Bench) -> Draw:
    """Draws of the prior alone."""
    prior = fitted(bench.prior, bench.counts)
    sampler = stepping(prior, bench.steps, CHURN)
    assert isinstance(sampler, Sampler)
    return lambda seeds: padded(sampler(prior, seeds), bench.prior)


def guidance(bench: Bench, evaluations: float) -> tuple[Tensor, dict[str, Any]]:
    """The best whole of as many guided draws as the evaluations allow."""
    number = max(1, round(evaluations / (2 * bench.steps)))
    prior = fitted(bench.prior, bench.counts)

    def guided(strength: float) -> Draw:
        method = replace(
            denoised_guidance(bench.steps, strength), rule=Ancestral(CHURN),
            grid=replace(prior.grid, steps=bench.steps, start=0.02),  # type: ignore[call-arg]
        )  # fmt: skip
        return lambda seeds: padded(
            method(prior, bench.guided, seeds=seeds).samples, bench.prior
        )  # fmt: skip

    tried = []
    for strength in bench.strengths:
        signals = guided(strength)(further(bench.seeds, 2 * number))
        tried.append(float(bench.standing(signals).clamp(max=1e3).mean()))
    strength = bench.strengths[tried.index(min(tried))]
    text = f"best of {number}, strength {strength:g} of {list(bench.strengths)}"
    account = {"evaluations": 2.0 * bench.steps * number, "settings": text}
    return best(guided(strength), bench.seeds, number, bench.standing), account


def renoising(bench: Bench, evaluations: float) -> tuple[Tensor, dict[str, Any]]:
    """Draws of the ODE for a quarter of the evaluations, the best drawn again with the rest."""
    solver = bench.prior.solver(10)
    draws = max(RenoisingSearch.parents, int(evaluations / 4 / solver.evaluations))
    method = RenoisingSearch(solver=solver, draws=draws).within(evaluations)
    result = method(fitted(bench.prior, bench.counts), bench.standing, seeds=bench.seeds)
    spent = result.network.forward_rows / len(bench.counts)
    return padded(result.samples, bench.prior), {"evaluations": spent, "settings": repr(method)}
