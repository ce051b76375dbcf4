"""Conjugate integrators: structure, rows and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import OTODE, AncestralPiGDM, CPiGDM, CPiGFM, PiGDM
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.operators.base import LinearOperator, Operator, Spectrum, dense
from ctrlgen.operators.systems import conjugate_gradients
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Uniform
from ctrlgen.testing.oracles import Mixture

Build = Callable[..., Any]
D, M, STEPS = 4, 2, 10
SEEDS = [11, 5, 7, 2, 23, 9]  # one more than the dimensions: they determine an affine map
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
METHODS: dict[str, Any] = {
    "pigdm": PiGDM(**DOUBLE, grid=truncated(STEPS, 0.4)),
    "pigdm-original": AncestralPiGDM(**DOUBLE, grid=truncated(STEPS, 0.9)),
    "cpigdm": CPiGDM(**DOUBLE, grid=truncated(STEPS, 0.4)),
    "cpigfm": CPiGFM(**DOUBLE, grid=Uniform(STEPS, 0.1)),
    "otode": OTODE(**DOUBLE, grid=Uniform(STEPS, 0.1)),
}


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


class Plain(LinearOperator):
    """A matrix that knows no more than H and H^T."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix

    def spectrum(self, x: Tensor) -> Spectrum:
        raise NotImplementedError("no spectrum")

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return (self.matrix.shape[1],)


class Rounded(Operator):
    """Rounds to tenths, with the gradient of the identity; h† = y."""

    def __call__(self, x: Tensor) -> Tensor:
        return x + ((x * 10).round() / 10 - x).detach()

    def pinv(self, y: Tensor) -> Tensor:
        return y


def measured(
    oracle: Mixture, operator: Operator, noise: float = 0.0, kind: type = SquaredError
) -> Any:
    y = operator(oracle.sample(SEEDS))
    return kind(operator, y + noise * rows(*y.shape[1:], stream=5), noise)


