r"""Molecules with wanted properties: D-Flow on the source of every molecule of a ragged batch.

    x_0* = argmin  C(decode(Φ(x_0))) + λ R_χ(x_0),     C = Σ_p (e_p/MAD_p)² + further costs,

(Ben-Hamu et al., arXiv 2402.14017, section 5.4), for molecules of any sizes at once: each has its
own L-BFGS and line search, and those that are done leave, with their targets and masks. R_χ has
the degrees of freedom of its molecule, n(3 + K) − 3. In its place the paper standardises the
columns of x_0 between restarts (`normalise="feature"`); one divisor for all coordinates keeps the
rotations ("isotropic"). Both hold |x_0|² at n(3 + K), so the two are not combined.

Every start is the best of a few draws (`screening`), and C includes the `ValenceCost`: where the
paper takes one draw and the property alone, steering breaks molecules that the prior would not.
`draws=1, valence=0` is the paper's problem.

A molecule is satisfied when it is in one piece, all its atoms stable, and its cost at most the
square of the tolerance. Those that are not start again with another seed, and with another number
of atoms drawn from p(n | c); the best of the starts is kept, and counted for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctrlgen.costs.base import as_cost
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.lead_optimization import Ball
from ctrlgen.domains.molecules.molecule_batches import Found, alphabet_of, fitted, gather, whole
from ctrlgen.domains.molecules.screening import screen, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.methods.base import CostLike
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.rows.status import Status

__all__ = ["Task", "generate", "restart_seed", "steer"]

Watch = Callable[[int, Tensor], Observer | None]
Keep = Callable[[Found, list[int]], None]


@dataclass(frozen=True)
class Task:
    """What is wanted of each molecule of a run; `rows` are their places in it, long, shape (b,).

    Attributes:
        cost: the cost of some molecules from `rows` and their numbers of atoms (b,).
        counts: their numbers of atoms from `rows` and the seeds of a start (b,).
        aim: the part of the cost that says whether a molecule has what was asked, at most the
            square of the tolerance then; None where that is the whole cost.
        start: source points (b, N, F) and the ball they stay in, from `rows`, seeds and counts;
            None to begin with draws.
    """

    cost: Callable[[Tensor, Tensor], CostLike]
    counts: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Ball]] | None = None
    aim: Callable[[Tensor, Tensor], CostLike | None] | None = None


_DRAW = 2**32  # seeds of further draws lie this far apart


def restart_seed(seeds: Tensor, start: int) -> Tensor:
    """Seeds of a further draw: those of draw 0 plus 2³² for each; a start takes `draws` of them."""
    return seeds + start * _DRAW


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
) -> tuple[Found, Evaluations]:
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
        bound.source.mask(len(counts)),  # type: ignore[attr-defined]
        start=None if start is None else start[:, :places],
        ball=None if ball is None else Ball(ball.centre[:, :places], ball.radius),
    )
    result = method(bound, cost, seeds=seeds, observer=observer)
    missing = prior.source.shape[0] - places

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, missing))

    found = Found(
        signals=padded(result.samples),
        controls=padded(result.controls),
        costs=result.costs,
        counts=counts.to(result.seeds.device),
        seeds=result.seeds,
        status=result.status,
        iterations=result.iterations,
        evaluations=result.evaluations,
        backward_passes=result.backward_passes,
        objective_calls=result.objective_calls,
        starts=torch.ones_like(result.seeds),
        satisfied=result.status == Status.TARGET,
    )
    found.satisfied &= whole(found.signals, alphabet_of(prior))
    return found, result.network


def generate(
    prior: Prior,
    task: Task,
    seeds: Seeds,
    settings: Settings,
    *,
    rank: Callable[[Tensor], Tensor] | None = None,
    watch: Watch | None = None,
    keep: Keep | None = None,
) -> tuple[Found, Evaluations]:
    """Molecules by D-Flow, in batches, with restarts of those that are not satisfied.

    Args:
        prior: of molecules.
        task: what is wanted.
        seeds: one per molecule.
        settings: how.
        rank: a black-box score of signals, (b, N, F) to (b,); with it every molecule gets all its
            starts and keeps the one of the lowest score. By default the lowest cost decides, among
            whole molecules first.
        watch: gives the observer of a batch, from its start and the seeds of its molecules.
        keep: receives after each batch the molecules that have had a start, and their rows.

    A seed of a further draw, 2³² or more, as files name them, gives that draw again: it is not
    screened, has the number of atoms that its start had, and does not start again.

    Returns:
        The molecules, and the network's evaluations of the whole run.
    """
    first = as_seeds(seeds)
    total, name = Evaluations(), alphabet_of(prior)
    draws = settings.draws if task.start is None else 1
    named = first >= _DRAW
    done: dict[int, tuple[Found, float]] = {}
    for turn in range(settings.restarts + 1):
        again = [
            i
            for i in sorted(done)
            if not bool(named[i]) and (rank is not None or not bool(done[i][0].satisfied))
        ]
        left = torch.tensor(again if turn else range(len(first)), dtype=torch.int64)
        own = restart_seed(first[left], turn * draws)
        # of the first draw of its start
        sized = torch.where(named[left], first[left] - first[left] // _DRAW % draws * _DRAW, own)
        counts = task.counts(left, sized) if len(left) else own
        order = torch.argsort(counts, stable=True)  # batches of alike sizes are padded less
        for part in order.split(settings.batch) if len(left) else ():
            rows, atoms, names = left[part], counts[part], own[part]
            start, ball = task.start(rows, names, atoms) if task.start else (None, None)
            cost = task.cost(rows, atoms)
            if draws > 1:
                free = ~named[rows]
                if bool(free.any()):
                    tried = torch.stack([restart_seed(names[free], i) for i in range(draws)])
                    aim = _with_valences(task.cost(rows[free], atoms[free]), prior, settings)
                    solver = prior.solver(settings.steps)
                    chosen, screened = screen(prior, aim, tried, atoms[free], solver)
                    names = names.masked_scatter(free, chosen)
                    total += screened
            found, spent = steer(
                prior,
                cost,
                names,
                atoms,
                settings,
                observer=watch(turn, names) if watch else None,
                start=start,
                ball=ball,
            )
            if draws > 1:
                screened_rows = (~named[rows]).long()
                found.evaluations += 2 * settings.steps * draws * screened_rows
                found.objective_calls += draws * screened_rows
            total += spent
            if task.aim is not None:
                found.satisfied = _on_aim(found, task.aim(rows, atoms), name, settings)
            scores = _scores(found, rank, name)
            for place, (row, score) in enumerate(zip(rows.tolist(), scores, strict=True)):
                one = found.take(torch.tensor([place]))
                done[row] = _better(done.get(row), one, score)
            if keep is not None:
                there = sorted(done)
                keep(gather([done[row][0] for row in there]), there)
    return gather([done[row][0] for row in range(len(first))]), total


def _on_aim(found: Found, aim: CostLike | None, name: str, settings: Settings) -> Tensor:
    """Whole molecules whose part of the cost is at most the square of the tolerance."""
    there = whole(found.signals, name)
    if aim is None:
        return there
    with torch.no_grad():
        return there & (as_cost(aim)(found.signals) <= settings.tolerance**2)


def _with_valences(cost: CostLike, prior: Prior, settings: Settings) -> CostLike:
    if not settings.valence:
        return cost
    return as_cost(cost) + settings.valence * ValenceCost(alphabet_of(prior))


def _scores(found: Found, rank: Callable[[Tensor], Tensor] | None, name: str) -> list[float]:
    """What the starts of a molecule are compared by; NaN is worse than everything."""
    if rank is None:
        return standing(found.costs, found.signals, name).tolist()
    value = rank(found.signals.detach()).double()
    return value.nan_to_num(nan=torch.inf, posinf=torch.inf).tolist()


def _better(old: tuple[Found, float] | None, new: Found, score: float) -> tuple[Found, float]:
    """The better of two starts, with the counts of both."""
    if old is None:
        return new, score
    best, kept = (new, score) if score < old[1] else old
    best = copy.copy(best)
    for name in ("evaluations", "backward_passes", "objective_calls", "starts"):
        setattr(best, name, getattr(new, name) + getattr(old[0], name))
    return best, kept
