"""What the tests of the variational methods share: small settings, a run, x̂ of a Gaussian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods import DAPS, FlowPriors, PnPFlow, REDDiff
from ctrlgen.methods.base import CostLike, measurement_of
from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import normal
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform
from ctrlgen.testing.oracles import Mixture

D, M = 3, 2
SEEDS = [11, 5, 7]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}

SMALL: dict[str, SteppedMethod] = {
    "red-diff": REDDiff(grid=DDPMUniform(4), **DOUBLE),
    "red-diff-cost": REDDiff(
        grid=Uniform(3, start=0.1),
        clock=None,
        form="cost",
        start="source",
        dispersion=0.1,
        **DOUBLE,
    ),
    "pnp-flow": PnPFlow(grid=Uniform(4), draws=2, **DOUBLE),
    "flow-priors": FlowPriors(grid=Uniform(3, start=1e-3), iterations=2, weight=3.0, **DOUBLE),
    "daps": DAPS(
        grid=Karras(3, 0.1, 100.0), ode_steps=2, langevin_steps=3, rate=1e-3, noise=0.1, **DOUBLE
    ),
}


def rows(*shape: int, stream: int = 21, seeds: Any = SEEDS) -> Tensor:
    return normal(seeds, shape, stream, dtype=torch.float64)


def a_run(method: SteppedMethod, prior: Prior, cost: CostLike, seeds: Any = SEEDS) -> Run:
    """A run as the method itself would make it."""
    if method.clock is not None:
        prior = Prior(prior.flow.on(method.clock), prior.source, prior.codec)
    levels = method.grid(prior.flow.path)
    return Run(prior, cost, measurement_of(cost), torch.tensor(seeds), levels)


def affine(law: Mixture, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """x̂ = x A^T + b of a Gaussian at a noise level."""
    mean, covariance = law.means[0], law.covariances[0]
    eye = torch.eye(D, dtype=torch.float64)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
    return gain, mean - alpha * gain @ mean


def denoised(law: Mixture, x: Tensor, alpha: float, sigma: float) -> Tensor:
    gain, offset = affine(law, alpha, sigma)
    return x @ gain.T + offset


class _Double(Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x


# ------------------------------------------------------------------ RED-diff
