r"""How a sample moves with its source: D = D_{x_0}Φ applied to vectors, and what D-Flow's steps do.

A gradient step in the source moves the sample Φ(x_0), to first order, by

    δx = −η D Dᵀ ∇C(x)

(Ben-Hamu et al., arXiv 2402.14017, section 4). For an affine Gaussian path from noise of σ_0 = 1

    D_{x_0} x(t) = σ_t · Texp ∫_0^t γ_s Var[x_1 | x_s] ds,      γ = ½ d(α²/σ²)/ds

(Theorem 4.2; Texp orders by time, the latest to the left): where the data do not vary the factor
stays behind and σ_t → 0 takes the direction away; along the data it grows with what is uncertain.
So D Dᵀ projects onto the data's tangent, scaled by its spread: for Gaussian data N(m, S) it is S.

    tangent = Tangent(prior, x0)        # one solve, kept
    tangent.push(v)                     # D v, without D
    tangent.pull(w)                     # Dᵀ w
    tangent.project(gradient)           # D Dᵀ gradient: how the sample would move

A product with Dᵀ is a backward pass through the solver. One with D is the derivative of w ↦ Dᵀw,
which asks no forward mode of the network: the solver must be twice differentiable ("adjoint" is
not).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat
from ctrlgen.rows.checks import check_kind
from ctrlgen.solvers import Solver

__all__ = ["Tangent"]


class Tangent:
    """The derivative D of the signal decode(Φ(x_0)) of every sample, at its source point.

    Args:
        prior: whose flow Φ is, and whose codec decodes.
        x0: source points, shape (B, *).
        solver: Φ; three midpoint steps on the prior's grid by default, as `DFlow` has.

    Attributes:
        signal: of the source points, shape (B, *signal), detached.

    Raises:
        ValueError: for a solver that is differentiated by the adjoint equation.
    """

    def __init__(self, prior: Prior, x0: Tensor, solver: Solver | None = None) -> None:
        check_kind(Prior, prior=prior)
        check_kind(Tensor, x0=x0)
        check_kind(Solver, True, solver=solver)
        solver = solver or prior.solver(3)
        if solver.gradient == "adjoint":
            raise ValueError(
                f"solver: expected a gradient that is 'direct' or 'checkpoint', got {solver}"
            )
        with torch.enable_grad():
            self._x0 = x0.detach().requires_grad_()
            self._signal = prior.generate(self._x0, solver)
            self._w = torch.zeros_like(self._signal, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self._signal, self._x0, self._w, create_graph=True
            )
        self.signal = self._signal.detach()

    def push(self, v: Tensor) -> Tensor:
        """D v of vectors v of the source, shape (B, *): shape (B, *signal)."""
        self._check("v", v, self._x0)
        return torch.autograd.grad(self._pulled, self._w, v, retain_graph=True)[0]

    def pull(self, w: Tensor) -> Tensor:
        """Dᵀ w of vectors w of the signal, shape (B, *signal): shape (B, *)."""
        self._check("w", w, self._signal)
        return torch.autograd.grad(self._signal, self._x0, w, retain_graph=True)[0]

    def project(self, gradient: Tensor) -> Tensor:
        """D Dᵀ g of gradients g in the signal, shape (B, *signal): minus how the sample moves."""
        return self.push(self.pull(gradient))

    def matrix(self) -> Tensor:
        """D itself, for small signals: shape (B, signal size, source size)."""
        like = self._signal
        units = torch.eye(flat(like).shape[1], dtype=like.dtype, device=like.device)
        rows = (self.pull(unit.expand(len(like), -1).reshape(like.shape)) for unit in units)
        return torch.stack([flat(row) for row in rows], 1)

    @staticmethod
    def _check(name: str, value: Tensor, like: Tensor) -> None:
        if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
            got = f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else value
            raise ValueError(f"{name}: expected shape {tuple(like.shape)}, {like.dtype}, got {got}")
