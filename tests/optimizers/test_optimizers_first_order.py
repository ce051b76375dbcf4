"""Adam and gradient descent take the steps of torch's, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.optimizers import Adam, FunctionObjective, GradientDescent, Optimizer, Status

SCALES = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)


def bowl(x: Tensor) -> Tensor:
    return 0.5 * (SCALES * x.square()).sum(dim=1) + 0.1 * x.pow(4).sum(dim=1)


def start(rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def path(optimizer: Optimizer, x0: Tensor) -> Tensor:
    """All points that the optimizer evaluates, shape (R, B, d)."""
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return bowl(x)

    optimizer.minimize(FunctionObjective(spy), x0)
    return torch.stack(seen)


def torch_path(kind: Any, x0: Tensor, steps: int, rate: Any = None, **options: Any) -> Tensor:
    x = x0.clone().requires_grad_(True)
    optimizer = kind([x], **options)
    seen = [x.detach().clone()]
    for step in range(steps):
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        bowl(x).sum().backward()
        optimizer.step()
        seen.append(x.detach().clone())
    return torch.stack(seen)


def test_adam_is_torchs() -> None:
    ours = path(Adam(learning_rate=0.05, betas=(0.8, 0.99), max_iterations=25), start())
    theirs = torch_path(torch.optim.Adam, start(), 25, lr=0.05, betas=(0.8, 0.99))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_descent_is_torchs(momentum: float) -> None:
    ours = path(GradientDescent(learning_rate=0.02, momentum=momentum, max_iterations=25), start())
    theirs = torch_path(torch.optim.SGD, start(), 25, lr=0.02, momentum=momentum)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_schedule_runs_on_each_rows_own_clock() -> None:
    def rate(k: Any) -> Any:
        return 0.05 / (1 + k)

    ours = path(GradientDescent(learning_rate=rate, max_iterations=10), start())
    theirs = torch_path(torch.optim.SGD, start(), 10, rate=rate, lr=0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="learning_rate must return"):
        path(GradientDescent(learning_rate=lambda k: torch.ones(7)), start())


def test_clipping_is_per_row() -> None:
    x0 = start() * torch.tensor([[0.01], [1.0], [100.0]])
    ours = path(GradientDescent(learning_rate=1.0, clip_norm=0.5, max_iterations=1), x0)
    gradient = SCALES * x0 + 0.4 * x0**3
    norm = gradient.norm(dim=1, keepdim=True)
    assert norm[0] < 0.5 < norm[1]
    torch.testing.assert_close(ours[1], x0 - gradient * (0.5 / norm).clamp_max(1))


@pytest.mark.parametrize("kind", [Adam, GradientDescent])
def test_restart_forgets(kind: type[Optimizer]) -> None:
    options: dict[str, Any] = {"momentum": 0.9} if kind is GradientDescent else {}
    common = {"learning_rate": 0.02, "max_iterations": 12, **options}
    whole = path(kind(**common, restart_every=4), start())
    for k in (0, 4, 8):
        part = path(kind(**{**common, "max_iterations": 4}), whole[k])
        torch.testing.assert_close(whole[k : k + 5], part, rtol=0, atol=0)
    assert not torch.equal(whole, path(kind(**common), start()))


@pytest.mark.parametrize("kind", [Adam, GradientDescent])
def test_a_step_into_the_void_is_shortened(kind: type[Optimizer]) -> None:
    def wall(x: Tensor) -> Tensor:
        return (x - 2 * (1 - x).sqrt()).sum(dim=1)  # no value from x = 1 on; falls to the left

    x0 = torch.zeros(2, 1, dtype=torch.float64)
    climb = FunctionObjective(lambda x: -wall(x))  # its gradient leads to the wall
    found = kind(learning_rate=100.0, max_iterations=1).minimize(climb, x0)  # type: ignore[call-arg]
    assert (found.value < climb(x0).value).all() and (found.status == Status.MAX_ITERATIONS).all()
    assert (found.calls > 2).all()
    trap = FunctionObjective(lambda x: torch.where(x == 0, x, x / 0 * 0).sum(dim=1))
    lost = kind(learning_rate=1.0).minimize(trap, x0)  # type: ignore[call-arg]
    assert (lost.status == Status.DIVERGED).all() and torch.equal(lost.x, x0)


def test_change_tolerance_stops_only_when_asked() -> None:
    objective = FunctionObjective(bowl)
    still = GradientDescent(learning_rate=1e-6, max_iterations=5).minimize(objective, start())
    assert (still.status == Status.MAX_ITERATIONS).all()
    asked = GradientDescent(learning_rate=1e-6, max_iterations=5, change_tolerance=1e-3)
    assert (asked.minimize(objective, start()).status == Status.CONVERGED_CHANGE).all()
