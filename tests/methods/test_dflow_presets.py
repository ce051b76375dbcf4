"""D-Flow: settings by name, projections of the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import Cost, FunctionCost, NegativePSNR, Reversed, SquaredError
from ctrlgen.methods import DFlow
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi, Regularizer
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.dflow import PRESETS
from ctrlgen.methods.starts import Blend, GuidedStart
from ctrlgen.operators.base import LinearOperator, Measurement
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import Power
from ctrlgen.solvers import RK4, Dopri5, Euler, Midpoint, Solver
from ctrlgen.testing.oracles import gaussian
from tests.methods.dflow_problems import DOUBLE, SEEDS, D, M, rows, same

Build = Callable[..., Any]
EXACT = LBFGS(max_iterations=200, gradient_tolerance=1e-9, change_tolerance=0)


@pytest.fixture
def operator(matrix_operator: Build) -> LinearOperator:
    """A random 2 × 4 matrix."""
    return matrix_operator(normal([1], (M, D), 3, dtype=torch.float64)[0])


def test_presets_are_those_of_the_paper() -> None:
    """Table 6: targets, blends, regularizers, solvers."""
    targets = {name: DFlow.preset(name).target for name in PRESETS}
    assert targets == {
        "inpaint": -45, "inpaint-noisy": -32, "sr2": -55, "sr2-noisy": -32, "deblur": -55,
        "deblur-noisy": -32, "denoise": -32, "latent-inpaint": -45, "audio": None,
        "molecule-property": None,
    }  # fmt: skip
    for name in PRESETS:
        method = DFlow.preset(name)
        noisy = name.endswith("noisy") or name == "denoise"
        assert repr(method.regularizer) == ("Chi(0.01)" if noisy else "None")
        if name in ("molecule-property", "latent-inpaint", "audio"):
            evaluations = 100 if name == "molecule-property" else 6
            assert isinstance(method.solver, Midpoint) and method.solver.evaluations == evaluations
        else:
            assert method.solver is None  # three midpoint steps on the grid of the prior
        if name != "molecule-property":
            assert isinstance(method.initializer, Blend)
            assert method.initializer.weight == (0.25 if name == "latent-inpaint" else 0.1)


def test_the_default_solver_is_on_the_grid_of_the_prior(
    operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    oracle, cost = prior_of(mixture(3, D)), NegativePSNR(operator, rows(M))
    prior = Prior(oracle.flow, oracle.source, grid=Power(power=2.0))

    def run(prior: Prior, **options: Any) -> Result:
        method = DFlow(optimizer=LBFGS(max_iterations=2), dtype=torch.float64, **options)
        return method(prior, cost, seeds=SEEDS)

    warped = Midpoint(grid=[0.0, 5 / 9, 8 / 9, 1.0])
    default = run(prior)
    assert torch.allclose(default.samples, run(oracle, solver=warped).samples, rtol=1e-9)
    assert default.method == repr(DFlow(
        optimizer=LBFGS(max_iterations=2), dtype=torch.float64, solver=warped
    ))  # fmt: skip
    assert torch.equal(run(prior, solver=Midpoint(3)).samples, run(oracle).samples)
    assert not torch.allclose(default.samples, run(oracle).samples, rtol=1e-3)
    assert default.network.forward_rows == 6 * int(default.objective_calls.sum())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(
    name: str, operator: LinearOperator, mixture: Build, prior_of: Build
) -> None:
    restart_every = DFlow.preset(name).optimizer.restart_every
    method = DFlow.preset(
        name,
        optimizer=LBFGS(max_iterations=2, restart_every=restart_every),
        dtype=torch.float64,
    )
    prior, cost = (
        prior_of(mixture(3, D)),
        NegativePSNR(operator, rows(M), projected="deblur" in name),
    )
    result = method(prior, cost, seeds=SEEDS)
    assert bool((result.history["value"][-1] <= result.history["value"][0]).all())
    assert result.iterations.max() <= 2


def test_presets_take_changes_and_refuse_unknown_names() -> None:
    method = DFlow.preset("sr2", initializer=GuidedStart(), target=-40)
    assert isinstance(method.initializer, GuidedStart) and method.target == -40
    assert DFlow.preset("sr2").target == -55
    with pytest.raises(UnknownName, match=r"preset: 'sr3' is not known; known are: .*sr2"):
        DFlow.preset("sr3")
    with pytest.raises(TypeError, match="targets"):
        DFlow.preset("sr2", targets=3)


# ------------------------------------------------------------------ projections


MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


class Points(nn.Module):
    """A small velocity of padded point sets (B, N, F), blind to padding."""

    def forward(self, x: Tensor, t: Tensor, real: Tensor) -> Tensor:
        real = real.unsqueeze(2)
        mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return torch.where(real, torch.tanh(x + mean) - x, 0)


def molecules(index: list[int] | None = None) -> tuple[Prior, Cost, Normalize]:
    at = torch.tensor(index or range(4))
    mask, wish = MASK[at], rows(stream=5)[at]
    prior = Prior(
        Flow(Points(), CondOT()), MaskedGaussian(mask, features=5), conditions={"real": mask}
    )
    cost = FunctionCost(
        lambda x, wish, real: ((x[..., 3] * real).sum(1) - wish).square(),
        {"wish": wish, "real": mask},
    )
    return prior, cost, Normalize(mask)


@pytest.mark.parametrize("isotropic", [False, True])
def test_normalised_runs_return_normalised_points(isotropic: bool) -> None:
    prior, cost, _ = molecules()
    normalize = Normalize(MASK, isotropic=isotropic)
    method = DFlow(
        solver=Midpoint(5),
        optimizer=LBFGS(max_iterations=25, restart_every=5),
        projection=normalize,
        **DOUBLE,
    )
    result = method(prior, cost, seeds=SEEDS)
    assert torch.allclose(normalize(result.controls), result.controls, rtol=0, atol=1e-12)
    assert result.controls[~MASK].abs().max() == 0
    assert bool((result.costs < result.history["cost"][0]).all())
    assert torch.allclose(
        Midpoint(5)(lambda x, t: prior.velocity(x, t), result.controls), result.samples
    )


def test_masks_leave_with_their_samples() -> None:
    """Law 1 with a mask, a projection, and rows that stop at different times."""

    def run(index: list[int]) -> Result:
        prior, cost, normalize = molecules(index)
        method = DFlow(
            optimizer=LBFGS(max_iterations=15, restart_every=3),
            projection=normalize,
            regularizer=Chi(0.02),
            target=0.5,
            **DOUBLE,
        )
        return method(prior, cost, seeds=[SEEDS[i] for i in index])

    whole = run([0, 1, 2, 3])
    assert len(set(whole.iterations.tolist())) > 1
    for i in range(4):
        same(run([i]), whole.take(torch.tensor([i])))


class PerRow(Regularizer):
    """A user's regularizer with data of its own for every sample."""

    per_sample = ("centre",)

    def __init__(self, centre: Tensor) -> None:
        super().__init__(1.0)
        self.centre = centre

    def __call__(self, x0: Tensor, source: Any, divergence: Tensor | None = None) -> Tensor:
        return (x0 - self.centre).square().sum(1)


