"""D-Flow holds the laws: rows alone and together, nothing disappears, one evaluation a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, Reversed
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, SourceSample
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers import LBFGS, Adam, Event
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.solvers import RK4, Euler, Midpoint
from tests.methods.dflow_problems import (
    DOUBLE,
    METHODS,
    SEEDS,
    D,
    M,
    Network,
    method_of,
    rows,
    same,
)

Build = Callable[..., Any]


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


class Convolution(nn.Module):
    """A small random velocity network of images (B, 2, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3, generator=generator) / 3)
        self.double().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(x, self.weight, padding=1)) - t.view(-1, 1, 1, 1) * x


def problem(name: str, operator: LinearOperator, mixture: Build, prior_of: Build) -> Any:
    """A prior of four rows and a cost of four rows."""
    # Far below its floor −PSNR would magnify the rounding of differently shaped products.
    psnr = NegativePSNR(operator, rows(M), floor=1e-3)
    if name == "oracle":
        return prior_of(mixture(3, D)), psnr
    if name == "network":
        prior = Prior(Flow(Network(), Cosine(), "v"), Gaussian((D,)))
        cost = psnr + 0.1 * FunctionCost(
            lambda x, c: (x - c).square().sum(1), {"c": rows(D, stream=8)}
        )
        return prior.bind(label=torch.tensor([0, 3, 4, 1])), cost
    return Prior(Flow(Convolution(), CondOT()), Gaussian((2, 4, 4))), Reversed(rows(2, 4, 4))


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *(("network", kind) for kind in METHODS),
        *(("oracle", kind) for kind in ("plain", "guided")),
        *(("convolution", kind) for kind in ("plain", "chi, target")),
    ],
)
def test_a_sample_does_not_see_its_batch(
    where: str, kind: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Alone, permuted, sharded: the same sample to 1e-10, history and status included."""
    prior, cost = problem(where, operator, mixture, prior_of)
    method, seeds = method_of(kind), torch.tensor(SEEDS)

    def run(index: list[int]) -> Result:
        at = torch.tensor(index)
        return method(prior.take(at), cost.take(at), seeds=seeds[at])

    whole = method(prior, cost, seeds=seeds)
    assert whole.samples.isfinite().all()
    for part in ([1], [2, 0, 3]):
        same(run(part), whole.take(torch.tensor(part)))


def test_other_seeds_give_another_result(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """That the same give the same is proven in tests/laws, for every form of every method."""
    prior, cost = problem("network", operator, mixture, prior_of)
    first = method_of("plain")(prior, cost, seeds=SEEDS)
    other = method_of("plain")(prior, cost, seeds=[s + 1 for s in SEEDS])
    assert not torch.allclose(first.controls, other.controls)


def test_probes_stay_fixed_while_a_point_is_optimised(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """A line search needs one function: the same point has the same value, to the bit."""
    from ctrlgen.methods.source.objective import SourceObjective

    prior, cost = problem("network", operator, mixture, prior_of)
    x0 = prior.start(SEEDS, **DOUBLE)
    objective = SourceObjective(prior, cost, Midpoint(3), TargetNLL(0.1), torch.tensor(SEEDS), x0)
    first, second = objective(x0), objective(x0)
    assert torch.equal(first.value, second.value)
    index = torch.tensor([3, 1])
    assert torch.allclose(objective.take(index)(x0[index]).value, first.value[index], rtol=1e-12)


# ------------------------------------------------------------------ law 6: nothing disappears


class Poisoned(Cost):
    """‖x − y‖², spoilt for the chosen rows once they come closer than a radius.

    Args:
        y: shape (B, d).
        radius: where it begins, shape (B,); 0 for never.
        bad: what the value is multiplied with there; None leaves the value and spoils its gradient.
    """

    per_sample = ("y", "radius")

    def __init__(self, y: Tensor, radius: Tensor, bad: float | None) -> None:
        self.y, self.radius, self.bad = y, radius, bad

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - self.y).square().sum(1)
        near = distance.detach() < self.radius
        if self.bad is not None:
            return distance * torch.where(near, self.bad, 1.0)
        if distance.requires_grad:
            distance.register_hook(lambda gradient: torch.where(near, math.nan, gradient))
        return distance


@pytest.mark.parametrize("kind", ["plain", "adam", "descent", "chi, target"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, None], ids=["nan", "inf", "gradient"])
@pytest.mark.parametrize("when", ["start", "midway"])
def test_a_row_that_is_not_finite_is_marked_and_nobody_notices(
    when: str, bad: float | None, kind: str
) -> None:
    network = Flow(lambda x, t: torch.tanh(x) - t.unsqueeze(1) * x, CondOT())
    prior, y, row = Prior(network, Gaussian((D,))), 2 * rows(D), 1
    method = method_of(kind)
    free = torch.zeros(4, dtype=torch.float64)
    healthy = method(prior, Poisoned(y, free, bad), seeds=SEEDS)
    start, end = healthy.history["cost"][0, row], healthy.costs[row]
    radius = free.clone()
    radius[row] = math.inf if when == "start" else float(end + 0.3 * (start - end))
    result = method(prior, Poisoned(y, radius, bad), seeds=SEEDS)

    assert len(result) == 4
    # Methods of first order creep along the edge, with ever shorter steps, to the end of their run.
    creeping = when == "midway" and kind in ("adam", "descent")
    assert result.status[row] == (Status.MAX_ITERATIONS if creeping else Status.DIVERGED)
    assert result.samples[row].isfinite().all() and result.controls[row].isfinite().all()
    if when == "start":
        assert result.costs[row].isfinite() == (bad is None)
        assert torch.equal(result.controls[row], prior.start(SEEDS, **DOUBLE)[row])
        assert result.objective_calls[row] == 1
    else:
        assert radius[row] <= result.costs[row] < start
        assert result.iterations[row] >= 1
    others = torch.tensor([0, 2, 3])
    for name in ("samples", "controls", "costs", "status", "iterations", "evaluations"):
        assert torch.equal(getattr(result, name)[others], getattr(healthy, name)[others]), name
    assert result.summary()["samples"] == 4
    assert sum(result.counts().values()) == 4


def test_a_network_that_is_not_finite_for_one_sample() -> None:
    def velocity(x: Tensor, t: Tensor, broken: Tensor) -> Tensor:
        return torch.where(broken.unsqueeze(1), math.nan, -x)

    broken = torch.tensor([False, True, False, False])
    y = rows(D)

    def run(broken: Tensor) -> Result:
        prior = Prior(Flow(velocity, CondOT()), Gaussian((D,)), conditions={"broken": broken})
        return method_of("plain")(prior, Reversed(y), seeds=SEEDS)

    result, healthy = run(broken), run(torch.zeros(4, dtype=torch.bool))
    assert result.status[1] == Status.DIVERGED
    assert result.controls.isfinite().all()
    others = torch.tensor([0, 2, 3])
    assert torch.equal(result.samples[others], healthy.samples[others])


def test_a_start_that_is_not_finite_is_replaced_by_the_draw() -> None:
    class Sometimes(SourceSample):
        def __call__(self, prior: Any, measurement: Any, seeds: Any, z: Tensor) -> Tensor:
            z = z.clone()
            z[seeds == SEEDS[2]] = math.nan
            return z

    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((D,)))
    y = rows(D)
    method = DFlow(initializer=Sometimes(), **DOUBLE)
    result = method(prior, Reversed(y), seeds=SEEDS)
    plain = DFlow(**DOUBLE)(prior, Reversed(y), seeds=SEEDS)
    assert torch.equal(result.samples, plain.samples)


# ------------------------------------------------------------------ law 9: evaluations


@pytest.mark.parametrize("solver", [Midpoint(3), Euler(5), RK4(2)], ids=repr)
@pytest.mark.parametrize(
    "optimizer", [LBFGS(max_iterations=6), Adam(max_iterations=4)], ids=["lbfgs", "adam"]
)
def test_the_network_is_evaluated_as_often_as_announced(
    optimizer: Any, solver: Any, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """Rows × (evaluations of the solver), forward and backward, for every evaluation spent."""
    prior = prior_of(mixture(3, D))
    cost = NegativePSNR(operator, rows(M))
    events: list[Event] = []
    # A target that some rows reach early: they leave, and cost nothing further.
    method = DFlow(solver=solver, optimizer=optimizer, target=-14.0, **DOUBLE)
    result = method(prior, cost, seeds=SEEDS, observer=events.append)
    spent, counts = int(result.objective_calls.sum()), result.network
    assert torch.equal(result.evaluations, result.objective_calls * solver.evaluations)
    assert torch.equal(result.backward_passes, result.evaluations)
    assert counts.forward_rows == spent * solver.evaluations
    assert counts.vjp_rows == spent * solver.evaluations
    assert counts.forward == counts.vjp == len(events) * solver.evaluations
    assert counts.jvp == 0
    assert len(events) == int(result.objective_calls.max())
    assert torch.equal(events[-1].calls, result.objective_calls)
    assert events[-1].evaluations is not None
    assert torch.equal(events[-1].evaluations, result.evaluations)
    if isinstance(optimizer, LBFGS):
        assert len(set(result.evaluations.tolist())) > 1


def test_recomputation_is_counted(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    solver = Midpoint(3, "checkpoint")
    result = DFlow(solver=solver, optimizer=LBFGS(max_iterations=5), **DOUBLE)(
        prior, cost, seeds=SEEDS
    )
    spent = int(result.objective_calls.sum())
    assert result.network.forward_rows == 2 * 6 * spent == int(result.evaluations.sum())
    assert result.network.vjp_rows == 6 * spent == int(result.backward_passes.sum())


@pytest.mark.parametrize(
    ("initializer", "forward", "vjp"),
    [
        (SourceSample(), 0, 0),
        (Blend(0.1, Midpoint(4)), 8, 0),
        (GuidedStart(7, solver=Midpoint(4)), 7 + 8, 7),
    ],
    ids=repr,
)
def test_initializers_are_counted(
    initializer: Initializer,
    forward: int,
    vjp: int,
    operator: LinearOperator,
    mixture: Build,
    prior_of: Build,
) -> None:
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    prior.velocity(rows(D), 0.5)  # what was spent before is not the run's
    method = DFlow(initializer=initializer, optimizer=LBFGS(max_iterations=0), **DOUBLE)
    counts = method(prior, cost, seeds=SEEDS).network
    assert (counts.forward, counts.vjp) == (forward + 6, vjp + 6)
    assert (counts.forward_rows, counts.vjp_rows) == (4 * (forward + 6), 4 * (vjp + 6))


def test_target_nll_counts(operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    """A probe is one vjp per stage, its gradient two passes more; the forward pass stays one."""
    prior, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    method = DFlow(
        regularizer=TargetNLL(0.1, probes=2), optimizer=LBFGS(max_iterations=0), **DOUBLE
    )
    counts = method(prior, cost, seeds=SEEDS).network
    assert counts.forward == 6
    assert 6 * (2 + 1) <= counts.vjp <= 6 * (2 + 2 * 2 + 1)
