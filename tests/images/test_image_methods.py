"""Methods as image tasks use them: what each is built for, what it costs, what it does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen.methods as methods
from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.costs.problems import InverseProblem, psnr_of
from ctrlgen.domains.images.metrics import psnr
from ctrlgen.domains.images.operators import (
    Denoise,
    GaussianBlur,
    Inpainting,
    SuperResolution,
)
from ctrlgen.methods import DPS, NDTM
from ctrlgen.methods.result import Result
from ctrlgen.methods.tuned import METHODS, Case, build, named
from ctrlgen.operators.base import Operator, measure
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.status import Status

SHAPE, SEEDS, MEAN, STD = (1, 8, 8), range(3), 0.1, 0.4


class BentBlur(Operator):
    """Of every pixel and two of its neighbours the mean, bent; H† = y (a heuristic)."""

    task = "deblur"

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh((2 * x + x.roll(1, -1) + x.roll(1, -2)) / 4)

    def pinv(self, y: Tensor) -> Tensor:
        return y


TASKS: dict[str, tuple[Operator, float]] = {
    "inpaint": (Inpainting.centre(4, SHAPE), 0.0),
    "upsample": (SuperResolution(2), 0.0),
    "deblur": (GaussianBlur(0.7), 0.05),
    "denoise": (Denoise(), 0.2),
    "other": (BentBlur(), 0.05),
}
LINEAR = [task for task in TASKS if task != "other"]


def smooth() -> tuple[Tensor, Tensor]:
    """Eigenvectors and variances of images whose neighbours are alike."""
    place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    covariance = STD**2 * torch.exp(-torch.cdist(place, place) / 3)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors, values


class Smooth(torch.nn.Module):
    """The exact velocity for these images on straight lines."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.values = smooth()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, 1)
        away = (x.flatten(1) - t * MEAN) @ self.vectors
        slope = (t * self.values - (1 - t)) / (t**2 * self.values + (1 - t) ** 2)
        return (MEAN + (slope * away) @ self.vectors.T).reshape(x.shape)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return Prior(Flow(Smooth(), CondOT()), Gaussian(SHAPE))


@pytest.fixture(scope="module")
def truth() -> Tensor:
    vectors, values = smooth()
    draws = torch.randn(len(SEEDS), 64, generator=torch.Generator().manual_seed(5))
    return (MEAN + (draws * values.sqrt()) @ vectors.T).reshape(-1, *SHAPE)


def case_of(task: str) -> Case:
    operator, noise = TASKS[task]
    return Case(operator, noise, noise)


def solve(
    name: str, task: str, prior: Prior, truth: Tensor, **options: Any
) -> tuple[Result, Tensor]:
    """The result and the PSNR of its measurement."""
    case = case_of(task)
    y = measure(case.operator, truth, case.noise, SEEDS)
    method = build(name, case, **options)
    cost = InverseProblem(case.operator, y, case.noise).cost(method)
    result = method(prior, cost, seeds=SEEDS)
    return result, psnr_of(cost, result.costs)


def check(task: str, result: Result, measured: Tensor, prior: Prior, truth: Tensor) -> None:
    """No row diverged; all of them are far from unguided draws, towards the measurement."""
    assert not (result.status == Status.DIVERGED).any()
    case, drawn = case_of(task), prior.sample(SEEDS)
    y = measure(case.operator, truth, case.noise, SEEDS)
    unguided = -NegativePSNR(case.operator, y)(drawn)
    assert (measured > unguided + 3).all(), (measured, unguided)
    assert psnr(result.samples, truth).median() > psnr(drawn, truth).median() + 2


def test_every_method_is_in_the_table() -> None:
    kinds = {entry.kind.__name__ for entry in METHODS.values()}
    # Of these one estimates the operator, one has a classifier for a cost, and four take no
    # gradient though a restoration has one.
    others = {
        "BlindNDTM",
        "ClassifierGuidance",
        "BestOf",
        "EvolutionStrategy",
        "ParticleResampling",
        "RenoisingSearch",
        "TrustRegionSearch",
    }
    assert kinds == set(methods.__all__) - {"Method"} - others


