"""What the tests of solvers share: states, the exact flow of a Gaussian, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.solvers import Solver
from ctrlgen.testing.oracles import Mixture


def states(rows: int, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)


def spread(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a Gaussian's covariance."""
    return mixture.eigenvalues[0], mixture.eigenvectors[0]


def transported(mixture: Mixture, x0: Tensor, t: float, path: Path | None = None) -> Tensor:
    """x(t) of a Gaussian, on straight lines by default: αm + Q diag √(α²λ + σ²) Q^T x_0."""
    values, basis = spread(mixture)
    at = (path or CondOT())(torch.tensor(t, dtype=x0.dtype))
    growth = (at.alpha**2 * values + at.sigma**2).sqrt()
    return at.alpha * mixture.means + x0 @ basis @ torch.diag(growth) @ basis.T


def gradients(solver: Solver, velocity: Any, x0: Tensor) -> Tensor:
    x0 = x0.clone().requires_grad_()
    end = solver(velocity, x0)
    (gradient,) = torch.autograd.grad((end**3).sum(), x0)
    return gradient
