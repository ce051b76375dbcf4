"""Law 6 for every method: bad rows of all kinds, dtypes that do not fit, runs that are cut off."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost
from ctrlgen.methods import DPS, NDTM, ClassifierGuidance, DFlow, DMPlug, OptimalControl
from ctrlgen.methods.result import Result
from ctrlgen.operators.base import Measurement
from ctrlgen.optimizers import LBFGS, Adam, FunctionObjective
from ctrlgen.optimizers.base import Event
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import CostError, partial_of
from ctrlgen.rows.status import Status

BAD, MATES = 1, [0, 2, 3]


class Spoilt(Cost):
    """Another cost, times a factor of each sample's own."""

    per_sample = ("cost", "factor")

    def __init__(self, cost: Cost, factor: Tensor) -> None:
        self.cost, self.factor = cost, factor

    @property
    def measurement(self) -> Measurement | None:
        return self.cost.measurement

    @property
    def residual(self) -> Any:
        return self.cost.residual  # type: ignore[attr-defined]

    @property
    def squares(self) -> Any:
        return self.cost.squares

    def least_squares(self, x: Tensor) -> Tensor:
        return self.cost.least_squares(x) * self.factor.to(x).sqrt().unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.cost(x) * self.factor.to(x)


def factors(bad: float) -> Tensor:
    factor = torch.ones(4, dtype=torch.float64)
    factor[BAD] = bad
    return factor


def with_network(prior: Prior, network: Any) -> Prior:
    changed = prior.take(torch.arange(4))
    changed.flow = Flow(network(prior.flow.network), prior.flow.path, prior.flow.kind)
    return changed


def check_mates(bad: Result, method: Any, prior: Prior, cost: Any, seeds: Any) -> None:
    """One row has diverged; the others are, to the bit, what they are in a run without it."""
    assert bad.status[BAD] == Status.DIVERGED
    assert bad.samples.isfinite().all() and bad.controls.isfinite().all()
    mates = torch.tensor(MATES)
    without = method(prior.take(mates), cost.take(mates), seeds=torch.as_tensor(seeds)[mates])
    assert not (without.status == Status.DIVERGED).any()
    for name in Result.per_sample:
        assert torch.equal(getattr(bad.take(mates), name), getattr(without, name)), name


def test_a_cost_that_is_not_a_number_stays_in_its_row(
    method_case: Any, linear_problem: SimpleNamespace
) -> None:
    method, seeds = replace(method_case.method, dtype=torch.float64), linear_problem.seeds
    prior, cost = linear_problem.prior(), Spoilt(linear_problem.cost(), factors(torch.nan))
    check_mates(method(prior, cost, seeds=seeds), method, prior, cost, seeds)


