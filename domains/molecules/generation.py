r"""Molecules with wanted properties: D-Flow on the source of every molecule of a ragged batch.

    x_0* = argmin  C(decode(Φ(x_0))) + λ R_χ(x_0),     C = Σ_p (e_p/MAD_p)² + further costs,

(Ben-Hamu et al., arXiv 2402.14017, section 5.4), for molecules of any sizes at once: each has its
own L-BFGS and line search, and those that are done leave, with their targets and masks. R_χ has
the degrees of freedom of its molecule, n(3 + K) − 3. In its place the paper standardises the
columns of x_0 between restarts (`normalise="feature"`); one divisor for all coordinates keeps the
rotations ("isotropic"). Both hold |x_0|² at n(3 + K), so the two are not combined.

Every start is the best of many draws (`screening`), and C includes the `ValenceCost`: where the
paper takes one draw and the property alone, steering breaks molecules that the prior would not.
`draws=1, valence=0` is the paper's problem.

A molecule is satisfied when it is in one piece, all its atoms stable, and its cost at most the
square of the tolerance. Those that are not start again with another seed, and with another number
of atoms drawn from p(n | c); the best of the starts is kept, and counted for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost, FunctionCost, as_cost
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.lead_optimization import Ball
from ctrlgen.domains.molecules.molecule_batches import (
    Generated,
    alphabet_of,
    fitted,
    padded,
    whole,
)
from ctrlgen.domains.molecules.screening import screen, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.starts import Best
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import FURTHER, Seeds, as_seeds, further
from ctrlgen.rows.status import Status

__all__ = ["Task", "generate", "steer"]

_UNSCORED = 1e6
"""What a molecule costs that has no score: finite, so that its other costs still order it."""

Watch = Callable[[int, Tensor, Tensor], Observer | None]


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


def steer(
    prior: Prior,
    cost: CostLike,
    seeds: Seeds,
    counts: Tensor,
    settings: Settings,
    *,
    observer: Observer | None = None,
    start: Tensor | None = None,
    ball: Ball | None = None,
) -> Generated:
    """One start of every molecule, all in one batch, from the source points of the seeds.

    Args:
        prior: of molecules.
        cost: of signals, for all molecules.
        seeds: one per molecule.
        counts: atoms of each, shape (B,), long.
        settings: how.
        observer: receives an event per round.
        start: source points to begin with, shape (B, N, F), N the places of the prior.
        ball: where source points stay.
    """
    bound = fitted(prior, counts)
    cost = _with_valences(cost, prior, settings)
    places = bound.source.shape[0]
    method = settings.method(
        prior,
        bound.source.mask(counts),  # type: ignore[attr-defined]
        start=None if start is None else start[:, :places],
        ball=None if ball is None else Ball(ball.centre[:, :places], ball.radius),
    )
    with carrying(lambda partial: partial and _molecules(prior, partial, counts)):
        return _molecules(prior, method(bound, cost, seeds=seeds, observer=observer), counts)


def _molecules(prior: Prior, result: Result, counts: Tensor) -> Generated:
    """What a method has made, with all places of the prior."""
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


def generate(
    prior: Prior,
    task: Task,
    seeds: Seeds,
    settings: Settings,
    *,
    rank: Callable[[Tensor], Tensor] | None = None,
    watch: Watch | None = None,
) -> Generated:
    """Molecules by D-Flow, in batches, with restarts of those that are not satisfied.

    Args:
        prior: of molecules.
        task: what is wanted.
        seeds: one per molecule.
        settings: how.
        rank: a black-box score of signals, (b, N, F) to (b,); with it every molecule gets all its
            starts and keeps the one of the lowest score. By default the lowest cost decides, among
            whole molecules first.
        watch: gives the observer of a batch, from its start, and the rows and seeds of its
            molecules.

    A seed of a further draw, 2³² or more, as files name them, gives that draw again: it is not
    screened, has the number of atoms that its start had, and does not start again.

    Returns:
        The molecules, with a row of history per start; `network` is of the whole run. What is
        raised carries them as `partial`, once every molecule has begun.
    """
    first = as_seeds(seeds)
    total, best = Evaluations(), Best(len(first))
    draws = settings.draws if task.start is None else 1
    named = first >= FURTHER
    rows, part = torch.arange(len(first)), torch.arange(0)

    def there(cut: Generated | None) -> Generated | None:
        # a search that was cut off is of the molecules that are screened, not of named ones
        entire = cut is not None and len(cut) == len(part)
        return best.molecules(total, (rows[part].tolist(), cut) if cut and entire else None)

    with carrying(there):
        for turn in range(settings.restarts + 1):
            if turn:
                again = [i for i in rows.tolist() if not bool(named[i])]
                again = [i for i in again if rank is not None or not best.satisfied(i)]
                rows = torch.tensor(again, dtype=torch.int64)
            if not len(rows):
                break
            own = further(first[rows], turn * draws)
            # of the first draw of its start
            given = first[rows] - first[rows] // FURTHER % draws * FURTHER
            counts = task.counts(rows, torch.where(named[rows], given, own))
            order = torch.argsort(counts, stable=True)  # batches of alike sizes are padded less
            for part in order.split(settings.batch):
                started = _begin(
                    prior, task, rows[part], own[part], counts[part], settings,
                    named[rows[part]], lambda *which, turn=turn: watch and watch(turn, *which),
                )  # fmt: skip
                total += started.network
                best.add(rows[part].tolist(), started, _scores(started, rank, alphabet_of(prior)))
            best.round()
    generated = best.molecules(total)
    assert generated is not None
    return generated


def _begin(
    prior: Prior,
    task: Task,
    rows: Tensor,
    seeds: Tensor,
    counts: Tensor,
    settings: Settings,
    named: Tensor,
    watch: Callable[[Tensor, Tensor], Observer | None],
) -> Generated:
    """One start of some molecules: the best of its draws, of those that are not named, steered."""
    free, searched = ~named, None
    if settings.draws > 1 and task.start is None and bool(free.any()):
        cost = _with_valences(task.cost(rows[free], counts[free]), prior, settings)
        if task.scores:
            cost = as_cost(cost) + FunctionCost(lambda x: sum(task.scored(x), x.new_zeros(len(x))))
        with carrying(lambda partial: partial and _molecules(prior, partial, counts[free])):
            chosen, searched = screen(
                prior, cost, seeds[free], counts[free], prior.solver(settings.steps),
                draws=settings.draws, target=settings.tolerance**2,
            )  # fmt: skip
        seeds = seeds.masked_scatter(free, chosen.to(seeds))
    start, ball = task.start(rows, seeds, counts) if task.start else (None, None)
    steered = steer(
        prior,
        task.cost(rows, counts),
        seeds,
        counts,
        settings,
        observer=watch(rows, seeds),
        start=start,
        ball=ball,
    )
    if searched is not None:
        steered.evaluations[free] += searched.evaluations
        steered.objective_calls[free] += searched.objective_calls
        steered.network = steered.network + searched.network
    if task.aim is not None:
        aim, name = task.aim(rows, counts), alphabet_of(prior)
        steered.satisfied = whole(steered.samples, name)
        if aim is not None:
            with torch.no_grad():
                steered.satisfied &= as_cost(aim)(steered.samples) <= settings.tolerance**2
    for (_, aimed), value in zip(task.scores, task.scored(steered.samples), strict=True):
        steered.costs = steered.costs + value
        if aimed:
            steered.satisfied &= value <= settings.tolerance**2
    return steered


def _with_valences(cost: CostLike, prior: Prior, settings: Settings) -> CostLike:
    if not settings.valence:
        return cost
    return as_cost(cost) + settings.valence * ValenceCost(alphabet_of(prior))


def _scores(made: Generated, rank: Callable[[Tensor], Tensor] | None, name: str) -> list[float]:
    """What the starts of a molecule are compared by; NaN is worse than everything."""
    if rank is None:
        return standing(made.costs, made.samples, name).tolist()
    with carrying(lambda _: made):
        value = rank(made.samples.detach()).double()
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf).tolist()
