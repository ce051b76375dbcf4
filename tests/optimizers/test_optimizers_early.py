"""Early stopping by windowed variance: the statistic by hand, the rows that it stops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.optimizers import Adam, FunctionObjective, GradientDescent, WindowedVariance
from ctrlgen.optimizers.early import Windows
from ctrlgen.rows.status import Status


def test_variance_of_the_window_by_hand() -> None:
    """The sum over entries of the population variance of the last W iterates."""
    track = torch.tensor([[0.0, 0.0], [2.0, 1.0], [3.0, 1.0], [3.5, 1.0], [6.0, 0.0]]).double()
    windows = Windows(WindowedVariance(3, 2), track[:1])
    lower, spent = [], []
    for x in track:
        windows.see(torch.tensor([True]), x.unsqueeze(0))
        lower.append(bool(windows.lower))
        spent.append(bool(windows.spent))
        if windows.full:
            low = windows._lowest.item()
    by_hand = [track[i : i + 3].var(0, correction=0).sum().item() for i in range(3)]
    assert low == pytest.approx(min(by_hand), rel=1e-12)
    assert lower == [False, False, True, True, False]
    assert spent == [False] * 5
    windows.see(torch.tensor([False]), track[:1])  # a row that stands still does not wait
    assert not windows.spent
    windows.see(torch.tensor([True]), track[:1])
    assert windows.spent


def path_objective(track: Tensor) -> FunctionObjective:
    """Gradient descent of unit step walks along the track; values fall all the way."""

    def value(x: Tensor, track: Tensor) -> Tensor:
        at = x.detach()[:, 0].round().long().clamp(0, track.shape[1] - 2)
        rows = torch.arange(len(x))
        step = track[rows, at + 1] - track[rows, at]
        push = torch.stack((torch.ones_like(step), step), 1)
        return -(push * x).sum(1)

    return FunctionObjective(value, track=track)


def test_a_row_stops_at_its_steadiest_iterate() -> None:
    """Two rows: one whose second entry rests and moves again, one that comes to rest for good."""
    t = torch.arange(40.0).double()
    restless = (t - 10) ** 3 / 8
    resting = -20 * torch.exp(-t / 4)
    track = torch.stack((restless, resting))
    start = torch.stack((torch.zeros(2).double(), track[:, 0]), 1)
    rules: dict[str, Any] = {"learning_rate": 1.0, "max_iterations": 30}
    early = WindowedVariance(window=5, patience=6)
    found = GradientDescent(**rules, early=early).minimize(path_objective(track), start)
    assert found.status.tolist() == [Status.STEADY, Status.MAX_ITERATIONS]
    # The steadiest window is that around iterate 10, from 8 to 12.
    assert found.x[0, 0].item() == 12 and found.iterations[0].item() == 18
    assert found.x[1, 0].item() == 30
    plain = GradientDescent(**rules).minimize(path_objective(track), start)
    assert plain.x[0, 0].item() == 30


def test_without_another_signal_the_iterates_themselves_are_watched() -> None:
    """Where they run away ever faster, the first window is the steadiest."""
    start = torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()
    objective = FunctionObjective(lambda x: -(x.square().sum(1) ** 2))
    rules: dict[str, Any] = {"learning_rate": lambda k: 0.01 * 2**k}
    found = Adam(**rules, max_iterations=20, early=WindowedVariance(2, 3)).minimize(
        objective, start
    )
    assert found.status.tolist() == [Status.STEADY] * 2
    assert found.iterations.tolist() == [4, 4]
    first = Adam(**rules, max_iterations=1).minimize(objective, start)
    assert torch.allclose(found.x, first.x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [{"window": 1}, {"patience": 0}, {"window": 2.5}])
def test_bad_rules(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        WindowedVariance(**bad)


def test_the_optimizer_wants_the_rule() -> None:
    with pytest.raises(TypeError, match="early"):
        Adam(early=10)  # type: ignore[arg-type]
