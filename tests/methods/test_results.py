"""Results: every sample with its status, and the run in numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ctrlgen.methods.result import Result
from ctrlgen.priors.flows import Evaluations
from ctrlgen.rows.status import Status

CONVERGED = {Status.CONVERGED_GRADIENT, Status.CONVERGED_CHANGE, Status.TARGET}


def result() -> Result:
    """Five samples of which one diverged, with distinct numbers everywhere."""
    status = [
        Status.TARGET,
        Status.MAX_ITERATIONS,
        Status.DIVERGED,
        Status.TARGET,
        Status.CONVERGED_CHANGE,
    ]
    return Result(
        samples=torch.arange(30.0).reshape(5, 2, 3),
        controls=torch.arange(20.0).reshape(5, 4),
        costs=torch.tensor([1.0, 4.0, math.nan, 2.0, 3.0]),
        status=torch.tensor([int(s) for s in status]),
        seeds=torch.tensor([10, 11, 12, 13, 14]),
        iterations=torch.tensor([3, 9, 0, 4, 5]),
        evaluations=torch.tensor([4, 12, 1, 6, 7]),
        backward_passes=torch.tensor([2, 6, 0, 3, 3]),
        objective_calls=torch.tensor([1, 3, 1, 2, 2]),
        network=Evaluations(forward=180, forward_rows=30),
        history={"value": torch.arange(15.0).reshape(3, 5), "cost": torch.zeros(3, 5)},
        method="DFlow()",
    )


def test_every_status_has_words_and_a_verdict() -> None:
    assert len({status.label for status in Status}) == len(Status) == 11
    assert {status for status in Status if status.converged} == CONVERGED
    assert [int(status) for status in Status] == list(range(11))  # they are stored as integers


def test_converged_rows() -> None:
    assert result().converged.tolist() == [True, False, False, True, True]
    assert len(result()) == 5


@pytest.mark.parametrize("index", [[2], [4, 0], [0, 1, 2, 3, 4], []], ids=str)
def test_taking_samples_takes_everything_that_belongs_to_them(index: list[int]) -> None:
    whole, at = result(), torch.tensor(index, dtype=torch.int64)
    taken = whole.take(at)
    for name in whole.per_sample:
        assert torch.equal(getattr(taken, name).nan_to_num(), getattr(whole, name)[at].nan_to_num())
    assert torch.equal(taken.history["value"], whole.history["value"][:, at])
    assert len(taken) == len(index) and taken.method == whole.method
    assert len(whole) == 5 and whole.history["value"].shape == (3, 5)


def test_summary_counts_every_sample() -> None:
    """A diverged sample is in the counts and the worst of the costs, and spoils no median."""
    summary = result().summary()
    assert summary["samples"] == 5
    assert summary["status"] == {
        Status.TARGET.label: 2,
        Status.MAX_ITERATIONS.label: 1,
        Status.DIVERGED.label: 1,
        Status.CONVERGED_CHANGE.label: 1,
    }
    assert summary["cost"] == {"median": 3.0, "worst": math.inf, "best": 1.0}
    assert summary["evaluations"] == {"median": 6.0, "total": 30}
    assert summary["backward_passes"] == {"median": 3.0, "total": 14}
    assert summary["objective_calls"] == {"median": 2.0, "total": 9}
    assert summary["network"]["forward"] == 180
    assert json.loads(json.dumps(summary)) == summary


def test_moving_a_result() -> None:
    moved = result().to(torch.float64)
    assert moved.samples.dtype == moved.history["value"].dtype == torch.float64
    assert moved.status.dtype == moved.seeds.dtype == torch.int64
    assert moved.network == result().network
    assert result().to("meta").samples.device.type == "meta"
