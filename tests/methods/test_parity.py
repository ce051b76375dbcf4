"""Two steps of every guided sampler against its published formula, in torch alone, to 1e-9.

Each case is a method in one of its named forms and the formula of its paper or of its authors' code
on the nonlinear network of `Stub`; no step rule, grid or method of the library takes part in what
is expected. Further families: `test_parity_analytic`, `_transitions`, `_variational` and
`_trajectories`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost
from ctrlgen.methods import DPS, LGDMC, MPGD, TFG, UGD, ClassifierGuidance, FreeDoM
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import MaskedGaussian
from ctrlgen.sampling.grids import DDPMUniform

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
BOUND = 0.6  # cuts some entries of x̂ in both steps


def dps(stub: Any, zeta: float, bound: float | None = None) -> Tensor:
    """Chung et al., original code: the posterior's mean of the clipped x̂, then − ζ∇‖y − Hx̂‖."""
    x = stub.z
    for k, (i, j) in stub.steps:

        def data(v: Tensor, i: int = i) -> Tensor:
            return stub.data(v, i) if bound is None else stub.data(v, i).clamp(-bound, bound)

        slope = stub.slope(lambda v, data=data: stub.norm(data(v)), x)
        x = stub.posterior(x, data(x), i, j, stub.fresh(k)) - zeta * slope
    return x


def dps_baseline(stub: Any, zeta: float) -> Tensor:
    """RED-diff's and NDTM's code: DDIM(½) from √ᾱH†y + √(1−ᾱ)z, ζ∇‖·‖²/‖·‖, no clipping."""
    bar = stub.bars[stub.steps[0][1][0]]
    x = bar**0.5 * stub.y @ torch.linalg.pinv(stub.matrix).T + (1 - bar) ** 0.5 * stub.z
    for k, (i, j) in stub.steps:
        data, noise = stub.data(x, i), stub.noise(x, i)
        slope = stub.slope(lambda v, i=i: stub.square(stub.data(v, i)), x)
        new = stub.ddim(data, noise, i, j, stub.fresh(k), 0.5)
        x = new - zeta / stub.norm(data).unsqueeze(1) * slope
    return x


def lgd(stub: Any, strength: float, draws: int) -> Tensor:
    """Song et al. 2023: log (1/M) Σ exp(−C(x̂ + r δ)), r = √(1−ᾱ); x̂ clipped as in DPS."""
    x = stub.z
    for k, (i, j) in stub.steps:

        def value(v: Tensor, i: int = i, k: int = k) -> Tensor:
            data, r = stub.data(v, i).clamp(-BOUND, BOUND), (1 - stub.bars[i]) ** 0.5
            near = [(-stub.square(data + r * stub.fresh(k, 2 + m))).exp() for m in range(draws)]
            return torch.stack(near).mean(0).log()

        data = stub.data(x, i).clamp(-BOUND, BOUND)
        x = stub.posterior(x, data, i, j, stub.fresh(k)) + strength * stub.slope(value, x)
    return x


def mpgd(stub: Any, c: float, bound: float | None = None) -> Tensor:
    """He et al.: x̂ − (c/√ᾱ)∇‖y − Hx̂‖, then DDIM(1) with the ε̂ of before."""
    x = stub.z
    for k, (i, j) in stub.steps:
        bar = stub.bars[i]
        data = stub.data(x, i)
        if bound is not None:
            data = data.clamp(-bound, bound)
        noise = (x - bar**0.5 * data) / (1 - bar) ** 0.5
        data = data - c / bar**0.5 * stub.slope(stub.norm, data)
        x = stub.ddim(data, noise, i, j, stub.fresh(k), 1.0)
    return x


def freedom(stub: Any, c: float, rounds: int) -> Tensor:
    """Yu et al.: DDPM step, − c√ᾱ ∇E, and back by fresh noise; x̂ clipped."""
    x = stub.z
    for k, (i, j) in stub.steps:
        for r in range(rounds):
            data = stub.data(x, i).clamp(-BOUND, BOUND)
            energy = lambda v, i=i: stub.square(stub.data(v, i).clamp(-BOUND, BOUND))  # noqa: E731
            slope = stub.slope(energy, x)
            new = stub.posterior(x, data, i, j, stub.fresh(k, 3 * r))
            new = new - c * stub.bars[i] ** 0.5 * slope
            if r + 1 < rounds:
                x = stub.back(new, i, j, stub.fresh(k, 3 * r + 1))
        x = new
    return x