def test_names_in_any_case_with_and_without_hyphens() -> None:
    for key, entry in METHODS.items():
        for name in (key, key.upper(), key.replace("-", ""), entry.kind.__name__):
            assert named(name) == key
    with pytest.raises(UnknownName, match="method: 'magic' is not known; known are: ancestral-"):
        named("magic")


@pytest.mark.parametrize("task", LINEAR)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_brings_measurement_and_image_closer(
    name: str, task: str, prior: Prior, truth: Tensor
) -> None:
    result, measured = solve(name, task, prior, truth)
    check(task, result, measured, prior, truth)


@pytest.mark.parametrize("name", [key for key, entry in METHODS.items() if not entry.linear])
def test_methods_that_need_no_linear_operator(name: str, prior: Prior, truth: Tensor) -> None:
    result, measured = solve(name, "other", prior, truth)
    check("other", result, measured, prior, truth)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_are_a_limit_that_is_used(name: str, prior: Prior, truth: Tensor) -> None:
    stop = {"target": 200.0} if "target" in METHODS[name].options else {}
    result, _ = solve(name, "inpaint", prior, truth, evaluations=60, **stop)
    assert 0.7 * 60 <= result.network.forward <= 60


@pytest.mark.parametrize("name", METHODS)
def test_too_few_evaluations(name: str) -> None:
    with pytest.raises(ValueError, match=f"evaluations: expected at least .* for {name}, got 0"):
        build(name, case_of("inpaint"), evaluations=0)


def test_a_nonlinear_operator_is_refused_by_name() -> None:
    refused = set()
    for name in METHODS:
        try:
            build(name, case_of("other"))
        except ValueError as error:
            assert str(error) == f"method: {name} needs a linear operator, got BentBlur"
            refused.add(name)
    analytic = {"pigdm", "ancestral-pigdm", "c-pigdm", "ot-ode", "c-pigfm", "ddrm"}
    assert refused == analytic


def test_options_go_to_methods_that_have_them() -> None:
    case = case_of("inpaint")
    for name, entry in METHODS.items():
        for option, value in (("init", "blend"), ("iterations", 7), ("target", 33.0)):
            if option in entry.options:
                assert build(name, case, **{option: value}) != build(name, case)
            else:
                with pytest.raises(ValueError, match=f"{option}: {name} has none; it is for d-f"):
                    build(name, case, **{option: value})
    with pytest.raises(
        ValueError, match="init: expected one of guided, mean, refined, secants, blend, source"
    ):
        build("d-flow", case, init="lucky")
    with pytest.raises(ValueError, match="target: expected a PSNR in dB, got nan"):
        build("dmplug", case, target=math.nan)


def test_both_forms_of_the_cost_tell_the_same_psnr(truth: Tensor) -> None:
    operator = Inpainting.centre(4, SHAPE)
    y = measure(operator, truth)
    forms = []
    for name in ("d-flow", "ndtm"):
        cost = InverseProblem(operator, y, 0.1).cost(build(name, case_of("inpaint")))
        assert cost.measurement.noise == 0.1
        forms.append(type(cost))
        values = cost(truth + 0.1)
        assert torch.allclose(psnr_of(cost, values), torch.tensor(26.0206), atol=1e-3)
        assert psnr_of(cost, values.expand(4, -1)).shape == (4, 3)
    assert forms == [NegativePSNR, SquaredError]


def test_a_subclass_is_given_the_cost_of_its_class(truth: Tensor) -> None:
    """The form is what a method declares, not a matter of its exact type."""

    class Mine(NDTM):
        pass

    class Other(DPS):
        cost_form = "squared"

    operator = Inpainting.centre(4, SHAPE)
    y = measure(operator, truth)
    for method, kind in ((Mine(), SquaredError), (DPS(), NegativePSNR), (Other(), SquaredError)):
        assert type(InverseProblem(operator, y).cost(method)) is kind


def test_noise_lowers_the_weight_of_the_measurement() -> None:
    for name, field in (("ndtm", "terminal_weight"), ("tfg", "mu"), ("flow-priors", "weight")):
        weights = []
        for sigma in (0.0, 0.2, 0.4):
            case = Case(Denoise(), sigma, sigma)
            weights.append(getattr(build(name, case), field))
        assert weights[0] > weights[1] and weights[1] == pytest.approx(4 * weights[2]), name
