"""Pinned priors: what is given is held to rounding, and the law of the rest in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import VP, CondOT, Cosine
from ctrlgen.priors.paths import Path as FlowPath
from ctrlgen.priors.pins import Entries, pinned
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import CardError
from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint, Solver
from ctrlgen.testing.oracles import gaussian
from tests.laws.cases.base import MASK, Vector, draw

MANY = RK4(32)


def correlated(rho: float, path: FlowPath | None = None) -> Prior:
    """N(0, S) of two entries, the first of which is pinned to 1."""
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    law = gaussian(torch.zeros(2, dtype=torch.float64), covariance)
    pins = Entries(
        torch.tensor([[True, False]]), torch.tensor([[1.0, torch.nan]], dtype=torch.float64)
    )
    return pinned(Prior(law.flow(path), Gaussian((2,))), pins)


@pytest.mark.parametrize("solver", [Euler(2), Midpoint(2), Heun(2), RK4(2), Dopri5(1e-3, 1e-3)])
@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()])
def test_what_is_given_is_held_by_every_solver_on_every_path(
    solver: Solver, path: FlowPath
) -> None:
    x = correlated(0.7, path).generate(draw(2), solver)
    assert torch.equal(x[:, 0], torch.ones(4, dtype=torch.float64)) and bool(x.isfinite().all())


def response(rho: float) -> tuple[float, float]:
    """c and s² of the free entry: it is linear in the noise of both and in what is given."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    given, *rest = correlated(rho).generate(points, MANY)[:, 1].tolist()
    return given, sum((value - given) ** 2 for value in rest)


@pytest.mark.parametrize(("rho", "c", "variance"), [(0.5, 0.1805, 0.8942), (0.9, 0.4469, 0.5229)])
def test_the_law_of_the_rest_is_that_of_the_documentation(
    rho: float, c: float, variance: float
) -> None:
    assert response(rho) == pytest.approx((c, variance), rel=1e-3)


def test_what_is_independent_of_the_pins_keeps_its_law() -> None:
    assert response(0.0) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_gradients_reach_the_noise_of_the_pins_and_the_adjoint_agrees() -> None:
    grads = []
    for gradient in ("direct", "adjoint"):
        x0 = draw(2).requires_grad_()
        x = correlated(0.7).generate(x0, RK4(16, gradient))  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(x.sum(), x0)
        grads.append(grad)
    assert bool((grads[0].abs() > 1e-2).all())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


def test_an_inverted_sample_comes_back() -> None:
    prior = correlated(0.7)
    x = prior.generate(draw(2), MANY)
    again = prior.generate(prior.encode(x, MANY), MANY)
    assert torch.equal(again[:, 0], x[:, 0])
    plain = prior.generate(prior.encode(again, MANY), MANY)
    torch.testing.assert_close(plain, again, rtol=1e-6, atol=1e-6)


def points() -> tuple[Prior, Tensor, Tensor]:
    source = MaskedGaussian(MASK, 5)
    network = Vector()
    prior = Prior(Flow(lambda x, t: source.project(network(x, t)), CondOT()), source)
    mask = torch.zeros(4, 4, 5, dtype=torch.bool)
    mask[:, :2] = True
    return prior, mask, source.project(draw(4, 5, stream=61))


def test_pins_points_hold_their_shape_and_the_whole_its_centre() -> None:
    prior, mask, value = points()
    x = pinned(prior, Entries(mask, value, 3)).generate(prior.source.project(draw(4, 5)), RK4(3))
    gap, wanted = (z[:, 0, :3] - z[:, 1, :3] for z in (x, value))
    torch.testing.assert_close(gap, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(x[:, :2, 3:], value[:, :2, 3:], rtol=0, atol=1e-12)
    assert float(x[..., :3].sum(1).abs().max()) < 1e-12


def test_pins_refuse(tmp_path: Path) -> None:
    prior, mask, value = points()
    with pytest.raises(ValueError, match=r"mask: expected bool, shape \(B, \*shape\)"):
        Entries(mask.double(), value)
    with pytest.raises(ValueError, match=r"value: expected numbers, shape \(4, 4, 5\)"):
        Entries(mask, value[:2])
    with pytest.raises(ValueError, match="value: expected finite numbers where"):
        Entries(mask, value.log())
    half = mask.clone()
    half[0, 0, 0] = False
    with pytest.raises(ValueError, match="mask: expected whole positions"):
        Entries(half, value, 3)
    with pytest.raises(ValueError, match="coordinates: expected 3, as the source has, got 0"):
        pinned(prior, Entries(mask, value))
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, \*\(4, 5\)\), got"):
        pinned(prior, Entries(mask[:, :3], value[:, :3], 3))
    held = pinned(prior, Entries(mask, value, 3))
    with pytest.raises(ValueError, match="prior: expected one that is not pinned yet"):
        pinned(held, Entries(mask, value, 3))
    with pytest.raises(ValueError, match="seeds: expected 4"):
        held.start([1, 2])
    with pytest.raises(CardError, match="a card does not say what is pinned"):
        held.save(tmp_path, "held")


def test_back_on_the_path_the_pinned_part_is_noise() -> None:
    prior = correlated(0.5)
    x, noise = prior.start([1, 2], dtype=torch.float64), prior.start([3, 4], dtype=torch.float64)
    w = prior.flow.noised(x, noise, 0.25, 0.75)
    assert torch.equal(w[:, 0], noise[:, 0])
    assert torch.allclose(w[:, 1], 0.25 * x[:, 1] + 0.75 * noise[:, 1])
    assert torch.equal(prior.codec.decode(x), prior.flow.end(x))