def freedom_relative(stub: Any, c: float) -> Tensor:
    """Its code for text: ρ = c rms(ε̂) √(1−ᾱ)/√ᾱ c₁ / rms(∇), c₁ = √ᾱ_s(1 − ᾱ_t/ᾱ_s)/(1 − ᾱ_t)."""
    x = stub.z
    for k, (i, j) in stub.steps:
        bar_t, bar_s = stub.bars[i], stub.bars[j]
        data, noise = stub.data(x, i), stub.noise(x, i)
        slope = stub.slope(lambda v, i=i: stub.norm(stub.data(v, i)), x)
        c1 = bar_s**0.5 * (1 - bar_t / bar_s) / (1 - bar_t)
        own = noise.square().mean(1).sqrt() * (1 - bar_t) ** 0.5 / bar_t**0.5 * c1
        rho = c * own / slope.square().mean(1).sqrt()
        x = stub.posterior(x, data, i, j, stub.fresh(k)) - rho.unsqueeze(1) * slope
    return x


def freedom_face(stub: Any, scale: float) -> Tensor:
    """Its code for faces: c₁ = η√(1−ᾱ_s), c₂ = √(1−η²)√(1−ᾱ_s), η = ½, ρ = scale √ᾱ."""
    x = stub.z
    for k, (i, j) in stub.steps:
        data, noise = stub.data(x, i), stub.noise(x, i)
        slope = stub.slope(lambda v, i=i: stub.norm(stub.data(v, i)), x)
        spread = (1 - stub.bars[j]) ** 0.5
        c1, c2 = 0.5 * spread, 0.75**0.5 * spread
        new = stub.bars[j] ** 0.5 * data + c1 * stub.fresh(k) + c2 * noise
        x = new - scale * stub.bars[i] ** 0.5 * slope
    return x


def ugd(stub: Any, s: float, mu: float, turns: int, rounds: int) -> Tensor:
    """Bansal et al., Algorithm 1: ε̂ − s√(1−ᾱ)∇log p − √(ᾱ/(1−ᾱ))Δx̂, then DDIM from that ε̂."""
    x = stub.z
    for k, (i, j) in stub.steps:
        bar = stub.bars[i]
        for r in range(rounds):
            data, noise = stub.data(x, i), stub.noise(x, i)
            gradient = -stub.slope(lambda v, i=i: stub.square(stub.data(v, i)), x)  # ∇ log p
            better = data
            for _ in range(turns):
                better = better - mu * stub.slope(stub.square, better)
            noise = noise - s * (1 - bar) ** 0.5 * gradient
            noise = noise - (bar / (1 - bar)) ** 0.5 * (better - data)
            data = (x - (1 - bar) ** 0.5 * noise) / bar**0.5
            new = stub.ddim(data, noise, i, j, stub.fresh(k, 3 * r), 1.0)
            if r + 1 < rounds:
                x = stub.back(new, i, j, stub.fresh(k, 3 * r + 1))
        x = new
    return x


def tfg(stub: Any, rho: float, mu: float, turns: int, gamma: float, largest: float) -> Tensor:
    """Ye et al.: DDIM(x̂) + Δ_var/√α_step + √ᾱ_s Δ_mean, gradients times min(ms, clip)/ms."""
    kept = [stub.bars[i] / stub.bars[j] for _, (i, j) in stub.steps]
    up = [2 * a / sum(kept) for a in kept]

    def bounded(slope: Tensor) -> Tensor:
        ms = slope.square().mean(1, keepdim=True)
        return slope * ms.clamp_max(largest) / ms

    x = stub.z
    for k, (i, j) in stub.steps:
        delta = gamma * (1 - stub.bars[i]) ** 0.5 * stub.fresh(k, 2)
        energy = lambda v, delta=delta: stub.square(v + delta)  # noqa: E731
        data, noise = stub.data(x, i), stub.noise(x, i)
        slope = bounded(stub.slope(lambda v, i=i, e=energy: e(stub.data(v, i)), x))
        better = data
        for _ in range(turns):
            better = better - mu * up[k] * bounded(stub.slope(energy, better))
        new = stub.ddim(data, noise, i, j, stub.fresh(k), 1.0)
        new = new - rho * up[k] * slope / kept[k] ** 0.5
        x = new + stub.bars[j] ** 0.5 * (better - data)
    return x


def classifier(stub: Any, w: float) -> Tensor:
    """Dhariwal & Nichol, Algorithm 2: ε̂ − w√(1−ᾱ)∇log p(y|x_t), then DDIM."""
    x = stub.z
    for k, (i, j) in stub.steps:
        bar = stub.bars[i]
        slope = stub.slope(lambda v, i=i: stub.square(stub.data(v, i)), x)
        noise = stub.noise(x, i) + w * (1 - bar) ** 0.5 * slope
        data = (x - (1 - bar) ** 0.5 * noise) / bar**0.5
        x = stub.ddim(data, noise, i, j, stub.fresh(k), 1.0)
    return x


