"""The rows of `dflow.molecules`: ways to molecules, or values, with given n and property.

Every row has the same targets; rows that start from noise have the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.molecule_batches import fitted
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.domains.molecules.screening import screen
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import join
from ctrlgen.methods import TFG
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.steps import DDIM

__all__ = [
    "Bench",
    "Row",
    "best_of_draws",
    "denoised_guidance",
    "dflow",
    "guidance",
    "medians",
    "nearest",
    "published",
    "shuffled",
    "unguided",
]


@dataclass
class Bench:
    """One property, its targets, and all that the rows share.

    Attributes:
        prior, guide, evaluator: networks.
        name: property.
        counts, targets: n and c of each molecule, shape (B,).
        index: QM9 index of the molecule that they are of.
        data: D_b in the prior's alphabet.
        settings: of D-Flow.
        batch: molecules at a time.
        labels: properties (B, 6) of molecules of RDKit, NaN where they are not known.
    """

    prior: Prior
    guide: PropertyNetwork
    evaluator: PropertyNetwork
    name: str
    counts: Tensor
    targets: Tensor
    index: Tensor
    data: Molecules
    settings: Settings
    batch: int
    labels: Callable[[Sequence[Any]], Tensor]

    @property
    def seeds(self) -> Tensor:
        """Of the molecules, 0, 1, ..."""
        return torch.arange(len(self.counts))

    def cost(self, rows: Tensor, types: str = "straight-through") -> PropertyCost:
        """The cost of some molecules, in squared deviations."""
        wanted = self.targets[rows, None]
        guide = Guide(self.guide, [self.name], types)  # type: ignore[arg-type]
        return PropertyCost(guide, wanted, wanted, scale=DEVIATION[self.name])

    def batches(self) -> tuple[Tensor, ...]:
        """Rows of alike sizes."""
        return torch.argsort(self.counts, stable=True).split(self.batch)

    def padded(self, signal: Tensor) -> Tensor:
        """Signals with all places of the prior."""
        missing = self.prior.source.shape[0] - signal.shape[1]
        return torch.nn.functional.pad(signal, (0, 0, 0, missing))


@dataclass
class Row:
    """What a row gives: signals or values, and what it took; seconds None are those of the call."""

    signals: Tensor | None = None
    values: Tensor | None = None
    evaluations: float = 0.0
    seconds: float | None = None
    settings: str = ""


def unguided(bench: Bench) -> Row:
    """One molecule of the prior for each target."""
    return best_of_draws(bench, 1)


def best_of_draws(bench: Bench, draws: int) -> Row:
    """The best of some draws of the prior by the guide, whole ones first, as D-Flow begins."""
    solver, order = bench.prior.solver(bench.settings.steps), bench.batches()
    parts = [
        screen(
            bench.prior, bench.cost(rows, "hard"), bench.seeds[rows], bench.counts[rows], solver,
            draws=draws,
        )[1]
        for rows in order
    ]  # fmt: skip
    signals = torch.cat([bench.padded(part.samples) for part in parts])
    spent = sum(part.network.forward_rows for part in parts)
    place = torch.argsort(torch.cat(order))
    return Row(signals[place], evaluations=spent / len(place), settings=f"K = {draws}")


def shuffled(bench: Bench) -> Row:
    """The property of another real molecule of the same n, shifted by one in a random order."""
    values = bench.data.properties[bench.name]
    draw = torch.Generator().manual_seed(0)
    found = torch.empty(len(bench.counts))
    for n in bench.counts.unique():
        pool = (bench.data.counts == n).nonzero().flatten()
        rows = (bench.counts == n).nonzero().flatten()
        picked = pool[torch.randint(len(pool), (len(rows),), generator=draw)]
        same = bench.data.index[picked] == bench.index[rows]
        place = torch.searchsorted(pool, picked)
        picked = torch.where(same, pool[(place + 1) % len(pool)], picked)
        found[rows] = values[picked].float()
    return Row(values=found)


def medians(bench: Bench) -> Row:
    """The median of D_b's molecules of the same n."""
    values = bench.data.properties[bench.name]
    known = {int(n): values[bench.data.counts == n].median() for n in bench.counts.unique()}
    return Row(values=torch.stack([known[int(n)] for n in bench.counts]).float())


def nearest(bench: Bench) -> Row:
    """The entry of D_b whose property is nearest, of any n, the molecule itself left out."""
    values, kinds = bench.data.properties[bench.name], bench.prior.source.shape[1] - 3
    found = []
    for part in bench.seeds.split(256):
        away = (values[None] - bench.targets[part, None]).abs()
        away[bench.data.index[None] == bench.index[part, None]] = torch.inf
        found.append(away.argmin(1))
    rows = torch.cat(found)
    return Row(join(bench.data.positions[rows], bench.data.classes[rows], kinds))


def guidance(bench: Bench, strengths: Sequence[float], trial: int = 16) -> Row:
    """Guidance by the gradient of the cost of the denoised molecule, as many steps as D-Flow's.

    The strength is the one of the lowest error of the guide on a few molecules with other noise.

    Args:
        bench: the problem.
        strengths: to choose from.
        trial: molecules on which it is chosen.
    """
    few = bench.seeds[:trial]
    tried: list[float] = []
    for strength in strengths if len(strengths) > 1 else ():
        found = _guided(bench, strength, (few,), 2**40)
        with torch.no_grad():
            errors = bench.cost(few, "hard").errors(found).abs().nan_to_num(nan=1e6)
        tried.append(float(errors.mean()))
    best = strengths[tried.index(min(tried))] if tried else strengths[0]
    before, order = bench.prior.flow.evaluations.copy(), bench.batches()
    found = _guided(bench, best, order, 0)
    spent = bench.prior.flow.evaluations - before
    each = (spent.forward_rows + spent.vjp_rows) / len(bench.counts)
    place = torch.argsort(torch.cat(order))
    return Row(found[place], evaluations=each, settings=f"strength {best:g} of {strengths}")


def denoised_guidance(steps: int, strength: float) -> TFG:
    """The gradient of the cost of the denoised molecule in each of so many steps, DPS-like."""
    return TFG(
        grid=Uniform(steps, start=0.02), clock=None, rule=DDIM(0.0), rho=strength, mu=0.0,
        rho_schedule="constant", largest=100.0,
    )  # fmt: skip


def _guided(bench: Bench, strength: float, order: Sequence[Tensor], shift: int) -> Tensor:
    method = denoised_guidance(2 * bench.settings.steps, strength)
    parts = []
    for rows in order:
        prior = fitted(bench.prior, bench.counts[rows])
        result = method(prior, bench.cost(rows, "soft"), seeds=bench.seeds[rows] + shift)
        parts.append(bench.padded(result.samples))
    return torch.cat(parts)


def dflow(bench: Bench, settings: Settings | None = None) -> Row:
    """D-Flow with the settings of the bench, or others."""
    settings = settings or bench.settings
    task = Task(
        cost=lambda rows, counts: bench.cost(rows), counts=lambda rows, seeds: bench.counts[rows]
    )
    found = generate(bench.prior, task, bench.seeds, settings)
    each = (found.network.forward_rows + found.network.vjp_rows) / len(bench.counts)
    return Row(found.samples, evaluations=each, settings=repr(settings))


def published(settings: Settings) -> Settings:
    """The paper's problem: one draw, the property and the radius alone, 25 evaluations."""
    return replace(settings, draws=1, valence=0.0, restarts=0, evaluations=25)
