"""Bad input of a run: the error names the argument, and the network has not been evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen.costs import (
    ClassifierCost,
    Cost,
    FunctionCost,
    LevelSet,
    NegativePSNR,
    Reversed,
    SquaredError,
)
from ctrlgen.extras import require
from ctrlgen.methods import DFlow
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import GaussianNLL
from ctrlgen.methods.starts import Blend, GuidedStart
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import CostError, MissingExtra, UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Midpoint

D = 4
SEEDS = [3, 1, 2]
Build = Callable[..., Any]


def rows(count: int = 3, size: int = D) -> Tensor:
    return normal(range(count), (size,), 5)


class Linear(nn.Module):
    """A float32 network that notices every evaluation, before anything is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, D)
        self.seen = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen += 1
        return self.layer(x)


@pytest.fixture
def prior() -> Iterator[Prior]:
    """A prior of vectors that must not be evaluated."""
    network = Linear()
    prior = Prior(Flow(network, CondOT()), Gaussian((D,)))
    yield prior
    assert network.seen == 0
    assert prior.flow.evaluations.forward == 0


def square(x: Tensor) -> Tensor:
    return x.square().sum(1)


# ------------------------------------------------------------------ costs


def no_gradient(x: Tensor) -> Tensor:
    return x.detach().square().sum(1)


def integers(x: Tensor) -> Tensor:
    return (x > 0).sum(1)


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (lambda x: x.square().sum(), CostError, r"one value per sample, shape \(3,\), got \(\)"),
        (
            lambda x: x.square().mean(0),
            CostError,
            r"one value per sample, shape \(3,\), got \(4,\)",
        ),
        (lambda x: x.square(), CostError, r"got \(3, 4\)"),
        (lambda x: x.square().sum(1, keepdim=True), CostError, r"got \(3, 1\)"),
        (lambda x: 1.0, CostError, "one value per sample.* got float"),
        (lambda x: None, CostError, "got NoneType"),
        (no_gradient, CostError, "cost: has no gradient with respect to the signal"),
        (lambda x: torch.ones(3, requires_grad=True), CostError, "has no gradient"),
        (integers, CostError, "cost: expected floating point values, got torch.int64"),
        (None, TypeError, "cost: expected a Cost or a function of the signal, got None"),
        (3.0, TypeError, "cost: .*got 3.0"),
        (SquaredError, TypeError, "cost: .*SquaredError"),
        (FunctionCost(lambda x: x.sum()), CostError, r"<lambda>: .*got \(\)"),
        (FunctionCost(square, {"c": rows(2)}), CostError, "holds data of 2 samples, expected 3"),
        (Reversed(rows(2)), CostError, "holds data of 2 samples, expected 3, one per seed"),
        (Reversed(rows(3, 5)), ValueError, r"y: expected shape \(3, 4\), got \(3, 5\)"),
        (LevelSet(lambda x: x.mean(), 1.0), CostError, "one value per sample"),
        (
            LevelSet(lambda x: x.mean(1), torch.ones(2)),
            CostError,
            "holds data of 2 samples, expected 3",
        ),
        (
            ClassifierCost(nn.Linear(D, 5), torch.tensor([0, 1, 7])),
            ValueError,
            "label: expected classes below 5, got 7",
        ),
        (
            2.0 * Reversed(rows()) + Reversed(rows(2)),
            ValueError,
            r"disagree on the batch size: \{'left': 3, 'right': 2\}",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:30],
)
def test_costs_that_break_their_contract(
    cost: Any, error: type[Exception], message: str, prior: Prior
) -> None:
    for method in (DFlow(), DFlow(initializer=Blend())):
        with pytest.raises(error, match=message):
            method(prior, cost, seeds=SEEDS)


def test_a_scalar_is_noticed_for_a_single_sample_too(prior: Prior) -> None:
    with pytest.raises(CostError, match=r"shape \(1,\), got \(\)"):
        DFlow()(prior, lambda x: x.square().sum(), seeds=[1])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"c": [1.0, 2.0]}, TypeError, "per_sample: c: expected a tensor.*got list"),
        ({"c": torch.tensor(1.0)}, ValueError, "per_sample: c: expected one row per sample"),
    ],
)
def test_data_without_rows(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FunctionCost(square, data)
    with pytest.raises(TypeError, match="fn: expected a function"):
        FunctionCost(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_measurements_that_are_not_finite(bad: float, matrix_operator: Build) -> None:
    y = rows(3, 2)
    y[1, 0] = bad
    operator = matrix_operator(torch.ones(2, D))
    for build in (SquaredError, NegativePSNR):
        with pytest.raises(ValueError, match=r"y: expected finite numbers, .* in samples \[1\]"):
            build(operator, y)
    with pytest.raises(ValueError, match=r"y: .*samples \[1\]"):
        Reversed(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (rows(3, 3), r"y: expected shape \(3, 2\), that of H\(x\), got \(3, 3\)"),
        (rows(4, 2), "holds data of 4 samples, expected 3"),
    ],
)
def test_measurements_of_the_wrong_kind(
    y: Tensor, message: str, prior: Prior, matrix_operator: Build
) -> None:
    operator = matrix_operator(normal([1], (2, D), 3)[0])
    for initializer in (Blend(), GuidedStart()):
        with pytest.raises(ValueError, match=message):
            cost = NegativePSNR(operator, rows(3, 2))
            cost.y = y
            DFlow(initializer=initializer)(prior, cost, seeds=SEEDS)


# ------------------------------------------------------------------ priors, seeds, dtypes, devices


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "seeds: expected at least one"),
        ([-1, 2, 3], "seeds: .*got -1"),
        ([1.5], "seeds: .*got 1.5"),
        ([True], "seeds: .*got True"),
        ([2**63], "seeds: .*9223372036854775808"),
        (torch.zeros(2, 2, dtype=torch.int64), r"seeds: .*\(2, 2\)"),
        (torch.zeros(3), "seeds: .*float32"),
    ],
    ids=str,
)
def test_seeds(seeds: Any, message: str, prior: Prior) -> None:
    with pytest.raises(ValueError, match=message):
        DFlow()(prior, square, seeds=seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": torch.float64}, r"dtype: expected torch\.float32, that of the network, got"),
        ({"device": "meta"}, "device: expected cpu, where the network is, got meta"),
    ],
)
def test_dtype_and_device_of_the_network(
    changes: dict[str, Any], message: str, prior: Prior
) -> None:
    with pytest.raises(ValueError, match=message):
        DFlow(**changes)(prior, square, seeds=SEEDS)