@pytest.mark.parametrize("name", METHODS)
def test_residuals_shrink(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(3, D)
    cost, prior = measured(oracle, operator), prior_of(oracle)
    before = cost(prior.sample(SEEDS, dtype=torch.float64))
    result = METHODS[name](prior, cost, seeds=SEEDS)
    assert bool((result.status == Status.FINISHED).all())
    assert result.costs.median() < 0.05 * before.median()


@pytest.mark.parametrize(
    ("method", "extra"),
    [(m, 0) for m in METHODS.values()] + [(replace(METHODS["cpigdm"], final="tweedie"), 1)],
    ids=[*METHODS, "tweedie"],
)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_one_evaluation_and_one_backward_pass_a_step(
    method: Any, extra: int, noise: float,
    operator: LinearOperator, mixture: Build, prior_of: Build,
) -> None:  # fmt: skip
    oracle = mixture(1, D)
    result = method(prior_of(oracle), measured(oracle, operator, noise), seeds=SEEDS)
    assert result.network.forward == STEPS + extra and result.network.vjp == STEPS
    assert result.network.forward_rows == (STEPS + extra) * len(SEEDS)
    assert result.network.jvp == 0


@pytest.mark.parametrize("name", METHODS)
def test_the_heuristic_of_a_linear_operator_is_the_method(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost, method = measured(oracle, operator), METHODS[name]
    exact, heuristic = (
        replace(method, heuristic=on)(prior_of(oracle), cost, seeds=SEEDS).samples
        for on in (False, True)
    )
    assert torch.allclose(exact, heuristic, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["cpigdm", "cpigfm", "pigdm", "otode"])
def test_the_heuristic_serves_what_is_not_linear(
    name: str, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost = measured(oracle, Rounded())
    prior = prior_of(oracle)
    prior.codec = Scaled([1.0, 2.0, 0.5, 1.5])
    before = cost(prior.sample(SEEDS, dtype=torch.float64))
    result = replace(METHODS[name], heuristic=True)(prior, cost, seeds=SEEDS)
    assert result.costs.median() < 0.1 * before.median()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("name", METHODS)
def test_a_codec_that_scales_everything_alike_changes_nothing(
    name: str, noise: float, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    """y = H(κz + x_0) + σ_y n is a linear problem in z."""
    oracle, (scale, shift) = mixture(2, D), (2.5, 0.3)
    cost, prior = measured(oracle, operator, noise), prior_of(oracle)
    plain = METHODS[name](prior, cost, seeds=SEEDS).controls
    prior.codec = Scaled(scale, shift)
    y = scale * cost.y + operator(torch.full((len(SEEDS), D), shift, dtype=torch.float64))
    scaled = METHODS[name](prior, SquaredError(operator, y, scale * noise), seeds=SEEDS)
    assert torch.allclose(scaled.controls, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("name", ["pigdm", "otode", "pigdm-original"])
def test_an_operator_without_a_spectrum_is_solved_by_conjugate_gradients(
    name: str, noise: float, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost = measured(oracle, operator, noise)
    plain = SquaredError(Plain(dense(operator, (D,))), cost.y, noise)
    known, solved = (METHODS[name](prior_of(oracle), c, seeds=SEEDS).samples for c in (cost, plain))
    assert torch.allclose(known, solved, rtol=0, atol=1e-4)


def test_conjugate_gradients_stop_row_by_row() -> None:
    """A row alone and in a batch; one that does not converge is not a number."""
    draws = rows(D, D, stream=30)
    matrices = draws @ draws.mT + 0.1 * torch.eye(D, dtype=torch.float64)
    b = rows(D, stream=31) * torch.tensor([1e-6, 1, 1e6, 1, 0, 1.0]).double()[:, None]

    def apply(index: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: (matrices[index] @ x.unsqueeze(2)).squeeze(2)

    whole = conjugate_gradients(apply(torch.arange(6)), b, 1e-12)
    expected = torch.linalg.solve(matrices, b)
    assert torch.allclose(whole, expected, rtol=1e-8, atol=0)
    for k in range(6):
        index = torch.tensor([k])
        assert torch.equal(conjugate_gradients(apply(index), b[index], 1e-12)[0], whole[k])
    short = conjugate_gradients(apply(torch.arange(6)), b, 1e-12, iterations=2)
    assert bool(short[[0, 1, 2, 3, 5]].isnan().all()) and bool((short[4] == 0).all())


# ------------------------------------------------------------------ rows and refusals


@pytest.mark.parametrize("name", METHODS)
def test_a_row_that_is_lost_leaves_its_neighbours_alone(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(2, D)
    cost, prior = measured(oracle, operator, 0.1), prior_of(oracle)
    clean = METHODS[name](prior, cost, seeds=SEEDS)
    network = prior.flow.network

    def broken(x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        u = network(x, t)
        return torch.where((bad & (t > 0.7)).unsqueeze(1), math.nan, u)

    marked = torch.tensor([False, True, False, False, False, False])
    lost = Prior(Flow(broken, CondOT()), Gaussian((D,)), conditions={"bad": marked})
    result = METHODS[name](lost, cost, seeds=SEEDS)
    assert result.status[1] == Status.DIVERGED and bool(result.samples.isfinite().all())
    others = ~marked
    assert bool((result.status[others] == Status.FINISHED).all())
    assert torch.allclose(result.samples[others], clean.samples[others], rtol=0, atol=1e-12)


def test_what_is_not_linear_is_refused_before_any_compute(mixture: Build, prior_of: Build) -> None:
    oracle = mixture(1, D)
    prior = prior_of(oracle)
    for method in METHODS.values():
        with pytest.raises(ValueError, match=r"linear operator, got Rounded; heuristic=True"):
            method(prior, measured(oracle, Rounded()), seeds=SEEDS)
        with pytest.raises(ValueError, match="measurement"):
            method(prior, Reversed(rows(D)), seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


def test_refusals_before_any_compute(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle = mixture(1, D)
    prior, cost = prior_of(oracle), measured(oracle, operator, 0.1)
    plain = Plain(dense(operator, (D,)))
    noisy = SquaredError(plain, cost.y, 0.1)
    with pytest.raises(ValueError, match="spectral form"):
        CPiGDM(**DOUBLE)(prior, noisy, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"splice: needs .* without noise"):
        AncestralPiGDM(splice=True, **DOUBLE)(prior, cost, seeds=SEEDS)
    for kind in (OTODE, CPiGFM):
        with pytest.raises(ValueError, match=r"grid: guidance needs some signal"):
            kind(grid=Uniform(5), **DOUBLE)(prior, cost, seeds=SEEDS)
    with pytest.raises(ValueError, match="jacobian: 'released'"):
        CPiGFM(jacobian="released", **DOUBLE)(prior, cost, seeds=SEEDS)
    with pytest.raises(ValueError, match="clock: the released treatment"):
        CPiGDM(noisy="released", clock=None, **DOUBLE)(prior, cost, seeds=SEEDS)
    prior.codec = Scaled([1.0, 2.0, 0.5, 1.5])
    with pytest.raises(ValueError, match=r"codec: needs one that scales every entry alike"):
        CPiGDM(**DOUBLE)(prior, cost, seeds=SEEDS)
    assert prior.flow.evaluations.forward == 0


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (CPiGDM, "weight", -1.0), (CPiGDM, "weight", math.nan), (CPiGDM, "decay", math.inf),
        (CPiGDM, "noisy", "none"), (CPiGDM, "final", "last"), (CPiGFM, "jacobian", "some"),
        (PiGDM, "weighting", "some"), (PiGDM, "decay", math.nan), (OTODE, "schedule", "linear"),
        (OTODE, "start", "noise"),
    ],
)  # fmt: skip
def test_options_are_checked(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        kind(**{name: value})


def test_a_rule_must_be_one() -> None:
    with pytest.raises(TypeError, match="rule"):
        AncestralPiGDM(rule="ddim")


@pytest.mark.parametrize("kind", [CPiGDM, CPiGFM, OTODE, PiGDM])
def test_presets_run(kind: Any, operator: LinearOperator, mixture: Build, prior_of: Build) -> None:
    oracle = mixture(2, D)
    prior, cost = prior_of(oracle), measured(oracle, operator, kind=NegativePSNR)
    before = cost(prior.sample(SEEDS, dtype=torch.float64))
    assert kind.presets
    for name in kind.presets:
        method = kind.preset(name, **DOUBLE)
        method = replace(method, grid=replace(method.grid, steps=min(method.grid.steps, 20)))
        result = method(prior, cost, seeds=SEEDS)
        assert bool((result.status == Status.FINISHED).all())
        assert (result.costs - before).median() < -5, name
