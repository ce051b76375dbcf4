"""Samplers of azula and deepinv beside ours: the same network, number of steps and operator.

azula's DPS and PGDM and deepinv's DPS and DDRM run in turns with ours. azula's rules are ours on
equal levels: with its noise replaced by that of our sample the results of one image are compared,
too (azula takes one norm over a batch, so that several images come out different there). deepinv
discretises otherwise; its results are compared by their PSNR. `benchmarks.methods` runs both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.timing import seconds_of
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.metrics import psnr
from ctrlgen.domains.images.operators import Inpainting, SuperResolution
from ctrlgen.methods import DDRM, DPS, AncestralPiGDM, Method
from ctrlgen.operators.base import LinearOperator, measure
from ctrlgen.priors.paths import VP
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like
from ctrlgen.sampling.fresh import step_noise
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.steps import DDIM

__all__ = ["azula_peers", "deepinv_peers"]

NOISE, START = 0.05, 0.01


class AzulaDenoiser:
    """Our flow as azula calls one: data at time 0, `mean` of the datum."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = self.prior.flow.path(1 - t)
        return at.alpha, at.sigma

    def __call__(self, x: Tensor, t: Tensor) -> AzulaDenoiser:
        self.mean = self.prior.predict(x, 1 - t).data
        return self


class DeepinvDenoiser(torch.nn.Module):
    """Our flow as deepinv calls one: images in [0, 1] and the standard deviation of their noise."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        spread = 2 * torch.as_tensor(sigma, dtype=torch.float32, device=u.device).flatten()
        t = (1 / (1 + spread)).expand(len(u)).clamp(1e-3, 1 - 1e-3)
        x = expand_like(t, u) * (2 * u.float() - 1)
        return (self.prior.predict(x, t).data + 1) / 2


@contextmanager
def noise_of(prior: Prior, seed: int) -> Iterator[None]:
    """Inside, torch.randn_like gives the noise of our steps for this seed, one after the other."""
    step = iter(range(10**6))

    def draw(x: Tensor, **_: Any) -> Tensor:
        return step_noise(prior.source, [seed], next(step), x)

    with patch.object(torch, "randn_like", draw):
        yield


def in_turns(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], truth: Tensor, repeats: int
) -> dict[str, float]:
    """Seconds per sample and quality of two contestants, run in turns."""
    ours(), theirs()  # warm-up
    times = [(seconds_of(ours, truth), seconds_of(theirs, truth)) for _ in range(repeats)]
    a, b = (statistics.median(t[i] for t in times) / len(truth) for i in (0, 1))
    quality = [float(psnr(run().clamp(-1, 1), truth).median()) for run in (ours, theirs)]
    return {"ours": a, "theirs": b, "ratio": a / b, "ours_psnr": quality[0], "psnr": quality[1]}


def azula_peers(prior: Prior, truth: Tensor, steps: int, repeats: int) -> dict[str, Any]:
    """Part (b), azula."""
    from azula.guidance.dps import DPSSampler
    from azula.guidance.pgdm import PGDMSampler

    clock, operator = VP(), SuperResolution(2)
    prior = prior.on(clock)
    denoiser: Any = AzulaDenoiser(prior)
    levels = Uniform(steps, START, clean=False)  # azula ends where the path does
    common: dict[str, Any] = {"grid": levels, "clock": clock}
    span = {"start": 1 - START, "stop": 0.0, "steps": steps, "silent": True}
    contests: dict[str, tuple[Method, Callable[[Tensor], Any]]] = {
        "azula DPS": (
            DPS(rho=1.0, rule=DDIM(1.0), **common),
            lambda y: DPSSampler(denoiser, y=y, A=operator, zeta=1.0, **span),
        ),
        "azula PGDM": (
            AncestralPiGDM(start="source", **common),
            lambda y: PGDMSampler(
                denoiser, y=y, A=operator, A_inv=operator.pinv, eta=1.0, **span
            ),
        ),
    }  # fmt: skip
    rows = {}
    for name, (method, peer) in contests.items():

        def ours(images: Tensor, method: Method = method) -> Tensor:
            cost = NegativePSNR(operator, measure(operator, images))
            return method(prior, cost, seeds=range(len(images))).samples

        def theirs(images: Tensor, peer: Callable[[Tensor], Any] = peer) -> Tensor:
            sampler = peer(measure(operator, images))
            return sampler(prior.start(range(len(images))))  # α² + σ² = 1 on this clock

        row: dict[str, Any] = in_turns(lambda: ours(truth), lambda: theirs(truth), truth, repeats)
        one = truth[:1]
        with noise_of(prior, 0):
            same = theirs(one)
        row["one_image_difference"] = float((ours(one) - same).abs().max())
        rows[name] = row
    return rows


def deepinv_peers(prior: Prior, truth: Tensor, steps: int, repeats: int) -> dict[str, Any]:
    """Part (b), deepinv: DPS for x2 super-resolution, DDRM for inpainting (it needs an SVD)."""
    import deepinv as dinv

    shape, device = tuple(truth.shape[1:]), truth.device
    denoiser = DeepinvDenoiser(prior)
    mask = torch.ones(shape, device=device)
    mask[:, 11:21, 11:21] = 0
    hole = Inpainting(mask.bool())
    physics = dinv.physics.Inpainting(
        img_size=shape, mask=mask, device=device,
        noise_model=dinv.physics.GaussianNoise(NOISE / 2),
    )  # fmt: skip
    half = SuperResolution(2)
    reduced = _Reduced(half)
    levels = [10.0 * (0.002 ** (i / (steps - 1))) for i in range(steps)]
    contests: dict[str, tuple[Method, LinearOperator, Callable[[Tensor], Tensor]]] = {
        "deepinv DPS": (
            DPS(rho=1.0, clip=1.0, rule=DDIM(1.0), grid=Uniform(steps, START), clock=VP()),
            half,
            lambda y: dinv.sampling.DPS(
                denoiser, num_steps=steps + 1, device=device, dtype=torch.float32
            )((y + 1) / 2, reduced),
        ),
        "deepinv DDRM": (
            DDRM(grid=Uniform(steps)),
            hole,
            lambda y: dinv.sampling.DDRM(denoiser, sigmas=levels)(
                (y + 1) / 2 * mask, physics
            ),
        ),
    }  # fmt: skip
    rows = {}
    for name, (method, operator, theirs) in contests.items():
        y = measure(operator, truth, NOISE, range(len(truth)))
        cost = NegativePSNR(operator, y, NOISE)
        rows[name] = in_turns(
            lambda m=method, c=cost: m(prior, c, seeds=range(len(truth))).samples,  # type: ignore
            lambda run=theirs, seen=y: 2 * run(seen).float() - 1,  # type: ignore[misc]
            truth,
            repeats,
        )
    return rows


class _Reduced(torch.nn.Module):
    """x2 reduction as a deepinv physics: rows of H sum to one, so that ranges carry over."""

    def __init__(self, operator: SuperResolution) -> None:
        super().__init__()
        self.operator = operator

    def A(self, u: Tensor, **_: Any) -> Tensor:
        return self.operator(u)

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.adjoint(y)

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.pinv(y)

    def forward(self, u: Tensor, **_: Any) -> Tensor:
        return self.A(u)
