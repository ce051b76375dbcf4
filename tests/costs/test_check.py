"""The checker of costs: sound ones pass, and every broken promise is found by its name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, Reversed, SquaredError
from ctrlgen.costs.check import Report, check_cost
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Euler
from ctrlgen.testing.oracles import Mixture, gaussian


@pytest.fixture
def prior() -> Prior:
    """A mixture of two Gaussians on states of shape (2, 3)."""
    means = normal(range(2), (6,), dtype=torch.float64)
    covariances = torch.eye(6, dtype=torch.float64).expand(2, 6, 6) * 0.2
    return as_prior(Mixture(means, covariances, shape=(2, 3)))


def as_prior(mixture: Mixture) -> Prior:
    """Its exact flow."""
    return Prior(mixture.flow(), Gaussian(mixture.shape))


class Double(Operator):
    """H(x) = 2x."""

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x

    def pinv(self, y: Tensor) -> Tensor:
        return y / 2


class Ink(Cost):
    """Squared distance of the mean to a target."""

    def __init__(self, target: float) -> None:
        self.target = target

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).mean(1) - self.target).square()


def energy(x: Tensor) -> Tensor:
    return x.square().sum((1, 2))


def judged(cost: Any, prior: Prior, **options: Any) -> tuple[Report, set[str]]:
    """The report, and the names of the promises that are broken."""
    report = check_cost(cost, prior, solver=Euler(3), **options)
    return report, {check.name for check in report.checks if check.passed is False}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))


class Learned(Cost):
    """A network in float32."""

    def __init__(self) -> None:
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize(
    "cost",
    [
        energy,
        Ink(0.3),
        2.0 * Ink(0.3) + 0.1 * FunctionCost(energy),
        SquaredError(Double(), torch.ones(3, 2, 3)),
        NegativePSNR(Double(), torch.ones(5, 2, 3)),
        Reversed(torch.zeros(1, 2, 3)),
        FunctionCost(lambda x, w: w * energy(x), {"w": torch.tensor([1.0, 2.0, 3.0])}),
        Learned(),
        lambda x: x.relu().sum((1, 2)),
        lambda x: x.abs().sum((1, 2)),
    ],
    ids=lambda cost: type(cost).__name__,
)
def test_sound_costs_pass(cost: Any, prior: Prior) -> None:
    report, broken = judged(cost, prior)
    assert report.passed and not broken
    names = [check.name for check in report.checks]
    assert "gradient = differences (float64)" in names
    assert len(report.scales) == 2 and report.milliseconds > 0
    json.dumps(report.as_dict())


BROKEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "scalar": (lambda x: x.square().mean(), "one value per sample"),
    "column": (lambda x: x.square().sum(2)[:, :1], "one value per sample"),
    "number": (lambda x: 3.0, "one value per sample"),  # type: ignore[arg-type, return-value]
    "integers": (lambda x: (x > 0).sum((1, 2)), "one value per sample"),
    "raises": (lambda x: x @ torch.ones(17), "one value per sample"),
    "squeezed": (lambda x: energy(x).squeeze(), "one value per sample"),
    "detached": (lambda x: energy(x.detach()), "has a gradient"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy()).sum((1, 2)), "has a gradient"),
    "rounded": (lambda x: energy(x.round()), "has a gradient"),
    "random": (lambda x: energy(x) * (1 + 1e-3 * torch.rand(len(x))), "repeatable"),
    "root": (lambda x: x.sub(x.detach()).square().sum((1, 2)).sqrt() + energy(x),
             "finite on decoded noise"),
    "batch norm": (lambda x: energy(x / x.std()), "no sample sees another"),
    "batch mean": (lambda x: energy(x - 1e-6 * x.mean(0)), "no sample sees another"),
    "shared gradient": (lambda x: energy(x) + 1e-6 * energy(x).sum().expand(len(x)),
                        "no gradient across samples"),
    "in place": (lambda x: energy(x.mul_(1.0).add_(1.0)), "leaves the signal alone"),
    "downcast": (lambda x: energy(x).half(), "keeps dtype and device"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(name: str, prior: Prior) -> None:
    cost, promise = BROKEN[name]
    report, broken = judged(cost, prior)
    assert promise in broken and not report.passed
    advice = [check.advice for check in report.checks if check.passed is False]
    assert all(advice)


@pytest.mark.parametrize("error", [0.01, -0.01])
def test_a_gradient_that_is_wrong_by_one_percent_is_found(error: float, prior: Prior) -> None:
    def cost(x: Tensor) -> Tensor:
        value = energy(x)
        return value + error * (value - value.detach())  # the value of one, the slope of another

    _, broken = judged(cost, prior)
    assert broken == {"gradient = differences (float64)"}


def test_a_cost_for_float32_only_is_checked_in_float32(prior: Prior) -> None:
    model = network()  # out of reach in a closure

    def cost(x: Tensor) -> Tensor:
        return model(x)

    report, broken = judged(cost, prior)
    assert report.passed and not broken
    names = {check.name: check.passed for check in report.checks}
    assert names["works in float64"] is None
    assert names["gradient = differences (float32)"]


def test_a_cost_that_is_singular_on_samples_is_found_there() -> None:
    # samples of a narrow law at 0 are within reach of the singularity, noise is not
    point = as_prior(gaussian(torch.zeros(2), 1e-24 * torch.eye(2)))
    _, broken = judged(lambda x: x.square().sum(1) ** -2, point)
    assert "finite on samples of the prior" in broken
    assert "finite on decoded noise" not in broken


@pytest.mark.parametrize("weight", [1e30, 1e-30, 1e15, 1e-15])
def test_a_scale_that_no_optimizer_can_use_is_found(weight: float, prior: Prior) -> None:
    report, broken = judged(weight * FunctionCost(energy), prior)
    assert broken >= {"usable scale on decoded noise", "usable scale on samples of the prior"}
    (advice,) = {c.advice for c in report.checks if c.name.startswith("usable")}
    assert "scale the cost" in advice
    assert not judged(1e6 * FunctionCost(energy), prior)[1]
    assert not judged(1e-6 * FunctionCost(energy), prior)[1]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_leak_is_found_at_any_scale(scale: float, prior: Prior) -> None:
    _, broken = judged(lambda x: scale * energy(x - 1e-6 * x.mean(0)), prior)
    assert {"no sample sees another", "no gradient across samples"} <= broken


def test_a_cost_that_is_no_number_is_called_so(prior: Prior) -> None:
    report, broken = judged(lambda x: energy(x) * math.nan, prior)
    assert broken == {"is a number"}
    assert report.checks[-1].found == "NaN on all 4 samples"
    report, broken = judged(lambda x: (x[:, 0, 0]).sqrt() + energy(x), prior)
    (finite,) = (c for c in report.checks if c.name == "finite on decoded noise")
    assert "values NaN" in finite.found and "repeatable" not in broken


def test_a_cost_that_ends_the_program_is_a_finding(prior: Prior) -> None:
    def cost(x: Tensor) -> Tensor:
        raise SystemExit(3)

    report, broken = judged(cost, prior)
    assert broken == {"one value per sample"} and report.checks[0].found == "SystemExit: 3"


def test_the_scale_is_that_of_the_cost(prior: Prior) -> None:
    report, _ = judged(energy, prior, seeds=range(7))
    x = prior.start(range(7))
    noise, samples = report.scales
    assert (noise.signals, samples.signals) == ("decoded noise", "samples")
    assert report.samples == 7 and report.shape == (2, 3)
    value = energy(x)
    assert noise.value == pytest.approx(float(value.median()))
    assert (noise.low, noise.high) == pytest.approx((float(value.min()), float(value.max())))
    assert noise.gradient == pytest.approx(2 * float(value.median()) ** 0.5, rel=1e-5)
    # one percent of ‖x‖ along 2x: 0.02 ‖x‖²
    assert noise.change == pytest.approx(0.02 * float(value.median()), rel=1e-5)
    tenfold, _ = judged(10.0 * FunctionCost(energy), prior, seeds=range(7))
    assert tenfold.scales[1].gradient == pytest.approx(10 * samples.gradient, rel=1e-5)


def test_classes_and_functions_are_built_from_arguments(prior: Prior) -> None:
    report, _ = judged(Ink, prior, arguments={"target": 2.0})
    assert report.cost == "Ink"
    by_hand, _ = judged(Ink(2.0), prior)
    assert report.scales == by_hand.scales

    def weighted(x: Tensor, weight: float = 1.0) -> Tensor:
        return weight * energy(x)

    report, _ = judged(weighted, prior, arguments={"weight": 3.0})
    assert report.cost == "weighted"
    plain, _ = judged(weighted, prior)
    assert report.scales[0].value == pytest.approx(3 * plain.scales[0].value)


def test_nothing_but_the_signals_is_drawn_from_the_prior(prior: Prior) -> None:
    before = prior.flow.evaluations.copy()
    judged(BROKEN["scalar"][0], prior)
    assert vars(prior.flow.evaluations - before) == dict.fromkeys(vars(before), 0)
    judged(energy, prior)
    assert (prior.flow.evaluations - before).forward == 3


def test_wrong_calls(prior: Prior) -> None:
    with pytest.raises(TypeError, match="cost: expected a Cost, a class of them or a function"):
        check_cost(3, prior)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"arguments: Ink\(target\) does not take {}: missing"):
        check_cost(Ink, prior)
    with pytest.raises(TypeError, match=r"arguments: energy\(x\) does not take"):
        check_cost(energy, prior, arguments={"weight": 1})
    with pytest.raises(TypeError, match="is built already"):
        check_cost(Ink(0.1), prior, arguments={"target": 1.0})
    with pytest.raises(ValueError, match="seeds: expected 3"):
        check_cost(SquaredError(Double(), torch.ones(3, 2, 3)), prior, seeds=range(4))
    with pytest.raises(ValueError, match="directions: expected at least 1"):
        check_cost(energy, prior, directions=0)


def test_a_report_without_a_gradient_has_no_scale(prior: Prior) -> None:
    report, _ = judged(BROKEN["detached"][0], prior)
    assert report.scales == () and math.isnan(report.milliseconds)
