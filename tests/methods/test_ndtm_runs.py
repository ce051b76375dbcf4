"""NDTM and its relatives: counters, whole runs, blind operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Reversed, SquaredError
from ctrlgen.methods.controls.blind import BlindBlur, BlindNDTM, convolve
from ctrlgen.methods.controls.ctdtm import CTDTM
from ctrlgen.methods.controls.ftm import FTM
from ctrlgen.methods.controls.ndtm import NDTM
from ctrlgen.methods.result import Result
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers import Adam
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import DDPMUniform, Uniform
from ctrlgen.sampling.steps import DDIM
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
D, M = 3, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 3 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


@pytest.mark.parametrize(
    ("method", "forward", "vjp"),
    [
        (NDTM(iterations=3), 5, 3),
        (NDTM(iterations=3, weighting="zero"), 4, 3),
        (CTDTM(iterations=3), 5, 3),
        (CTDTM(iterations=3, mode="linear"), 1, 0),
        (FTM(iterations=3), 5, 3),
        (FTM(iterations=3, weighting="zero"), 4, 3),
    ],
    ids=["ndtm", "ndtm-zero", "ctdtm", "ctdtm-linear", "ftm", "ftm-zero"],
)
def test_evaluations_are_those_of_the_formula(
    method: Any, forward: int, vjp: int, mixture: Build, prior_of: Build
) -> None:
    result = replace(method, grid=DDPMUniform(4), **DOUBLE)(
        prior_of(mixture(2, D)), Reversed(rows(D)), seeds=SEEDS
    )
    spent = result.network
    assert (spent.forward, spent.vjp, spent.jvp) == (4 * forward, 4 * vjp, 0)
    assert (spent.forward_rows, spent.vjp_rows) == (12 * forward, 12 * vjp)
    assert result.evaluations.tolist() == [4 * forward] * 3
    assert result.iterations.tolist() == [4] * 3
    assert result.history["cost"].shape == (5, 3)


@pytest.mark.parametrize("name", ["ndtm", "ctdtm", "ftm"])
def test_more_weight_means_less_cost(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    prior, cost = prior_of(mixture(2, D)), SquaredError(operator, rows(M))
    kinds: dict[str, Any] = {"ndtm": NDTM, "ctdtm": CTDTM, "ftm": FTM}
    settings = {"grid": DDPMUniform(10), "optimizer": Adam(learning_rate=0.1), **DOUBLE}
    free, guided = (
        kinds[name](terminal_weight=w, **settings)(prior, cost, seeds=SEEDS) for w in (0.0, 20.0)
    )
    assert float(guided.costs.sum()) < 0.8 * float(free.costs.sum())
    assert guided.counts() == {Status.FINISHED.label: 3}


def test_presets_are_the_papers_table(mixture: Build) -> None:
    row = NDTM.preset("ffhq-inpaint")
    assert (row.iterations, row.gamma, row.rule, row.grid) == (
        2,
        4.0,
        DDIM(0.2),
        DDPMUniform(50, 500),
    )
    assert (row.terminal_weight, row.weighting, row.start, row.clip) == (1.0, "zero", "guided", 1.0)
    assert NDTM.preset("imagenet-sr4", iterations=3).iterations == 3
    assert FTM.preset("sr4").weighting == "euler"
    with pytest.raises(UnknownName, match="ffhq-sr4"):
        NDTM.preset("sr4")


def test_presets_run_on_a_flow_prior(operator: LinearOperator, prior_of: Build) -> None:
    """Guided start by SNR on the prior's own clock, bounded x̂."""
    oracle = gaussian(torch.zeros(D).double(), 0.1 * torch.eye(D).double())
    prior, cost = prior_of(oracle), SquaredError(operator, 0.3 * rows(M))
    for method in (NDTM.preset("ffhq-sr4", **DOUBLE), FTM.preset("sr4", **DOUBLE)):
        small = replace(method, grid=DDPMUniform(5, 400))
        result = small(prior, cost, seeds=SEEDS)
        assert result.samples.abs().max() < 1.1
        unclipped = replace(small, clip=None)(prior, cost, seeds=SEEDS)
        assert unclipped.samples.isfinite().all()


# ------------------------------------------------------------------ blind


def test_convolution_is_the_sum_it_stands_for() -> None:
    x, q = rows(2, 6), torch.softmax(rows(4, stream=23), 1)
    out = convolve(x, q)
    for b in range(3):
        for i in range(6):
            terms = [q[b, k] * x[b, :, i - k + 2] for k in range(4) if 0 <= i - k + 2 < 6]
            assert torch.allclose(out[b, :, i], torch.stack(terms).sum(0), atol=1e-12)


