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

What comes before L-BFGS needs no gradient: the best of the draws (`search="best-of"`), or the best
of what these breed (`"renoising"`, see `elites`). With `evaluations=0` it is all there is.

A molecule is satisfied when it is in one piece, all its atoms stable, and its cost at most the
square of the tolerance. Those that are not start again with another seed, and with another number
of atoms drawn from p(n | c); the best of the starts is kept, and counted for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.domains.molecules.elites import better, breed, source_points
from ctrlgen.domains.molecules.lead_optimization import Ball
from ctrlgen.domains.molecules.molecule_batches import (
    Generated,
    alphabet_of,
    fitted,
    molecules_of,
)
from ctrlgen.domains.molecules.screening import chosen, screened, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.starts import Best
from ctrlgen.domains.molecules.tasks import Task, with_valences
from ctrlgen.methods.base import CostLike
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import FURTHER, Seeds, as_seeds, further

__all__ = ["Task", "generate", "steer"]

Watch = Callable[[int, Tensor, Tensor], Observer | None]


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
    cost = with_valences(cost, prior, settings)
    places = bound.source.shape[0]
    method = settings.method(
        prior,
        bound.source.mask(counts),  # type: ignore[attr-defined]
        start=None if start is None else start[:, :places],
        ball=None if ball is None else Ball(ball.centre[:, :places], ball.radius),
    )
    with carrying(lambda partial: partial and molecules_of(prior, partial, counts)):
        return molecules_of(prior, method(bound, cost, seeds=seeds, observer=observer), counts)


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
    """One start of some molecules: what a search finds, steered."""
    if task.start is None and settings.search == "renoising":
        return _bred(prior, task, rows, seeds, counts, settings, watch)
    if task.start is None and not settings.steered:
        return chosen(prior, task, rows, seeds, counts, settings, named)
    free, searched = ~named, None
    if settings.draws > 1 and task.start is None and bool(free.any()):
        searched = screened(
            prior, task, rows[free], seeds[free], counts[free], settings, settings.draws
        )
        seeds = seeds.masked_scatter(free, searched.seeds.to(seeds))
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
    return task.judged(prior, steered, rows, settings)


def _bred(
    prior: Prior,
    task: Task,
    rows: Tensor,
    seeds: Tensor,
    counts: Tensor,
    settings: Settings,
    watch: Callable[[Tensor, Tensor], Observer | None],
) -> Generated:
    """The elite of each molecule by renoising, steered from its source point where it misses."""
    solver = prior.solver(settings.steps)
    with carrying(lambda partial: partial and molecules_of(prior, partial, counts)):
        result, atoms = breed(
            prior, task.order(prior, rows, counts, settings), seeds, counts[:, None], solver,
            draws=settings.draws, generations=settings.generations,
            target=settings.tolerance**2, observer=watch(rows, seeds),
        )  # fmt: skip
    elite = molecules_of(prior, result, atoms)
    task.price(prior, elite, rows, settings)
    elite = task.judged(prior, elite, rows, settings)
    left = (~elite.satisfied & elite.costs.isfinite()).nonzero()[:, 0].to(rows)
    if not settings.steered or not len(left):
        return elite
    found, own = elite.take(left), rows[left]
    start, meter = source_points(prior, found, solver)
    with carrying(lambda _: elite):
        steered = steer(
            prior, task.cost(own, atoms[left]), found.seeds, atoms[left], settings,
            observer=watch(own, found.seeds), start=start,
        )  # fmt: skip
    steered.evaluations += meter.evaluations
    steered.objective_calls += 1  # of the elite
    steered.network = steered.network + meter.total
    return better(elite, task.judged(prior, steered, own, settings), left, alphabet_of(prior))


def _scores(made: Generated, rank: Callable[[Tensor], Tensor] | None, name: str) -> list[float]:
    """What the starts of a molecule are compared by; NaN is worse than everything."""
    if rank is None:
        return standing(made.costs, made.samples, name).tolist()
    with carrying(lambda _: made):
        value = rank(made.samples.detach()).double()
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf).tolist()
