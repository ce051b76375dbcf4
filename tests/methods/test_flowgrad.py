"""FlowGrad and OC-Flow: gradients against autograd, groups, counters, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, Reversed, SquaredError
from ctrlgen.methods import FlowGrad, OCFlow, OptimalControl
from ctrlgen.methods.starts import Blend
from ctrlgen.optimizers import LBFGS, Adam, GradientDescent
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Times, Uniform
from ctrlgen.sampling.steps import EulerStep

Build = Callable[..., Any]
D = 3
SEEDS = [11, 5, 7]
WIDTHS = [0.1, 0.3, 0.2, 0.4]
GRID = Times((0.0, 0.1, 0.4, 0.6))
ONE_STEP: dict[str, Any] = {
    "grid": GRID,
    "optimizer": GradientDescent(learning_rate=0.1, max_iterations=1),
    "dtype": torch.float64,
}


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x + x.roll(1, 1)) - t.unsqueeze(1) * x


@pytest.fixture
def prior() -> Prior:
    return Prior(Flow(velocity, CondOT()), Gaussian((D,)))


def rolled(prior: Prior, controls: list[Tensor], inside: bool) -> Tensor:
    x, t = prior.start(SEEDS, dtype=torch.float64), 0.0
    for u, h in zip(controls, WIDTHS, strict=True):
        if inside:
            x = x + h * (prior.velocity(x, t) + u)
        else:
            x = x + u
            x = x + h * prior.velocity(x, t)
        t += h
    return x


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("kind", [FlowGrad, OCFlow])
def test_gradients_are_those_of_the_rollout(kind: Any, penalty: float, prior: Prior) -> None:
    """Two gradient steps, with the penalty ½ρ‖u‖² or ½ρh‖u‖², by autograd."""
    cost, inside = Reversed(rows(D)), kind is OCFlow
    changes = {} if inside else {"threshold": None}
    optimizer = GradientDescent(learning_rate=0.1, max_iterations=2)
    method = kind(**{**ONE_STEP, "optimizer": optimizer}, penalty=penalty, **changes)
    result = method(prior, cost, seeds=SEEDS)
    controls = [torch.zeros(3, D, dtype=torch.float64).requires_grad_() for _ in WIDTHS]
    for _ in range(2):
        value = cost(rolled(prior, controls, inside))
        for u, h in zip(controls, WIDTHS, strict=True):
            value = value + 0.5 * penalty * (h if inside else 1.0) * row_sum(u.square())
        gradients = torch.autograd.grad(value.sum(), controls)
        controls = [
            (u - 0.1 * g).detach().requires_grad_()
            for u, g in zip(controls, gradients, strict=True)
        ]
    expected = torch.stack(controls, 1)
    assert torch.allclose(result.controls, expected, rtol=0, atol=1e-12)
    end = rolled(prior, controls, inside)
    assert torch.allclose(result.samples, end, rtol=0, atol=1e-12)
    assert torch.allclose(result.costs, cost(end), rtol=0, atol=1e-12)


def test_it_is_first_order_optimal_control(prior: Prior) -> None:
    """One gradient step of rate 1/α is one iteration of rank 0 with regularisation α."""
    cost = Reversed(rows(D))
    flow = FlowGrad(threshold=None, **ONE_STEP)(prior, cost, seeds=SEEDS)
    control = OptimalControl(
        grid=GRID, rule=EulerStep(), rank=0, penalty=0.0, damping=10.0, iterations=1,
        dtype=torch.float64,
    )(prior, cost, seeds=SEEDS)  # fmt: skip
    assert torch.allclose(flow.controls, control.controls, rtol=0, atol=1e-12)
    assert torch.allclose(flow.samples, control.samples, rtol=0, atol=1e-12)


def groups_of(sizes: list[float], threshold: float) -> list[int]:
    """Start of the group of every step, by hand: a group closes with the step that exceeds."""
    starts, start, total = [], 0, 0.0
    for k, s in enumerate(sizes):
        starts.append(start)
        total += s
        if total > threshold:
            start, total = k + 1, 0.0
    return starts


def test_straight_groups_share_one_gradient(prior: Prior) -> None:
    """S_k, groups of each sample's own, one product over the whole length of a group."""
    cost, threshold, n = Reversed(rows(D)), 0.02, 12
    optimizer = GradientDescent(learning_rate=0.01, max_iterations=1)
    method = FlowGrad(
        threshold=threshold, grid=Uniform(n), optimizer=optimizer, dtype=torch.float64
    )
    result = method(prior, cost, seeds=SEEDS)
    x = prior.start(SEEDS, dtype=torch.float64)
    states, slopes = [], []
    for k in range(n):
        states.append(x)
        slopes.append(velocity(x, torch.full((3,), k / n, dtype=torch.float64)))
        x = x + slopes[-1] / n
    end = x.requires_grad_()
    (final,) = torch.autograd.grad(cost(end).sum(), end)
    evaluations = 0
    counts = set()
    for row in range(3):
        sizes = []
        for k in range(n):
            near = [j for j in (k - 1, k + 1) if 0 <= j < n]
            bend = max(float((slopes[j][row] - slopes[k][row]).square().sum()) for j in near)
            sizes.append(bend / float(slopes[k][row].square().sum()))
        starts = groups_of(sizes, threshold)
        adjoint, expected = final[row], [torch.empty(0)] * n
        for start in sorted(set(starts), reverse=True):
            members = [k for k in range(n) if starts[k] == start]
            point = states[start][row : row + 1].detach().requires_grad_()
            t = torch.full((1,), start / n, dtype=torch.float64)
            (pulled,) = torch.autograd.grad(velocity(point, t), point, adjoint.unsqueeze(0))
            adjoint = adjoint + len(members) / n * pulled[0]
            for k in members:
                expected[k] = adjoint
        counts.add(len(set(starts)))
        evaluations += len(set(starts))
        assert torch.allclose(
            result.controls[row], -0.01 * torch.stack(expected), rtol=0, atol=1e-12
        )
    assert len(counts) > 1 and 1 < min(counts) < n
    # The optimizer evaluates J and its gradient at the start and after its one step.
    second = result.network.vjp_rows - evaluations
    assert second > 0
    assert result.network.forward_rows == 2 * 3 * n + result.network.vjp_rows


