r"""The posterior of an oracle: in closed form where the operator is linear, by weights elsewhere.

For y = Hx + σ_y n with a linear H it is again a mixture (`ctrlgen.testing.oracles`). Elsewhere

    x_1, ..., x_n ~ p_1,    w_i ∝ exp(−‖y − H(x_i)‖²/2σ_y²),    E[f(x) | y] ≈ Σ_i w_i f(x_i),

importance sampling with the prior as the proposal, for few dimensions: the weights are worth as
many draws as n_eff = 1/Σ w_i² (Kish), which must be some thousand to tell methods apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.operators.base import LinearOperator, Operator, dense
from ctrlgen.rows.batching import flat
from ctrlgen.rows.seeds import Seeds, uniform
from ctrlgen.testing.oracles import TRUTH, Mixture

__all__ = ["Weighted", "posterior"]

_PROPOSALS = 2**20
"""Seeds of proposals begin here."""

_LEAST = 1000
"""Effective draws below which weights are refused."""


class Weighted:
    """A law of weighted points.

    Args:
        points: x_i, shape (n, *shape).
        log_weights: log w_i up to a constant, shape (n,).
    """

    def __init__(self, points: Tensor, log_weights: Tensor) -> None:
        self.points, self.weights = points, torch.softmax(log_weights, 0)

    @property
    def effective(self) -> float:
        """n_eff."""
        return 1 / float(self.weights.square().sum())

    @property
    def mean(self) -> Tensor:
        """E[x], shape (d,)."""
        return self.weights @ flat(self.points)

    @property
    def covariance(self) -> Tensor:
        """Cov[x], shape (d, d)."""
        centred = flat(self.points) - self.mean
        return (self.weights[:, None] * centred).mT @ centred

    def sample(self, seeds: Seeds) -> Tensor:
        """Points by their weights, one per seed, shape (B, *shape)."""
        u = uniform(seeds, (1,), TRUTH + 2, dtype=self.weights.dtype, device=self.weights.device)
        index = torch.searchsorted(self.weights.cumsum(0), u[:, 0])
        return self.points[index.clamp_max(len(self.points) - 1)]


def posterior(
    law: Mixture, operator: Operator, y: Tensor, noise: float, points: int = 100_000
) -> Mixture | Weighted:
    """The law of x ~ `law` given y = H(x) + σ_y n.

    Args:
        law: the prior, in float64.
        operator: H, without data of single samples.
        y: one measurement, shape (*measurement).
        noise: σ_y > 0.
        points: proposals, where H is not linear.

    Raises:
        ValueError: for noise that is not positive, or a posterior too narrow for its proposals.
    """
    if not noise > 0:
        raise ValueError(f"noise: expected a standard deviation > 0, got {noise}")
    if isinstance(operator, LinearOperator):
        return law.posterior(dense(operator, law.shape, dtype=y.dtype), y.flatten(), noise)
    x = law.sample(range(_PROPOSALS, _PROPOSALS + points))
    with torch.no_grad():
        residual = flat(operator.observed(operator(x) - y))
    weighted = Weighted(x, -0.5 * residual.square().sum(1) / noise**2)
    if weighted.effective < _LEAST:
        raise ValueError(
            f"operator: {points} draws of the prior are worth {weighted.effective:.0f} of the "
            f"posterior, expected at least {_LEAST}; take more noise or fewer dimensions"
        )
    return weighted
