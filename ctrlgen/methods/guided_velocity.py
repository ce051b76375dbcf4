r"""The velocity of a flow guided by a measurement, as OT-ODE steps by (arXiv 2310.04432).

    u(x|y) = u + (σW/α) (∂x̂/∂x)^T H^T (r²HH^T + σ_y²I)^{-1} (y − Hx̂),   r² = σ²/(α²+σ²),

p(x_1|x_t) taken as N(x̂, r²I) (Pokle et al.). Where H is not linear it is linearised at x̂, and HH^T
taken for the identity: the pull is the gradient of −‖y − H(x̂)‖²/2(r² + σ_y²).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator, Measurement
from ctrlgen.priors.flows import Prediction
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat

__all__ = ["guided_velocity"]


def guided_velocity(prior: Prior, measurement: Measurement, x: Tensor, t: float) -> Tensor:
    """u(x|y) of the module's formula, shape of x, without a graph; one forward, one vjp.

    Args:
        prior: its codec must leave states as they are, or scale them (operators see signals): r
            is in the units of signals, by the mean scale where that of channels differs.
        measurement: with its operator; one that is not linear must be differentiable.
        x: states at time t, shape (B, *).
        t: time in (0, 1).
    """
    operator = measurement.operator
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        seen: Prediction = prior.predict(x, t)
        signal = prior.codec.decode(seen.data)
        at = seen.coefficients
        with torch.no_grad():
            scale = torch.exp(prior.codec.log_scale(x))
            r2 = scale**2 * (at.sigma**2 / (at.alpha**2 + at.sigma**2)).flatten()
        if isinstance(operator, LinearOperator):
            with torch.no_grad():
                residual = measurement.y.to(signal) - operator(signal)
                pull = operator.solve(residual, r2, measurement.noise)
            (guidance,) = torch.autograd.grad(signal, x, pull)
        else:
            residual = flat(operator.observed(measurement.y.to(signal) - operator(signal)))
            misfit = -0.5 * residual.square().sum(1) / (r2 + measurement.noise**2)
            (guidance,) = torch.autograd.grad(misfit.sum(), x)
    return seen.velocity.detach() + at.sigma * at.wronskian / at.alpha * guidance