def test_counters_without_groups(prior: Prior) -> None:
    """n evaluations for J, n more and n backward passes for its gradient."""
    method = FlowGrad(threshold=None, **ONE_STEP)
    network = method(prior, Reversed(rows(D)), seeds=SEEDS).network
    assert (network.forward, network.vjp, network.jvp) == (16, 8, 0)
    assert network.forward_rows == 48 and network.vjp_rows == 24


@pytest.mark.parametrize("moves", [False, True])
def test_the_first_jacobian_serves_the_start_alone(moves: bool, prior: Prior) -> None:
    """Controls of the velocity enter behind it."""
    method = OCFlow(move_start=moves, **ONE_STEP)
    network = method(prior, Reversed(rows(D)), seeds=SEEDS).network
    assert (network.forward, network.vjp) == ((16, 8) if moves else (14, 6))


@pytest.mark.parametrize("kind", [FlowGrad, OCFlow])
def test_samples_do_not_see_each_other(kind: Any, prior: Prior) -> None:
    cost = Reversed(rows(D))
    method = kind(**{**ONE_STEP, "grid": Uniform(6), "optimizer": LBFGS(max_iterations=4)})
    whole = replace(method, target=0.2)(prior, cost, seeds=SEEDS)
    for k, seed in enumerate(SEEDS):
        alone = replace(method, target=0.2)(prior, cost.take(torch.tensor([k])), seeds=[seed])
        assert torch.allclose(alone.samples[0], whole.samples[k], rtol=0, atol=1e-10)
        assert alone.evaluations[0] == whole.evaluations[k]
    assert (whole.costs < 0.5 * whole.history["cost"][0]).any()


@pytest.mark.parametrize("preset", ["released-image", "released-molecule"])
def test_padding_has_no_part_in_the_released_forms(preset: str) -> None:
    """A state of three points alone and beside one of seven ends at the same place."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) - t.reshape(-1, 1, 1) * x

    def samples(counts: list[int], seeds: list[int]) -> Tensor:
        mask = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
        source = MaskedGaussian(mask, 4, 3)
        cost = FunctionCost(lambda x: (x - 1).square().sum((1, 2)) / 10)
        method = OCFlow.preset(preset, grid=Uniform(3), penalty=0.5, dtype=torch.float64)
        return method(Prior(Flow(field, CondOT()), source), cost, seeds=seeds).samples

    alone, beside = samples([3], [5]), samples([3, 7], [5, 8])
    assert torch.allclose(beside[0, :3], alone[0], rtol=0, atol=1e-10)


def test_a_row_that_is_lost_leaves_its_neighbours_alone(prior: Prior) -> None:
    def broken(x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        return torch.where((bad & (t > 0.5)).unsqueeze(1), math.nan, velocity(x, t))

    bad = torch.tensor([False, True, False])
    lost = Prior(Flow(broken, CondOT()), Gaussian((D,)), conditions={"bad": bad})
    method, cost = FlowGrad(**{**ONE_STEP, "grid": Uniform(6)}), Reversed(rows(D))
    clean, result = (method(p, cost, seeds=SEEDS) for p in (prior, lost))
    assert result.status[1] == Status.DIVERGED
    assert torch.equal(result.samples[~bad], clean.samples[~bad])


def test_penalties_targets_and_starts_change_the_outcome(
    prior: Prior, matrix_operator: Build
) -> None:
    cost = Reversed(rows(D))
    rules = {**ONE_STEP, "optimizer": Adam(learning_rate=0.1, max_iterations=3)}
    plain, priced = (OCFlow(penalty=p, **rules)(prior, cost, seeds=SEEDS) for p in (0.0, 20.0))
    assert bool((row_sum(priced.controls.square()) < row_sum(plain.controls.square())).all())
    early = OCFlow(target=1e6, **rules)(prior, cost, seeds=SEEDS)
    assert bool((early.status == Status.TARGET).all())
    measured = SquaredError(matrix_operator(torch.eye(D, dtype=torch.float64)), rows(D))
    blended = OCFlow(initializer=Blend(0.5), **rules)(prior, measured, seeds=SEEDS)
    assert (blended.samples - plain.samples).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "name", "value", "error"),
    [
        (FlowGrad, "threshold", -1.0, ValueError), (FlowGrad, "penalty", math.nan, ValueError),
        (OCFlow, "penalty", -0.1, ValueError), (OCFlow, "enters", "noise", ValueError),
        (OCFlow, "grid", "uniform", TypeError),
        (OCFlow, "optimizer", "adam", TypeError), (FlowGrad, "initializer", 3, TypeError),
        (FlowGrad, "dtype", torch.int64, ValueError),
    ],
)  # fmt: skip
def test_options_are_checked(kind: Any, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{name}: expected"):
        kind(**{name: value})


def test_refusals_before_any_compute(prior: Prior) -> None:
    with pytest.raises(CostError):
        FlowGrad(**ONE_STEP)(prior, lambda x: x.detach().sum(1), seeds=SEEDS)
    with pytest.raises(ValueError, match="Blend needs a cost with a measurement"):
        OCFlow(initializer=Blend(), **ONE_STEP)(prior, Reversed(rows(D)), seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0
