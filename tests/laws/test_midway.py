"""Law 6 in the middle of a run: a row that is lost on the way ends with its last finite state.

The network, or the cost, gives what is not finite for one row from its k-th evaluation on. Until
then the run is the one of a healthy row, so that the last finite state is what a healthy run holds
when it is cut off before that evaluation. The other rows are those of a run without the lost one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like
from ctrlgen.rows.errors import partial_of
from ctrlgen.rows.status import Status

BAD, MATES = 1, [0, 2, 3]
EVERYONE = torch.arange(4)


class Fuse:
    """Counts the evaluations of one row, and says when it is lost: from the k-th on."""

    def __init__(self, at: float = torch.inf) -> None:
        self.at, self.count = at, 0

    def factor(self, rows: Tensor, value: float) -> Tensor:
        """Of every row, (B,): the value for the one that is lost, else 1."""
        self.count += bool((rows == BAD).any())
        lost = (rows == BAD) & (self.count >= self.at)
        return torch.where(lost, value, 1.0).double()


def fused_network(prior: Prior, fuse: Fuse, value: float) -> Prior:
    """The prior, its network not finite for the lost row."""
    inner, flow = prior.flow.network, prior.flow

    def network(x: Tensor, t: Tensor, row: Tensor, **conditions: Tensor) -> Tensor:
        out = inner(x, t, **conditions)
        return out * expand_like(fuse.factor(row, value), out)

    changed = prior.take(torch.arange(4)) if prior.conditions else copy.copy(prior)
    changed.conditions = {**prior.conditions, "row": EVERYONE}
    changed.flow = Flow(network, flow.path, flow.kind)
    return changed


def fused_cost(cost: Any, fuse: Fuse, value: float) -> Any:
    """The cost, of whatever class, not finite for the lost row."""

    class Fused(type(cost)):  # type: ignore[misc]
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * fuse.factor(self.row, value)

    changed = copy.copy(cost)
    changed.__class__ = Fused
    changed.row, changed.per_sample = EVERYONE, (*cost.per_sample, "row")
    return changed


Run = Callable[..., Result]


def runner(case: Any, where: str, seeds: Tensor) -> Run:
    """Runs a method on some rows with a fuse: `run(fuse, value, rows, observer)`."""
    method, prior, cost = case.problem(EVERYONE, torch.float64)

    def run(fuse: Fuse, value: float, rows: list[int], observer: Any = None) -> Result:
        there = torch.tensor(rows)
        steered, goal = prior, cost
        if where == "network":
            steered = fused_network(prior, fuse, value).take(there)
        else:
            steered = prior.take(there)
        goal = fused_cost(cost, fuse, value) if where == "cost" else cost
        return method(steered, goal.take(there), seeds=seeds[there], observer=observer)

    return run


class Cut(BaseException):
    """The end of a run by hand."""


def rounds(run: Run) -> tuple[list[int], Result]:
    """Evaluations of the row that will be lost, at every event of a healthy run, and at its end."""
    fuse, counts = Fuse(), list[int]()
    result = run(fuse, 0.0, EVERYONE.tolist(), lambda event: counts.append(fuse.count))
    return [*counts, fuse.count], result


def cut_after(run: Run, events: int) -> Result:
    """What a healthy run holds after so many events."""
    past: list[Event] = []

    def observe(event: Event) -> None:
        past.append(event)
        if len(past) == events:
            raise Cut

    with pytest.raises(Cut) as cut:
        run(Fuse(), 0.0, EVERYONE.tolist(), observe)
    return partial_of(cut.value)


def check_mates(result: Result, without: Result) -> None:
    """The lost row has diverged, and the others are what they are without it, to the bit."""
    assert result.status[BAD] == Status.DIVERGED
    assert result.samples.isfinite().all() and result.controls.isfinite().all()
    mates = result.take(torch.tensor(MATES))
    for name in Result.per_sample:
        value, other = getattr(mates, name), getattr(without, name)
        assert torch.equal(value, other), name


@pytest.mark.parametrize("where", ["network", "cost"])
def test_a_row_that_is_lost_on_the_way(where: str, problem_case: Any, seeds: Tensor) -> None:
    run = runner(problem_case, where, seeds)
    counts, healthy = rounds(run)
    without = run(Fuse(), torch.nan, MATES)
    places = {counts[0] + 1, (counts[0] + counts[-1]) // 2 + 1, counts[-1]}
    for at, value in zip(sorted(places), (torch.nan, torch.inf, torch.nan), strict=False):
        if at > counts[-1]:
            continue
        lost = run(Fuse(at), value, EVERYONE.tolist())
        check_mates(lost, without)
        before = sum(count < at for count in counts[:-1])
        if before:
            last = [cut_after(run, before)]
            # What only judges by the cost is lost in the end.
            last += [healthy] if where == "cost" else []
            assert any(torch.equal(lost.samples[BAD], r.samples[BAD]) for r in last), at


def test_a_bounded_cost_does_not_hide_an_infinite_state(problem_case: Any, seeds: Tensor) -> None:
    method, prior, cost = problem_case.problem(EVERYONE, torch.float64)

    class Bounded(type(cost)):  # type: ignore[misc]
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x.nan_to_num(0.0, 0.0, 0.0))

    cost = copy.copy(cost)
    cost.__class__ = Bounded
    prior = fused_network(prior, Fuse(1), torch.inf)
    check_mates(
        method(prior, cost, seeds=seeds),
        method(prior.take(torch.tensor(MATES)), cost.take(torch.tensor(MATES)), seeds=seeds[MATES]),
    )