Reference = Callable[[Any], Tensor]
FACE = FreeDoM.preset("face-segmentation", guide_within=(0.0, 1.0))
CASES: dict[str, tuple[Any, Reference]] = {
    "dps": (DPS(rho=0.4), lambda s: dps(s, 0.4)),
    "dps-clipped": (DPS(rho=0.4, clip=BOUND), lambda s: dps(s, 0.4, BOUND)),
    "dps-ndtm-baseline": (DPS.preset("ndtm-baseline-sr4"), lambda s: dps_baseline(s, 1.0)),
    "lgd-mc": (LGDMC(rho=0.1, draws=3, clip=BOUND), lambda s: lgd(s, 0.1, 3)),
    "mpgd": (MPGD(mu=0.05), lambda s: mpgd(s, 0.05)),
    "mpgd-clipped": (MPGD(mu=0.05, clip=BOUND), lambda s: mpgd(s, 0.05, BOUND)),
    "freedom": (
        FreeDoM(rho=0.1, recurrences=3, recur_within=(0.0, 1.0), clip=BOUND),
        lambda s: freedom(s, 0.1, 3),
    ),
    "freedom-relative": (
        FreeDoM.preset("clip", rho=0.5, recurrences=1),
        lambda s: freedom_relative(s, 0.5),
    ),
    "freedom-face": (FACE, lambda s: freedom_face(s, 0.2)),
    "ugd": (UGD(rho=0.05, mu=0.03, iterations=2), lambda s: ugd(s, 0.05, 0.03, 2, 2)),
    "tfg": (
        TFG(rho=0.3, mu=0.1, iterations=2, gamma=0.5, largest=0.4),
        lambda s: tfg(s, 0.3, 0.1, 2, 0.5, 0.4),
    ),
    "classifier-guidance": (ClassifierGuidance(scale=0.7), lambda s: classifier(s, 0.7)),
}


@pytest.mark.parametrize("name", CASES)
def test_two_steps_by_hand(name: str, stub: Any) -> None:
    method, reference = CASES[name]
    found = replace(method, grid=stub.grid, **DOUBLE)(stub.diffusion, stub.cost(), seeds=stub.seeds)
    expected = reference(stub)
    assert (stub.data(stub.z, 550).abs() > BOUND).any()  # the bound cuts
    assert torch.allclose(found.samples, expected, rtol=0, atol=1e-9)


def test_two_gradients_of_ugd_in_the_step(stub: Any) -> None:
    """In x_s: (α_s σ_t/α_t − b) σ_t s of the one and (α_s − b α_t/σ_t) of the other."""
    plain, rho_only, mu_only = (
        replace(UGD(rho=rho, mu=mu, iterations=1, recurrences=1), grid=DDPMUniform(1, 901, 900))
        for rho, mu in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2))
    )
    free, forward, backward = (
        replace(m, rule=type(m.rule)(0.3), **DOUBLE)(stub.diffusion, stub.cost(), seeds=stub.seeds)
        for m in (plain, rho_only, mu_only)
    )
    bar, b = stub.bars[900], 0.0  # the step ends at the datum, where b = 0
    slope = stub.slope(lambda v: stub.square(stub.data(v, 900)), stub.z)
    ratio = ((1 - bar) / bar) ** 0.5
    expected = (ratio - b) * (1 - bar) ** 0.5 * 0.2 * slope
    assert torch.allclose(free.samples - forward.samples, expected, rtol=1e-9, atol=1e-9)
    shift = (1 - b / ratio) * 0.2 * stub.slope(stub.square, stub.data(stub.z, 900))
    assert torch.allclose(free.samples - backward.samples, shift, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [TFG(rho=0.01, mu=0.01, largest=1e-2), UGD(largest=1e-2)])
def test_the_bound_of_gradients_counts_no_padding(method: Any) -> None:
    """A molecule of three points alone and beside one of nine ends at the same place."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) - t.reshape(-1, 1, 1) * x

    def samples(counts: list[int], seeds: list[int]) -> Tensor:
        places = torch.arange(max(counts))
        mask = places < torch.tensor(counts).unsqueeze(1)
        prior = Prior(Flow(velocity, CondOT()), MaskedGaussian(mask, 4, 3))
        cost: Cost = FunctionCost(lambda x: 40 * x.square().sum((1, 2)))
        run = replace(method, grid=DDPMUniform(3, 900), **DOUBLE)
        return run(prior, cost, seeds=seeds).samples

    alone, beside = samples([3], [5]), samples([3, 9], [5, 8])
    assert torch.allclose(beside[0, :3], alone[0], rtol=0, atol=1e-9)
