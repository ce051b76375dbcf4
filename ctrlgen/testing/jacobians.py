r"""D_{x_0} x(t) of an oracle by Theorem 4.2 of D-Flow, to hold derivatives by autograd against.

With Var[x_1 | x_t] in closed form along a trajectory (Ben-Hamu et al., arXiv 2402.14017)

    D_{x_0} x(t) = (σ_t/σ_0) · Texp ∫_0^t γ_s Var[x_1 | x_s] ds,                     Theorem 4.2
    D_{x_0} x_N  = J_{N−1} ··· J_0,   J_m = (1 + h a_{t_m}) I + h γ_{t_m} Var[x_1 | x_m],   eq 19

a = σ'/σ, γ = ½ d(α²/σ²)/dt. The second is exact for Euler's steps; the first is the limit, here of
exponentials of the midpoint (Magnus, second order), for t < 1, where σ_t > 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.rows.batching import flat
from ctrlgen.solvers import RK4
from ctrlgen.testing.oracles import Mixture

__all__ = ["euler_product", "ordered_exponential"]


def euler_product(law: Mixture, x0: Tensor, steps: int, path: Path | None = None) -> Tensor:
    """D of Euler's steps from 0 to 1 as the ordered product of eq 19, shape (B, d, d).

    Args:
        law: the data.
        x0: source points, shape (B, *).
        steps: N, of equal length.
        path: straight lines by default.
    """
    path = path or CondOT()
    flow, x, h = law.flow(path), x0, 1 / steps
    eye = torch.eye(flat(x0).shape[1], dtype=x0.dtype, device=x0.device)
    product = eye.expand(len(x0), -1, -1)
    for m in range(steps):
        at = path(x0.new_full((), m * h))
        variance = law.variance(x, at.alpha, at.sigma)
        factor = (1 + h * at.d_sigma / at.sigma) * eye + h * at.gamma * variance
        product = factor @ product
        x = x + h * flow.velocity(x, m * h)
    return product


def ordered_exponential(
    law: Mixture, x0: Tensor, end: float, steps: int, path: Path | None = None
) -> Tensor:
    """D_{x_0} x(t) of the exact flow by Theorem 4.2, shape (B, d, d), to second order in 1/steps.

    Args:
        law: the data.
        x0: source points, shape (B, *).
        end: t in (0, 1), where σ_t > 0.
        steps: intervals of the exponential.
        path: straight lines by default.
    """
    path = path or CondOT()
    flow, x, h = law.flow(path), x0, end / steps
    first, last = (path(x0.new_full((), t)).sigma for t in (0.0, end))
    product = torch.eye(flat(x0).shape[1], dtype=x0.dtype, device=x0.device)
    for m in range(steps):
        middle = (m + 0.5) * h
        x = RK4(1)(flow.velocity, x, m * h, middle)
        at = path(x0.new_full((), middle))
        product = (
            torch.linalg.matrix_exp(h * at.gamma * law.variance(x, at.alpha, at.sigma)) @ product
        )
        x = RK4(1)(flow.velocity, x, middle, (m + 1) * h)
    return last / first * product