@pytest.mark.parametrize("clip", [None, 2.0])
def test_an_infinite_network_stays_in_its_row(
    clip: float | None, method_case: Any, linear_problem: SimpleNamespace
) -> None:
    """A bound of x̂ does not hide it."""
    method, seeds = replace(method_case.method, dtype=torch.float64), linear_problem.seeds
    if clip is not None:
        if "clip" not in {field.name for field in fields(method)}:
            return
        method = replace(method, clip=clip)

    def bursting(network: Any) -> Any:
        def burst(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
            out = network(x, t, rate=rate.clamp(max=10.0))
            return torch.where(rate.reshape(-1, 1).isinf(), torch.inf, out)

        return burst

    prior = with_network(linear_problem.prior(), bursting)
    prior.conditions["rate"] = prior.conditions["rate"].clone()
    prior.conditions["rate"][BAD] = torch.inf
    cost = linear_problem.cost()
    check_mates(method(prior, cost, seeds=seeds), method, prior, cost, seeds)


def test_a_run_that_is_cut_off_hands_over_what_it_has(
    method_case: Any, linear_problem: SimpleNamespace
) -> None:
    rounds = []

    def stop(event: Event) -> None:
        rounds.append(event)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    method, seeds = replace(method_case.method, dtype=torch.float64), linear_problem.seeds
    with pytest.raises(KeyboardInterrupt) as cut:
        method(linear_problem.prior(), linear_problem.cost(), seeds=seeds, observer=stop)
    partial = partial_of(cut.value)
    assert isinstance(partial, Result) and torch.equal(partial.seeds, seeds)
    assert partial.samples.isfinite().all() and bool((partial.evaluations > 0).all())
    assert partial.summary()["samples"] == 4


@pytest.mark.parametrize(
    "method",
    [DFlow(optimizer=LBFGS(max_iterations=5)), DPS(), NDTM(), OptimalControl(rank=0)],
    ids=lambda method: type(method).__name__,
)
def test_a_cost_that_fails_on_the_way_hands_over_what_there_was(
    method: Any, linear_problem: SimpleNamespace
) -> None:
    class Failing(Spoilt):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Failing.calls += 1
            if Failing.calls == 7:
                raise ZeroDivisionError("seventh")
            return super().forward(x)

    cost = Failing(linear_problem.cost(), factors(1.0))
    with pytest.raises(ZeroDivisionError) as cut:
        replace(method, dtype=torch.float64)(linear_problem.prior(), cost, seeds=range(4))
    assert isinstance(partial_of(cut.value), Result)


# ------------------------------------------------------------------ dtypes


def test_double_costs_and_networks_serve_single_states(
    method_case: Any, linear_problem: SimpleNamespace
) -> None:
    """What computes in float64 changes no dtype of a run in float32."""

    class Double(Spoilt):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).double()

        def least_squares(self, x: Tensor) -> Tensor:
            return super().least_squares(x).double()

    def doubling(network: Any) -> Any:
        return lambda x, t, rate: network(x, t, rate=rate).double()

    prior = with_network(linear_problem.prior(torch.float32), doubling)
    cost = Double(linear_problem.cost(torch.float32), factors(1.0))
    result = method_case.method(prior, cost, seeds=linear_problem.seeds)
    for name in ("samples", "controls", "costs"):
        assert getattr(result, name).dtype == torch.float32, name
    assert not bool((result.status == Status.DIVERGED).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_states_in_half_precision_are_refused(dtype: torch.dtype, method_case: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype: expected torch.float32 or torch.float64, got"):
        replace(method_case.method, dtype=dtype)


@pytest.mark.parametrize("optimizer", [Adam(), LBFGS()], ids=lambda o: type(o).__name__)
def test_optimizers_refuse_half_precision(optimizer: Any) -> None:
    objective = FunctionObjective(lambda x: x.square().sum(1))
    with pytest.raises(TypeError, match=r"x0: expected float32 or float64, got torch.bfloat16"):
        optimizer.minimize(objective, torch.ones(2, 3, dtype=torch.bfloat16))


# ------------------------------------------------------------------ what is refused before compute


def test_a_function_that_captures_data_of_samples_is_refused(
    linear_problem: SimpleNamespace,
) -> None:
    prior, y = linear_problem.prior(), torch.randn(4, 6, dtype=torch.float64)
    for method in (DFlow(dtype=torch.float64), DPS(dtype=torch.float64)):
        with pytest.raises(CostError, match=r"as if it held data of all; FunctionCost"):
            method(prior, lambda x: (x - y).square().sum(1), seeds=linear_problem.seeds)
    assert prior.flow.evaluations.forward == 0


def test_inference_mode_is_named(linear_problem: SimpleNamespace) -> None:
    prior, cost = linear_problem.prior(), linear_problem.cost()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        DFlow(dtype=torch.float64)(prior, cost, seeds=linear_problem.seeds)
    assert prior.flow.evaluations.forward == 0


@pytest.mark.parametrize("rank", [0, 2, None])
def test_a_row_without_a_number_does_not_refuse_the_batch(
    rank: int | None, linear_problem: SimpleNamespace
) -> None:
    """Also of a cost that is linear, whose second derivative there is none of."""

    class Linear(Cost):
        per_sample = ("weight",)

        def __init__(self, weight: Tensor) -> None:
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) * self.weight

    method = OptimalControl(rank=rank, iterations=2, dtype=torch.float64)
    method = replace(method, grid=replace(method.grid, steps=3))
    prior, cost, seeds = linear_problem.prior(), Linear(factors(torch.nan)), linear_problem.seeds
    check_mates(method(prior, cost, seeds=seeds), method, prior, cost, seeds)


@pytest.mark.parametrize(
    "method",
    [ClassifierGuidance(clip=1.0), DMPlug(clip=1.0, optimizer=Adam(max_iterations=2))],
    ids=lambda method: type(method).__name__,
)
def test_a_bound_does_not_hide_a_network_that_is_infinite_everywhere(
    method: Any, linear_problem: SimpleNamespace
) -> None:
    method = replace(method, dtype=torch.float64)
    method = replace(method, grid=replace(method.grid, steps=2))
    prior = with_network(
        linear_problem.prior(), lambda network: lambda x, t, rate: torch.full_like(x, torch.inf) + x
    )
    result = method(prior, linear_problem.cost(), seeds=linear_problem.seeds)
    assert (result.status == Status.DIVERGED).all() and result.samples.isfinite().all()
