"""The rows of `rare`: targets that draws do not meet, and the ways to molecules that have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import Cost, PropertyCost
from ctrlgen.domains.molecules import atom_counts
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.molecule_batches import CHURN, alphabet_of, fitted, padded, stepping
from ctrlgen.domains.molecules.properties import PROPERTIES, Request
from ctrlgen.domains.molecules.regressors import PropertyNetwork, Types
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.domains.molecules.screening import Standing, screen, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.uncertainty import HeadCovariance, UncertaintyCost, features_of
from ctrlgen.domains.molecules.verdicts import CONFIRMED
from ctrlgen.experiments.dflow.molecules_rows import denoised_guidance
from ctrlgen.experiments.molecules.draws import best
from ctrlgen.methods import EvolutionStrategy, RenoisingSearch
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import further

__all__ = [
    "KINDS", "Bench", "Predicted", "Targets", "best_of_draws", "dflow", "evolution", "guidance",
    "near", "renoising", "renoising_steered", "targets_of",
]  # fmt: skip

KINDS = ("tail", "beyond", "joint", "typical")
JOINT = ("gap", "mu", "alpha")
TAIL, BEYOND = 0.001, 0.1
TYPICAL = ("gap", 6800.0)  # about the mean of QM9
POPULATION, SIGMA = 8, 0.25
SCALE = torch.tensor([DEVIATION[name] for name in PROPERTIES])


@dataclass(frozen=True)
class Targets:
    """What is wanted of B molecules.

    Attributes:
        columns: places of their properties in `PROPERTIES`, shape (B, P), long.
        values: wanted, in the package's units, shape (B, P).
        counts: heavy atoms, shape (B,), long.
    """

    columns: Tensor
    values: Tensor
    counts: Tensor

    def sizes(self, draws: int) -> Tensor:
        """Heavy atoms of further draws from p(n | targets), those of the first `counts`, (B, J)."""
        table, names = atom_counts.sizes("qm9-heavy").only(range(2, 10)), list(PROPERTIES)
        seeds = further(torch.arange(len(self.values))[:, None], torch.arange(draws))
        rows = []
        for own, places, wanted in zip(
            seeds, self.columns.tolist(), self.values.tolist(), strict=True
        ):
            pairs = zip(places, wanted, strict=True)
            requests = [Request(names[place], value, value) for place, value in pairs]
            rows.append(table.draw(requests, own))
        return torch.stack(rows)


def targets_of(kind: str, number: int, known: Molecules, held: Molecules) -> Targets:
    """The targets of a kind.

    Args:
        kind: of `KINDS`.
        number: of molecules.
        known: D_b, of which the tails are.
        held: the split of which joint targets are.
    """
    seeds = torch.arange(number)
    if kind == "joint":
        columns = torch.tensor([list(PROPERTIES).index(name) for name in JOINT]).expand(number, -1)
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[:number]
        values = torch.stack([held.properties[name][order] for name in JOINT], 1).double()
    elif kind == "typical":
        columns = torch.full((number, 1), list(PROPERTIES).index(TYPICAL[0]))
        values = torch.full((number, 1), TYPICAL[1], dtype=torch.float64)
    else:
        columns = (seeds % len(PROPERTIES))[:, None]
        ends = torch.stack([_ends(known.properties[name], kind) for name in PROPERTIES])
        values = ends[columns[:, 0], seeds // len(PROPERTIES) % 2][:, None]
    targets = Targets(columns, values, torch.zeros(0))
    return replace(targets, counts=targets.sizes(1)[:, 0])


def _ends(values: Tensor, kind: str) -> Tensor:
    """The low and the high target of a property, shape (2,)."""
    if kind == "tail":
        return values.double().quantile(torch.tensor([TAIL, 1 - TAIL]).double())
    low, high = values.double().min(), values.double().max()
    return torch.stack((low - BEYOND * (high - low), high + BEYOND * (high - low)))


def near(targets: Targets, known: Molecules) -> Tensor:
    """Molecules of the data that have what is wanted, and whole ones among them, (B, 2), long.

    They have it within `CONFIRMED` deviations. Whole by the table of bonds: what has a charge is
    not, so that a target of which only zwitterions are is one that no whole molecule meets.
    """
    values = torch.stack([known.properties[name] for name in PROPERTIES], 1).double()
    rows = []
    for columns, wanted in zip(targets.columns, targets.values, strict=True):
        away = ((values[:, columns] - wanted) / SCALE.double()[columns]).abs()
        place = (away <= CONFIRMED).all(1).nonzero()[:, 0]
        told = stability(known.positions[place], known.classes[place], "qm9-heavy")
        rows.append([len(place), int((told.molecules & told.connected).sum())])
    return torch.tensor(rows)


class Predicted(PerSample):
    """What a guide says of the properties that each molecule is asked for, in deviations, (B, P).

    Args:
        network: the guide.
        columns: their places, shape (B, P).
        types: how classes are read, see `scoring.Guide`.
    """

    per_sample = ("columns",)

    def __init__(self, network: PropertyNetwork, columns: Tensor, types: Types) -> None:
        self.guide, self.columns = Guide(network, list(PROPERTIES), types), columns

    def __call__(self, signal: Tensor) -> Tensor:
        values = self.guide(signal)
        return (values / follow(SCALE, values)).gather(1, follow(self.columns, values))


@dataclass(frozen=True)
class Bench:
    """Targets of a kind, and all that the rows share.

    Attributes:
        prior, guide, evaluator: networks.
        targets: what is wanted.
        settings: of D-Flow.
        strengths: of guidance, to choose from.
        labels: properties (B, 6) of molecules that QM9 has, from RDKit molecules; NaN elsewhere.
        weight: of the squared uncertainty of the guide in the cost, and
        covariance: of its head, which is needed where the weight is not zero.
    """

    prior: Prior
    guide: PropertyNetwork
    evaluator: PropertyNetwork
    targets: Targets
    settings: Settings
    strengths: Sequence[float]
    labels: Callable[[Sequence[Any]], Tensor]
    weight: float = 0.0
    covariance: HeadCovariance | None = None

    @property
    def seeds(self) -> Tensor:
        """Of the molecules, 0, 1, ..."""
        return torch.arange(len(self.targets.counts))

    def cost(self, rows: Tensor, types: Types = "straight-through") -> Cost:
        """The cost of some molecules, in squared deviations."""
        cost: Cost = self.aim(rows, types)
        if self.weight and self.covariance is not None:
            features = features_of(self.guide, types)
            columns = self.targets.columns[rows]
            cost = cost + self.weight * UncertaintyCost(features, self.covariance, columns)
        return cost

    def aim(self, rows: Tensor, types: Types = "straight-through") -> PropertyCost:
        """The part of the cost that says whether molecules have what is wanted."""
        columns = self.targets.columns[rows]
        wanted = self.targets.values[rows] / SCALE.double()[columns]
        return PropertyCost(Predicted(self.guide, columns, types), wanted, wanted)


def dflow(bench: Bench) -> tuple[Tensor, dict[str, Any]]:
    """Signals, and what they took a molecule."""
    task = Task(
        cost=lambda rows, counts: bench.cost(rows),
        counts=lambda rows, seeds: bench.targets.counts[rows],
        aim=(lambda rows, counts: bench.aim(rows)) if bench.weight else None,
    )
    found = generate(bench.prior, task, bench.seeds, bench.settings)
    each = (found.network.forward_rows + found.network.vjp_rows) / len(found)
    return found.samples, {"evaluations": each, "settings": repr(bench.settings)}


def best_of_draws(bench: Bench, draws: int) -> tuple[Tensor, dict[str, Any]]:
    """The draws that the guide likes best, whole ones first."""
    counts, solver = bench.targets.counts, bench.prior.solver(bench.settings.steps)
    cost = bench.cost(bench.seeds, "hard")
    _, result = screen(bench.prior, cost, bench.seeds, counts, solver, draws=draws)
    each = result.network.forward_rows / len(counts)
    return padded(result.samples, bench.prior), {"evaluations": each, "settings": f"K = {draws}"}


def evolution(bench: Bench, draws: int) -> tuple[Tensor, dict[str, Any]]:
    """As many draws as D-Flow has, the best of them bred with what is left of `draws` solves."""
    counts, first = bench.targets.counts, min(bench.settings.draws, draws)
    method = EvolutionStrategy(
        solver=bench.prior.solver(bench.settings.steps), sphere=True, sigma=SIGMA, draws=first,
        population=POPULATION, generations=max(1, (draws - first) // POPULATION),
    )  # fmt: skip
    name = alphabet_of(bench.prior)
    cost = bench.cost(bench.seeds, "hard") + bench.settings.valence * ValenceCost(name)
    result = method(fitted(bench.prior, counts), Standing(cost, name), seeds=bench.seeds)
    each = result.network.forward_rows / len(counts)
    return padded(result.samples, bench.prior), {"evaluations": each, "settings": repr(method)}


def renoising(
    bench: Bench, evaluations: float, sizes: bool = False, stochastic: bool = False
) -> tuple[Tensor, dict[str, Any]]:
    """Draws for a quarter of the evaluations, at most; the best drawn again with the rest.

    Args:
        bench: what is wanted.
        evaluations: of the network, for each molecule.
        sizes: every draw has a size of its own, and all breed in one population.
        stochastic: draws and children by as many stochastic steps.
    """
    one = _renoising(bench, evaluations, stochastic)
    one = replace(one, variants=one.draws if sizes else 1)
    counts, rows = bench.targets.counts, bench.seeds
    if sizes:
        counts = bench.targets.sizes(one.draws).flatten()
        rows = rows.repeat_interleave(one.draws)
    cost = Standing(bench.cost(rows, "hard"), alphabet_of(bench.prior))
    result = one(fitted(bench.prior, counts), cost, seeds=bench.seeds)
    spent = result.network.forward_rows / len(result.seeds)
    account = {"evaluations": spent, "settings": repr(one)}
    return padded(result.samples, bench.prior), account


def _renoising(bench: Bench, evaluations: float, stochastic: bool = False) -> RenoisingSearch:
    steps = bench.settings.steps
    draws = max(RenoisingSearch.parents, int(min(bench.settings.draws, evaluations / 8 / steps)))
    solver = stepping(bench.prior, 2 * steps, CHURN) if stochastic else bench.prior.solver(steps)
    return RenoisingSearch(solver=solver, draws=draws).within(evaluations, bench.prior)


def renoising_steered(bench: Bench, evaluations: float) -> tuple[Tensor, dict[str, Any]]:
    """Renoising with half of the evaluations, then L-BFGS, where a molecule misses, with the rest.

    As `ctrlgen molecule generate --search renoising` does: a molecule that is whole and at its
    target is done.
    """
    search = _renoising(bench, evaluations / 2)
    left = evaluations / 2 / (2 * bench.prior.solver(bench.settings.steps).evaluations)
    settings = replace(
        bench.settings, search="renoising", draws=search.draws, generations=search.generations,
        evaluations=max(1, int(left) - 1), restarts=0,
    )  # fmt: skip
    return dflow(replace(bench, settings=settings))


def guidance(bench: Bench, evaluations: float) -> tuple[Tensor, dict[str, Any]]:
    """The best whole of as many guided samples as the evaluations allow."""
    steps = 2 * bench.settings.steps
    draws = max(1, round(evaluations / (2 * steps)))
    errors = []
    for strength in bench.strengths:
        with torch.no_grad():
            tried = _guided(bench, strength, further(bench.seeds, 2 * draws))
            error = bench.aim(bench.seeds, "hard").errors(tried).abs()
        errors.append(float(error.nan_to_num(nan=1e6).mean()))
    strength = bench.strengths[errors.index(min(errors))]
    cost, name = bench.cost(bench.seeds, "hard"), alphabet_of(bench.prior)

    def order(signals: Tensor) -> Tensor:
        with torch.no_grad():
            return standing(cost(signals), signals, name)

    found = best(lambda seeds: _guided(bench, strength, seeds), bench.seeds, draws, order)
    text = f"best of {draws}, strength {strength:g} of {list(bench.strengths)}"
    return found, {"evaluations": 2.0 * steps * draws, "settings": text}


def _guided(bench: Bench, strength: float, seeds: Tensor) -> Tensor:
    method = denoised_guidance(2 * bench.settings.steps, strength)
    prior = fitted(bench.prior, bench.targets.counts)
    return padded(method(prior, bench.cost(bench.seeds, "soft"), seeds=seeds).samples, bench.prior)
