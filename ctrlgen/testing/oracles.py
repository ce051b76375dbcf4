r"""Oracles: Gaussian and Gaussian-mixture priors, everything about them in closed form.

For p_1 = Σ_k π_k N(m_k, S_k) and any path, with C_k = α²S_k + σ²I,

    p_t = Σ_k π_k N(αm_k, C_k),          p_k(x) ∝ π_k N(x; αm_k, C_k),
    m̂_k = m_k + αS_k C_k^{-1}(x − αm_k),  V_k = S_k − α²S_k C_k^{-1}S_k,
    x̂ = Σ_k p_k m̂_k,                     Var[x_1|x] = Σ_k p_k (V_k + (m̂_k − x̂)(m̂_k − x̂)^T),
    u = Σ_k p_k [α̇m_k + ½Ċ_k C_k^{-1}(x − αm_k)],   ½Ċ_k = αα̇S_k + σσ̇I  (regular at both ends),

and for y = Hx + σ_y n the posterior is again a mixture, weights ∝ π_k N(y; Hm_k, HS_kH^T + σ_y²I).
They are priors like any other: check a method against them before a network, or learn from them
how it behaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Coefficients, CondOT, Path
from ctrlgen.rows.batching import flat
from ctrlgen.rows.seeds import Seeds, normal, uniform

__all__ = ["TRUTH", "Mixture", "MixtureNetwork", "gaussian"]

TRUTH = 2**40  # stream of exact samples, not the source's: none lies where its own seed starts


class Mixture:
    """A mixture of Gaussians over vectors of d numbers, or states of any shape of d entries.

    Args:
        means: m_k, shape (K, d).
        covariances: S_k, symmetric positive definite, shape (K, d, d).
        weights: π_k, shape (K,), positive; normalised here. Equal by default.
        shape: shape of one state; (d,) by default.
    """

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]):
            raise ValueError(
                "means, covariances: expected shapes (K, d) and (K, d, d), "
                f"got {tuple(means.shape)} and {tuple(covariances.shape)}"
            )
        if shape is not None and math.prod(shape) != means.shape[1]:
            raise ValueError(f"shape: expected {means.shape[1]} entries, got {tuple(shape)}")
        self.means, self.covariances = means, covariances
        weights = means.new_ones(len(means)) if weights is None else weights
        self.weights = weights / weights.sum()
        self.shape = tuple(shape or (means.shape[1],))
        # In the eigenbasis of S_k every C_k is diagonal: one decomposition serves all times.
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(covariances)

    def flow(self, path: Path | None = None) -> Flow:
        """The exact flow of this mixture on a path, straight lines by default."""
        path = path or CondOT()
        return Flow(MixtureNetwork(self, path), path, "velocity")

    def sample(self, seeds: Seeds) -> Tensor:
        """Exact draws, one per seed, shape (B, *shape)."""
        like = {"dtype": self.means.dtype, "device": self.means.device}
        choice = uniform(seeds, (1,), TRUTH, **like)  # type: ignore[arg-type]
        k = (choice > self.weights.cumsum(0)).sum(1).clamp_max(len(self.weights) - 1)
        z = normal(seeds, (self.means.shape[1],), TRUTH + 1, **like)  # type: ignore[arg-type]
        root = self.eigenvectors * self.eigenvalues.sqrt().unsqueeze(1)
        return (self.means[k] + torch.einsum("bij,bj->bi", root[k], z)).reshape(-1, *self.shape)

    def log_prob(
        self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0
    ) -> Tensor:
        """log p_t(x) at the noise level (α, σ), scalars or (B,); of the data itself by default."""
        return torch.logsumexp(self._joint(x, *self._level(x, alpha, sigma))[0], dim=1)

    def denoise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """x̂ = E[x_1 | x_t = x], shape of x."""
        p, mean, _ = self._moments(x, alpha, sigma)
        return torch.einsum("bk,bkd->bd", p, mean).reshape(x.shape)

    def velocity(self, x: Tensor, at: Coefficients) -> Tensor:
        """u_t(x) at the coefficients of a path at scalar or per-sample times, shape of x."""
        alpha, sigma, d_alpha, d_sigma = (v.to(x).reshape(-1, 1, 1) for v in at)
        joint, residual, c = self._joint(x, alpha, sigma)
        rate = (alpha * d_alpha * self.eigenvalues + sigma * d_sigma) / c
        moved = torch.einsum("kdi,bki->bkd", self.eigenvectors, rate * residual)
        u = d_alpha * self.means + moved
        return torch.einsum("bk,bkd->bd", torch.softmax(joint, dim=1), u).reshape(x.shape)

    def variance(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Var[x_1 | x_t = x], shape (B, d, d)."""
        p, mean, spread = self._moments(x, alpha, sigma)
        within = torch.einsum("kij,bkj,klj->bkil", self.eigenvectors, spread, self.eigenvectors)
        centred = mean - torch.einsum("bk,bkd->bd", p, mean).unsqueeze(1)
        return torch.einsum("bk,bkij->bij", p, within + centred.unsqueeze(3) * centred.unsqueeze(2))

    def posterior(self, matrix: Tensor, y: Tensor, noise: float) -> Mixture:
        """The law of x given y = Hx + σ_y n.

        Args:
            matrix: H, shape (m, d).
            y: one measurement, shape (m,).
            noise: σ_y > 0.

        Raises:
            ValueError: for shapes that do not fit, or noise that is not positive.
        """
        if matrix.ndim != 2 or matrix.shape != (*y.shape, self.means.shape[1]):
            raise ValueError(
                f"matrix, y: expected shapes (m, {self.means.shape[1]}) and (m,), "
                f"got {tuple(matrix.shape)} and {tuple(y.shape)}"
            )
        if not noise > 0:
            raise ValueError(f"noise: expected a standard deviation > 0, got {noise}")
        gram = matrix @ self.covariances @ matrix.T
        gram = gram + noise**2 * torch.eye(len(matrix), dtype=gram.dtype, device=gram.device)
        gain = torch.linalg.solve(gram, matrix @ self.covariances).mT  # S H^T gram^{-1}
        residual = y - self.means @ matrix.T
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        covariances = self.covariances - gain @ matrix @ self.covariances
        evidence = torch.distributions.MultivariateNormal(self.means @ matrix.T, gram).log_prob(y)
        weights = torch.softmax(self.weights.log() + evidence, 0)
        return Mixture(means, (covariances + covariances.mT) / 2, weights, self.shape)

    @property
    def mean(self) -> Tensor:
        """E[x], shape (d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Cov[x], shape (d, d)."""
        centred = self.means - self.mean
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + between

    def to(self, *args: Any, **kwargs: Any) -> Mixture:
        """A copy with its tensors moved."""
        parts = (self.means, self.covariances, self.weights)
        means, covariances, weights = (part.to(*args, **kwargs) for part in parts)
        return Mixture(means, covariances, weights, self.shape)

    def _level(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """α and σ as (B or 1, 1, 1), against (B, K, d)."""
        levels = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (alpha, sigma))
        a, s = (v.reshape(-1, 1, 1) for v in levels)
        return a, s

    def _joint(self, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π_k N(x; αm_k, C_k), the residual in the eigenbasis, and C_k's eigenvalues."""
        residual = torch.einsum(
            "kdi,bkd->bki", self.eigenvectors, flat(x).unsqueeze(1) - a * self.means
        )
        c = a**2 * self.eigenvalues + s**2
        log = -0.5 * (residual**2 / c + c.log() + math.log(2 * math.pi)).sum(2)
        return log + self.weights.log(), residual, c

    def _moments(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p_k (B, K), m̂_k (B, K, d), and V_k's eigenvalues (B, K, d)."""
        a, s = self._level(x, alpha, sigma)
        joint, residual, c = self._joint(x, a, s)
        shift = torch.einsum("kdi,bki->bkd", self.eigenvectors, a * self.eigenvalues * residual / c)
        spread = (self.eigenvalues * s**2 / c).expand(len(x), -1, -1)
        return torch.softmax(joint, dim=1), self.means + shift, spread


class MixtureNetwork:
    """The exact velocity of a mixture on a path, called like a network."""

    def __init__(self, mixture: Mixture, path: Path) -> None:
        self.mixture, self.path = mixture, path

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mixture.velocity(x, self.path(t))

    def to(self, *args: Any, **kwargs: Any) -> MixtureNetwork:
        """A copy with its tensors moved."""
        return MixtureNetwork(self.mixture.to(*args, **kwargs), self.path)


def gaussian(mean: Tensor, covariance: Tensor, shape: Sequence[int] | None = None) -> Mixture:
    """The prior N(m, S), a mixture of one: m (d,), S (d, d)."""
    return Mixture(mean.unsqueeze(0), covariance.unsqueeze(0), None, shape)