def test_blind_restoration_learns_its_kernel() -> None:
    """On signals of a known law the kernel comes nearer to the true one."""
    n, size = 24, 3
    place = torch.arange(n).double()
    smooth = torch.exp(-((place[:, None] - place) ** 2) / 18) + 0.01 * torch.eye(n).double()
    oracle = gaussian(torch.zeros(n).double(), smooth, (1, n))
    prior, truth = Prior(oracle.flow(), Gaussian((1, n))), oracle.sample(SEEDS)
    kernel = torch.tensor([0.0, 0.1, 0.9], dtype=torch.float64).expand(3, size)
    cost = BlindBlur(convolve(truth, kernel), size)
    method = BlindNDTM(
        grid=DDPMUniform(20),
        rule=DDIM(0.2),
        iterations=4,
        optimizer=Adam(learning_rate=0.1),
        kernel_optimizer=Adam(learning_rate=0.1),
        **DOUBLE,
    )
    result = method(prior, cost, seeds=SEEDS)
    assert result.controls.shape == (3, size)
    assert torch.allclose(result.controls.sum(1), torch.ones(3).double(), atol=1e-9)
    assert bool((result.controls > 0).all())
    assert bool((result.costs < 0.2 * cost(torch.zeros_like(truth))).all())
    assert torch.allclose(result.costs, cost.believing(result.controls)(result.samples))
    first = torch.full((3, size), 1 / 3).double()
    errors = [(k - kernel).abs().sum(1).mean() for k in (result.controls, first)]
    assert errors[0] < errors[1]
    assert (result.network.forward, result.network.vjp) == (20 * 6, 20 * 4)
    assert torch.equal(cost.kernel, BlindBlur(cost.y, size).kernel)  # the user's cost is as it was
    frozen = replace(method, kernel_optimizer=Adam(learning_rate=1e-9))(prior, cost, seeds=SEEDS)
    assert (frozen.controls - result.controls).abs().max() > 0.1


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: BlindBlur(torch.zeros(2, 3, dtype=torch.int64), 3), TypeError, "y"),
        (lambda: BlindBlur(torch.zeros(2, 3), 3), ValueError, "space"),
        (lambda: BlindBlur(torch.zeros(2, 1, 4), 0), ValueError, "size"),
        (lambda: BlindBlur(torch.zeros(2, 1, 4), 3, kernel=torch.zeros(2, 2)), ValueError, "ker"),
        (lambda: BlindBlur(torch.zeros(2, 1, 4), 3)(torch.zeros(2, 1, 5)), ValueError, "y"),
        (lambda: BlindNDTM(kernel_optimizer="adam"), TypeError, "kernel_optimizer"),  # type: ignore
        (lambda: NDTM(iterations=0), ValueError, "iterations"),
        (lambda: NDTM(gamma=0.0), ValueError, "gamma"),
        (lambda: NDTM(terminal_weight=-1.0), ValueError, "terminal_weight"),
        (lambda: NDTM(optimizer="adam"), TypeError, "optimizer"),  # type: ignore[arg-type]
        (lambda: NDTM(optimizer=Adam(learning_rate=lambda k: k)), ValueError, "learning_rate"),
        (lambda: NDTM(clip=0.0), ValueError, "clip"),
        (lambda: NDTM(rule="ddim"), TypeError, "rule"),  # type: ignore[arg-type]
        (lambda: NDTM(weighting="best"), ValueError, "weighting"),  # type: ignore[arg-type]
        (lambda: CTDTM(mode="both"), ValueError, "mode"),  # type: ignore[arg-type]
        (lambda: CTDTM(control_weight=-1.0), ValueError, "control_weight"),
        (lambda: FTM(mode="both"), ValueError, "mode"),  # type: ignore[arg-type]
        (lambda: FTM(weighting="ddim"), ValueError, "weighting"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense(build: Build, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


def test_problems_they_refuse_before_any_evaluation(mixture: Build, prior_of: Build) -> None:
    prior, cost = prior_of(mixture(1, D)), Reversed(rows(D))
    wrong: list[tuple[Any, Any, str]] = [
        (BlindNDTM(**DOUBLE), cost, "BlindBlur"),
        (NDTM(start="guided", **DOUBLE), cost, "measurement"),
        (NDTM(clock=None, grid=Uniform(5), **DOUBLE), cost, "α > 0"),
        (NDTM(**DOUBLE), lambda x: x.sum(), "one value per sample"),
    ]
    for method, given, text in wrong:
        with pytest.raises(ValueError, match=text):
            method(prior, given, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


def test_result_is_labelled(mixture: Build, prior_of: Build) -> None:
    method = NDTM(grid=DDPMUniform(2), **DOUBLE)
    result: Result = method(prior_of(mixture(1, D)), Reversed(rows(D)), seeds=SEEDS)
    assert result.method == repr(method) and result.seeds.tolist() == SEEDS