def test_data_of_a_regularizer_leave_with_their_samples() -> None:
    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((D,)))
    centre, y = 3 * rows(D, stream=6), rows(D)
    method = DFlow(regularizer=PerRow(centre), target=2.0, **DOUBLE)
    result = method(prior, Reversed(y), seeds=SEEDS)
    assert len(set(result.evaluations.tolist())) > 1
    for i in range(4):
        alone = DFlow(regularizer=PerRow(centre[i : i + 1]), target=2.0, **DOUBLE)(
            prior, Reversed(y[i : i + 1]), seeds=SEEDS[i : i + 1]
        )
        same(alone, result.take(torch.tensor([i])))


def test_solver_of_a_run_may_be_any(mixture: Build, prior_of: Build) -> None:
    prior, y = prior_of(mixture(2, D)), rows(D)
    solvers: list[Solver] = [RK4(3), Euler(grid=[0, 0.2, 1]), Dopri5(1e-4, 1e-4, "adjoint")]
    for solver in solvers:
        result = DFlow(solver=solver, optimizer=LBFGS(max_iterations=3), **DOUBLE)(
            prior, Reversed(y), seeds=SEEDS
        )
        assert bool((result.costs < result.history["cost"][0]).all())


def test_white_prior_moves_only_what_is_measured(operator: LinearOperator) -> None:
    """On N(0, I) Φ is the identity up to the solver: the null space keeps the draw."""
    prior = Prior(gaussian(torch.zeros(D).double(), torch.eye(D).double()).flow(), Gaussian((D,)))
    cost = SquaredError(operator, rows(M))
    result = DFlow(solver=RK4(16), optimizer=EXACT, **DOUBLE)(prior, cost, seeds=SEEDS)
    draw = prior.start(SEEDS, **DOUBLE)
    given = Measurement(operator, cost.y)
    expected = draw - operator.project(draw) + operator.pinv(given.y)
    assert torch.allclose(result.samples, expected, rtol=0, atol=1e-3)
