"""Two steps of NDTM in every weighting, blind NDTM and CT-DTM against their formulas, to 1e-9.

See `test_parity`. The optimisation inside a step is Adam by hand; NDTM's authors keep the network's
ε̂ beside a clipped x̂.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.methods import CTDTM, NDTM, BlindNDTM
from ctrlgen.methods.controls.blind import BlindBlur
from ctrlgen.optimizers import Adam
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.fresh import STEPS
from ctrlgen.sampling.grids import ddpm
from ctrlgen.sampling.steps import DDIM

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
BOUND, ETA, GAMMA, RATE, TERMINAL = 0.6, 0.3, 2.0, 0.05, 5.0

Weights = Callable[[Any, int, int], tuple[float, float]]


def _omega(stub: Any, i: int, j: int) -> float:
    """ω = c₂ − √(ᾱ_s(1−ᾱ_t)/ᾱ_t)."""
    bar_t, bar_s = stub.bars[i], stub.bars[j]
    c1 = ETA * ((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)) ** 0.5
    return (1 - bar_s - c1**2) ** 0.5 - (bar_s * (1 - bar_t) / bar_t) ** 0.5


def _one_index(stub: Any, i: int, j: int) -> tuple[float, float]:
    beta = 1e-4 + (0.02 - 1e-4) * i / 999
    return beta**2 / ((1 - beta) * (1 - stub.bars[i])), GAMMA**2 / (1 - beta)


def _stride(stub: Any, i: int, j: int) -> tuple[float, float]:
    beta = 1 - stub.bars[i] / stub.bars[j]
    return beta**2 / ((1 - beta) * (1 - stub.bars[i])), 1 / (1 - beta)


WEIGHTINGS: dict[str, Weights] = {
    "ddim": lambda s, i, j: (_omega(s, i, j) ** 2, s.bars[j] / s.bars[i]),
    "ddim_released": lambda s, i, j: (_omega(s, i, j) ** 2, GAMMA**2 * s.bars[i] / s.bars[j]),
    "ddpm": _stride,
    "ddpm_released": _one_index,
    "ones": lambda s, i, j: (1.0, GAMMA**2),
    "zero": lambda s, i, j: (0.0, 0.0),
}


def controlled(stub: Any, x: Tensor, u: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """ε̂ and the clipped x̂ of x + γu."""
    moved, bar = x + GAMMA * u, stub.bars[i]
    noise = stub.noise(moved.flatten(1), i).reshape(x.shape)
    data = (moved - (1 - bar) ** 0.5 * noise) / bar**0.5
    return noise, data.clamp(-BOUND, BOUND)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_ndtm(weighting: str, stub: Any) -> None:
    method = NDTM(
        iterations=2, gamma=GAMMA, terminal_weight=TERMINAL, weighting=weighting, clip=BOUND,
        optimizer=Adam(learning_rate=RATE), rule=DDIM(ETA), grid=stub.grid, **DOUBLE,
    )  # type: ignore[arg-type]  # fmt: skip
    found = method(stub.diffusion, stub.cost(), seeds=stub.seeds)
    x = stub.z
    for k, (i, j) in stub.steps:
        change, control = WEIGHTINGS[weighting](stub, i, j)
        free, u, step = stub.noise(x, i), torch.zeros_like(x), stub.adam(RATE)

        def value(u: Tensor, x: Tensor = x, i: int = i, a: Any = (free, change, control)) -> Tensor:
            noise, data = controlled(stub, x, u, i)
            penalty = a[1] * (noise - a[0]).square() + a[2] * (GAMMA * u).square()
            return penalty.sum(1) + TERMINAL * stub.square(data)

        for _ in range(2):
            u = step(u, stub.slope(value, u), 1 - k / 2)
        noise, data = controlled(stub, x, u, i)
        x = stub.ddim(data, noise, i, j, stub.fresh(k), ETA)
    assert torch.allclose(found.samples, x, rtol=0, atol=1e-9)


def test_blind_ndtm(stub: Any) -> None:
    """One kernel of three entries per sample, its Adam persistent, the convolution by hand."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        return stub.network(x.flatten(1), t).reshape(x.shape)

    prior = Prior(Flow(network, ddpm(), "noise"), Gaussian((1, 4)))
    y = normal(stub.seeds, (1, 4), 22, dtype=torch.float64)
    method = BlindNDTM(
        iterations=2, gamma=GAMMA, terminal_weight=TERMINAL, weighting="zero", clip=BOUND,
        optimizer=Adam(learning_rate=RATE), kernel_optimizer=Adam(learning_rate=0.1),
        rule=DDIM(ETA), grid=stub.grid, **DOUBLE,
    )  # fmt: skip
    found = method(prior, BlindBlur(y, 3), seeds=stub.seeds)
    theta = normal(stub.seeds, (3,), STEPS - 1, dtype=torch.float64)
    learn, x = stub.adam(0.1), stub.z.unsqueeze(1)
    for k, (i, j) in stub.steps:
        u, step = torch.zeros_like(x), stub.adam(RATE)
        for _ in range(2):
            u, theta = u.detach().requires_grad_(), theta.detach().requires_grad_()
            _, data = controlled(stub, x, u, i)
            q = torch.softmax(theta, 1)
            wide = torch.nn.functional.pad(data, (1, 1))[:, 0]
            blurred = q[:, :1] * wide[:, 2:] + q[:, 1:2] * wide[:, 1:-1] + q[:, 2:] * wide[:, :-2]
            value = TERMINAL * (blurred.unsqueeze(1) - y).square().sum()
            slope, other = torch.autograd.grad(value, (u, theta))
            u, theta = step(u.detach(), slope, 1 - k / 2), learn(theta.detach(), other)
        noise, data = controlled(stub, x, u, i)
        x = stub.ddim(data, noise, i, j, stub.fresh(k).unsqueeze(1), ETA)
    assert torch.allclose(found.samples, x, rtol=0, atol=1e-9)
    assert torch.allclose(found.controls, torch.softmax(theta, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["shift", "linear"])
def test_a_bounded_step_of_ctdtm_is_the_posteriors(mode: str, stub: Any) -> None:
    """Without a cost it is ancestral sampling, with a bound that of the clipped x̂."""
    method = CTDTM(
        mode=mode, terminal_weight=0.0, iterations=1, clip=BOUND, grid=stub.grid, **DOUBLE
    )  # type: ignore[arg-type]
    found = method(stub.diffusion, stub.cost(), seeds=stub.seeds)
    x = stub.z
    for k, (i, j) in stub.steps:
        x = stub.posterior(x, stub.data(x, i).clamp(-BOUND, BOUND), i, j, stub.fresh(k))
    assert torch.allclose(found.samples, x, rtol=0, atol=1e-9)