def test_conditions_of_another_batch(prior: Prior) -> None:
    bound = prior.bind(label=[0, 1])
    with pytest.raises(ValueError, match="seeds: expected 2, as many as rows in conditions, got 3"):
        DFlow()(bound, square, seeds=SEEDS)
    mask = torch.ones(2, D, dtype=torch.bool)
    masked = Prior(prior.flow, MaskedGaussian(mask, 3))
    with pytest.raises(ValueError, match="seeds: expected 2, as many as rows in source, got 3"):
        DFlow()(masked, lambda x: x.square().sum((1, 2)), seeds=SEEDS)


def test_codecs_of_another_channel_count(prior: Prior) -> None:
    prior.codec = Scaled([1.0, 2.0])
    with pytest.raises(ValueError, match="2 channels"):
        DFlow()(prior, square, seeds=SEEDS)


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match=r"prior: 'mnist2' is not known; known are: \w+"):
        ctrlgen.load("mnist2")
    with pytest.raises(UnknownName, match=r"preset: 'deblurr' is not known; known are: .*deblur"):
        DFlow.preset("deblurr")


# ------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"solver": "midpoint"}, TypeError, "solver: expected a Solver, got 'midpoint'"),
        ({"solver": Midpoint}, TypeError, "solver: expected a Solver, got <class"),
        ({"optimizer": torch.optim.LBFGS}, TypeError, "optimizer: expected a Optimizer"),
        ({"initializer": None}, TypeError, "initializer: expected a Initializer, got None"),
        ({"regularizer": 0.01}, TypeError, "regularizer: expected a Regularizer, got 0.01"),
        ({"regularizer": GaussianNLL}, TypeError, "regularizer: .*got <class"),
        (
            {"dtype": torch.int64},
            ValueError,
            "dtype: expected torch.float32 or torch.float64, got torch.int64",
        ),
        ({"projection": Normalize()}, ValueError, "projection: needs an optimizer with restart"),
        ({"steps": 3}, TypeError, "steps"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_parts_of_the_wrong_kind(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DFlow(**changes)


@pytest.mark.parametrize("target", [math.nan, torch.ones(2), torch.ones(3, 3)], ids=str)
def test_targets(target: Any, prior: Prior, matrix_operator: Build) -> None:
    cost = NegativePSNR(matrix_operator(torch.ones(2, D)), rows(3, 2))
    with pytest.raises(ValueError, match="target"):
        DFlow(target=target, initializer=Blend())(prior, cost, seeds=SEEDS)


def test_projections_of_another_batch(prior: Prior) -> None:
    method = DFlow(
        projection=Normalize(torch.ones(2, 2, dtype=torch.bool)),
        optimizer=LBFGS(restart_every=2),
    )
    with pytest.raises(ValueError, match="projection: holds data of 2 samples, expected 3"):
        method(prior, square, seeds=SEEDS)


class Picky(Cost):
    """A cost that complains about the third sample alone."""

    per_sample = ("wanted",)

    def __init__(self) -> None:
        self.wanted = torch.tensor([1.0, 2.0, -3.0])

    def forward(self, x: Tensor) -> Tensor:
        if bool((self.wanted < 0).any()):
            raise ValueError("wanted: expected positive numbers")
        return x.square().sum(1)


def test_every_row_of_a_cost_is_tried(prior: Prior) -> None:
    with pytest.raises(ValueError, match="wanted: expected positive"):
        DFlow()(prior, Picky(), seeds=SEEDS)


# ------------------------------------------------------------------ networks and extras


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x, t: x[:, :2], r"network: expected an output of shape \(3, 4\), got \(3, 2\)"),
        (lambda x, t: x.sum(), r"network: expected an output of shape \(3, 4\), got \(\)"),
    ],
)
def test_networks_of_the_wrong_shape(network: Any, message: str) -> None:
    prior = Prior(Flow(network, CondOT()), Gaussian((D,)))
    with pytest.raises(ValueError, match=message):
        DFlow()(prior, square, seeds=SEEDS)


def test_flows_and_solvers_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="network: expected a callable, got int"):
        Flow(3, CondOT())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"prediction: .*'speed'"):
        Flow(lambda x, t: x, CondOT(), "speed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"t: expected a number or shape \(3,\), got \(2,\)"):
        Flow(lambda x, t: x, CondOT()).velocity(rows(), torch.ones(2))


def test_a_missing_extra_says_how_to_install_it() -> None:
    with pytest.raises(MissingExtra, match=r'pip install "ctrlgen\[audio\]"') as caught:
        require("surely_not_installed.part", "audio")
    assert "surely_not_installed.part" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert require("math", "audio") is math


def test_an_extra_that_is_broken_inside_is_not_called_missing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed") as caught:
        require("half_installed", "audio")
    assert not isinstance(caught.value, MissingExtra)
