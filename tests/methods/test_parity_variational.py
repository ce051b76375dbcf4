"""Two steps of RED-diff, DAPS, PnP-Flow and Flow-Priors against their formulas, to 1e-9.

See `test_parity`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods import DAPS, FlowPriors, PnPFlow, REDDiff
from ctrlgen.optimizers import Adam
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import EDM
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import rademacher
from ctrlgen.sampling.grids import Karras, Uniform, ddpm

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


def gradient_of_fit(stub: Any, x: Tensor) -> Tensor:
    """H^T(Hx − y)."""
    return (x @ stub.matrix.T - stub.y) @ stub.matrix


@pytest.mark.parametrize("dispersion", [0.0, 0.3])
def test_red_diff(dispersion: float, stub: Any) -> None:
    """Mardani et al.'s code: ½ mean (y − Hν)² + λ(σ/α) mean (ε̂ − ε)ν at ν = μ + σ_x0 n; Adam."""
    method = REDDiff(
        grid=stub.grid, weight=0.4, dispersion=dispersion, clock=None,
        optimizer=Adam(learning_rate=0.1, betas=(0.9, 0.99)), **DOUBLE,
    )  # fmt: skip
    found = method(stub.diffusion, stub.cost(), seeds=stub.seeds)
    mu, step = stub.y @ torch.linalg.pinv(stub.matrix).T, stub.adam(0.1, (0.9, 0.99))
    for k, (i, _) in stub.steps:
        bar, eps = stub.bars[i], stub.fresh(k)
        near = mu + dispersion * stub.fresh(k, 1)
        x = bar**0.5 * near + (1 - bar) ** 0.5 * eps
        weight = 0.4 * ((1 - bar) / bar) ** 0.5
        gradient = gradient_of_fit(stub, near) / 2 + weight * (stub.noise(x, i) - eps) / 4
        mu = step(mu, gradient)
    assert torch.allclose(found.samples, mu, **NEAR)


@pytest.mark.parametrize("released", [False, True])
def test_daps(released: bool, stub: Any) -> None:
    """Zhang et al.: from σ_max z; Euler in σ to 0.01, Langevin, noise; 2 levels, or of 3 points."""
    name = "released" if released else "derived"
    method = DAPS(
        grid=Karras(2, 0.1, 100.0, last=not released), ode_steps=2, langevin_steps=2, rate=1e-3,
        noise=0.3, likelihood=name, decay=name, **DOUBLE,
    )  # type: ignore[arg-type]  # fmt: skip

    def noise(x: Tensor, r: float) -> Tensor:
        """ε̂ of the variance-exploding state, of a network in r of its own."""
        return stub.network(x / (1 + r**2) ** 0.5, x.new_full((len(x),), r / 10))

    class Network:
        """The same as the library reads it: on the table, by the signal-to-noise ratio."""

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            at = ddpm()(t)
            return stub.network(x, at.sigma / at.alpha / 10)

    prior = Prior(Flow(Network(), ddpm(), "noise"), stub.source)
    found = method(prior, stub.cost(), seeds=stub.seeds)

    def points(count: int, low: float, high: float) -> list[float]:
        ends = high ** (1 / 7), low ** (1 / 7)
        return [(ends[0] + k / (count - 1) * (ends[1] - ends[0])) ** 7 for k in range(count)]

    sigmas = points(3, 0.1, 100.0)[:2] if released else points(2, 0.1, 100.0)
    x, twice, count = 100.0 * stub.z, 2.0 if released else 1.0, 3 if released else 2
    for k, r in enumerate(sigmas):
        for now, then in zip((r, *points(3, 0.01, r)[1:2]), points(3, 0.01, r)[1:], strict=True):
            x = x + (then - now) * noise(x, now)
        centre, rate = x, 1e-3 * (1 + k / count * (0.01 - 1))
        for turn in range(2):
            drift = (centre - x) / r**2 - twice * gradient_of_fit(stub, x) / 0.3**2
            x = x + rate * drift + (2 * rate) ** 0.5 * stub.fresh(k, turn + 1)
        if k == 0:
            x = x + sigmas[1] * stub.fresh(k)
    assert torch.allclose(found.samples, x, rtol=1e-9, atol=1e-9)


def test_presets_of_daps_visit_the_first_200_of_201_points() -> None:
    for name in DAPS.presets:
        method = DAPS.preset(name)
        assert (method.decay, method.likelihood) == ("released", "released")
        ratios = [level.ratio for level in method.grid(EDM(0.002, 100.0))[:-1]]
        points = [(100 ** (1 / 7) + k / 200 * (0.1 ** (1 / 7) - 100 ** (1 / 7))) ** 7
                  for k in range(200)]  # fmt: skip
        assert ratios == pytest.approx(points, rel=1e-6)


def test_pnp_flow(stub: Any) -> None:
    """Martin et al.: x − (1−t)^a H^T(Hx−y), noised to t and denoised, the mean of two."""
    method = PnPFlow(grid=Uniform(2), exponent=0.5, draws=2, **DOUBLE)
    found = method(stub.flow, stub.cost(0.1), seeds=stub.seeds)
    x = stub.z
    for k, t in enumerate((0.0, 0.5)):
        z = x - (1 - t) ** 0.5 * gradient_of_fit(stub, x)
        noised = [t * z + (1 - t) * stub.fresh(k, m) for m in range(2)]
        x = sum(v + (1 - t) * stub.velocity(v, t) for v in noised) / 2
    assert torch.allclose(found.samples, x, **NEAR)


def test_flow_priors(stub: Any) -> None:
    """Zhang et al.: from z itself; λ‖H(x + hu) − y_{t+h}‖² + h div u − log p_t, a step of Adam."""
    method = FlowPriors(
        grid=Uniform(2, 1e-3), weight=0.7, optimizer=Adam(learning_rate=0.05), **DOUBLE
    )
    found = method(stub.flow, stub.cost(0.1), seeds=stub.seeds)
    x, h = stub.z, 0.999 / 2
    for k in range(2):
        t = 1e-3 + k * h
        target = (t + h) * stub.y + (1 - t - h) * stub.z @ stub.matrix.T
        sign = rademacher(stub.seeds, (4,), 2**60 + k * 2**20, dtype=torch.float64)
        v = x.detach().requires_grad_()
        velocity = stub.velocity(v, t)
        (pulled,) = torch.autograd.grad(velocity, v, sign, create_graph=True)
        ahead = (v + h * velocity) @ stub.matrix.T
        value = 0.7 * (ahead - target).square().sum() + h * (pulled * sign).sum()
        (gradient,) = torch.autograd.grad(value, v)
        score = -x if k == 0 else (t * velocity.detach() - x) / (1 - t)
        x = stub.adam(0.05)(x, gradient - score)
        x = x + h * stub.velocity(x, t)
    assert torch.allclose(found.samples, x, **NEAR)
