"""The derivative of a sample in its source: closed forms, Theorem 4.2, and D-Flow's own steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods.source.tangent import Tangent
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.paths import CondOT, Cosine, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import RK4, Euler, Midpoint
from ctrlgen.testing import euler_product, gaussian, ordered_exponential

Build = Callable[..., Any]
D, SEEDS = 4, [4, 9, 2]
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11}


def rows(*shape: int, stream: int = 3) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


def jacobians(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of each row, shape (B, D, D)."""
    x = x.clone().requires_grad_()
    values = function(x).sum(0)
    return torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0] for v in values], 1)


@pytest.fixture
def prior(mixture: Build, prior_of: Build) -> Prior:
    return prior_of(mixture(3, D))


def test_gaussian_data_move_by_their_covariance() -> None:
    """D Dᵀ = S, the directions in which the data hardly vary nearly taken away."""
    basis = torch.linalg.qr(rows(D, D)[0]).Q
    covariance = (basis * torch.tensor([2.0, 1.0, 0.3, 1e-4], dtype=torch.float64)) @ basis.mT
    law = gaussian(rows(D)[0], covariance)
    tangent = Tangent(Prior(law.flow(), Gaussian((D,))), rows(D, stream=4), RK4(20))
    gradient = rows(D, stream=5)
    moved = tangent.project(gradient)
    torch.testing.assert_close(moved, gradient @ covariance, rtol=0, atol=2e-4)
    assert (moved @ basis[:, 3]).abs().max() < 1e-3 < (moved @ basis[:, 0]).abs().max()


def test_products_are_those_of_the_jacobian(prior: Prior) -> None:
    x0, solver = rows(D), Midpoint(3, "checkpoint")
    tangent = Tangent(prior, x0, solver)
    jacobian = jacobians(lambda x: prior.generate(x, solver), x0)
    v, w = rows(D, stream=6), rows(D, stream=7)
    torch.testing.assert_close(tangent.matrix(), jacobian, **EXACT)
    torch.testing.assert_close(tangent.push(v), torch.einsum("bij,bj->bi", jacobian, v), **EXACT)
    torch.testing.assert_close(tangent.pull(w), torch.einsum("bij,bi->bj", jacobian, w), **EXACT)
    torch.testing.assert_close(tangent.project(w), tangent.push(tangent.pull(w)), **EXACT)
    torch.testing.assert_close(tangent.signal, prior.generate(x0, solver), **EXACT)


def test_a_gradient_step_moves_the_sample_as_told(mixture: Build) -> None:
    """(Φ(x_0 − η Dᵀg) − Φ(x_0))/η → −D Dᵀ g, signals in units of their own."""
    prior = Prior(mixture(3, D).flow(), Gaussian((D,)), Scaled(2.0, 0.5))
    x0, gradient, solver = rows(D), rows(D, stream=8), Midpoint(3)
    tangent = Tangent(prior, x0)
    eta = 1e-5
    ends = [prior.generate(x0 + s * eta * tangent.pull(gradient), solver) for s in (-1, 1)]
    moved = (ends[0] - ends[1]) / (2 * eta)
    torch.testing.assert_close(moved, -tangent.project(gradient), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", [CondOT(), Cosine()], ids=["condot", "cosine"])
def test_eulers_steps_are_the_ordered_product(mixture: Build, path: Path) -> None:
    law, x0 = mixture(3, D), rows(D)
    prior = Prior(law.flow(path), Gaussian((D,)))
    product = euler_product(law, x0, 7, path)
    torch.testing.assert_close(Tangent(prior, x0, Euler(7)).matrix(), product, **EXACT)
    assert not torch.allclose(product, product.mT, atol=1e-2)  # so that the order counts


def test_theorem_4_2(prior: Prior, mixture: Build) -> None:
    """σ_t Texp ∫ γ Var is the derivative of a fine solve, with an error that falls by four."""
    law, x0, end = mixture(3, D), rows(D), 0.8
    solve = lambda x: RK4(24)(BoundVelocity(prior), x, 0.0, end)  # noqa: E731
    exact = jacobians(solve, x0)
    errors = [
        (ordered_exponential(law, x0, end, steps) - exact).abs().max() for steps in (10, 20, 40)
    ]
    assert errors[2] < 5e-3 * exact.abs().max()
    assert 3.3 < errors[0] / errors[1] < 4.7 and 3.3 < errors[1] / errors[2] < 4.7


def test_bad_arguments(prior: Prior) -> None:
    with pytest.raises(ValueError, match="solver: expected a gradient that is 'direct' or"):
        Tangent(prior, rows(D), Midpoint(3, "adjoint"))
    with pytest.raises(TypeError, match="prior: expected a Prior, got 3"):
        Tangent(3, rows(D))  # type: ignore[arg-type]
    tangent = Tangent(prior, rows(D))
    for product, name in ((tangent.push, "v"), (tangent.pull, "w")):
        with pytest.raises(
            ValueError, match=rf"{name}: expected shape \(3, 4\), torch.float64, got"
        ):
            product(rows(D + 1))
