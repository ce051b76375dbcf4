r"""Backward passes of iLQR: gains of every step from the value function of the next.

For dynamics x' = h(x, u) and running cost ½ω‖u‖², with V' = (V'_x, V'_xx) the value function's
derivatives after the step (Li and Pereira, "Solving Inverse Problems via Diffusion Optimal
Control", arXiv 2412.16748; Tassa et al., 2012),

    Q_x = h_x^T V'_x,   Q_u = ωu + h_u^T V'_x,
    Q_xx = h_x^T V'_xx h_x,   Q_ux = h_u^T V'_xx h_x,   Q_uu = ωI + h_u^T V'_xx h_u,
    k = −(Q_uu + αI)^{-1} Q_u,      K = −(Q_uu + αI)^{-1} Q_ux,
    V_x  = Q_x + K^T Q_uu k + K^T Q_u + Q_ux^T k,
    V_xx = Q_xx + K^T Q_uu K + K^T Q_ux + Q_ux^T K,

which holds for any regularisation α >= 0. A control enters before the network (input,
x' = h(x + u), h_u = h_x) or after it (output, x' = h(x) + u, h_u = I). The terminal value is that
of the cost itself: V_x = ∇ℓ, V_xx = ∇²ℓ made positive semidefinite, for ℓ = −log p(y|x) with the
sign that this has.

`Dense` does this literally, for small states. `LowRank` keeps V_xx = Z Λ Z^T, Z orthonormal, d × k:
h_x^T Z are k vector-Jacobian products, the rank stays k, and with a = ω + α, κ = Λ/(a + Λ) in the
basis in which the curvature of Q_uu is diagonal (Z for output, that of h_x^T Z for input),

    (aI + ZΛZ^T)^{-1} = a^{-1} (I − Z κ Z^T),      K = −Z κ Y^T,      Λ ← Λ(1 − κ)² + ωκ²,

Y = h_x^T Z for output control and Y = Z for input. It is exact where k is at least the rank of ∇²ℓ;
k = 0 is the first-order form, K = 0 and V_x = h_x^T V'_x, a gradient step of size 1/(ω + α).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Curvature", "Dense", "Gains", "LowRank", "Side", "Value"]

Side = Literal["input", "output"]
Pull = Callable[[Tensor], Tensor]


class Value(NamedTuple):
    """Derivatives of a value function of states with d entries.

    Attributes:
        gradient: V_x, shape (B, d).
        basis: Z, shape (B, d, k); the identity for a dense one.
        curvature: Λ, shape (B, k), or V_xx itself, (B, d, d), for a dense one.
    """

    gradient: Tensor
    basis: Tensor
    curvature: Tensor


class Gains(NamedTuple):
    """A step's law  δu = λk + K δx,  K = −left · right^T.

    Attributes:
        feedforward: k, shape (B, d).
        left: shape (B, d, k).
        right: shape (B, d, k).
        gradient: Q_u, of the cost to go by the control, shape (B, d).
    """

    feedforward: Tensor
    left: Tensor
    right: Tensor
    gradient: Tensor

    def law(self, scale: Tensor, deviation: Tensor) -> Tensor:
        """δu for step lengths λ (B,) and deviations from the nominal state (B, d)."""
        change = scale.unsqueeze(1) * self.feedforward
        if self.left.shape[2] == 0:
            return change
        return change - _times(self.left, _times(self.right.mT, deviation))

    def take(self, index: Tensor) -> Gains:
        """The rows `index`."""
        return Gains(*(part.index_select(0, index) for part in self))


class Curvature(ABC):
    """How second derivatives are carried backwards."""

    @abstractmethod
    def directions(self, d: int) -> int:
        """How many columns are pulled back through every step, beside the gradient."""

    def probes(self, d: int) -> int:
        """How many random directions `terminal` needs."""
        return 0

    @abstractmethod
    def terminal(self, gradient: Tensor, product: Pull, draws: Tensor) -> Value:
        """The value function at the end.

        Args:
            gradient: ∇ℓ, shape (B, d).
            product: columns (B, d, m) to ∇²ℓ times them.
            draws: standard normal numbers (B, d, k), for a range finder.
        """

    @abstractmethod
    def step(
        self, value: Value, pull: Pull, control: Tensor, weight: float, damping: Tensor, side: Side
    ) -> tuple[Gains, Value]:
        """Gains of a step, and the value function before it.

        Args:
            value: the value function after the step.
            pull: columns (B, d, m) to h_x^T times them.
            control: u, shape (B, d).
            weight: ω >= 0.
            damping: α of each sample, shape (B,), >= 0.
            side: where the control enters.
        """


class Dense(Curvature):
    """All of it: d × d matrices, d vector-Jacobian products a step."""

    def directions(self, d: int) -> int:
        return d

    def terminal(self, gradient: Tensor, product: Pull, draws: Tensor) -> Value:
        eye = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
        eye = eye.expand(len(gradient), -1, -1)
        hessian = product(eye)
        vectors, values = _eigen((hessian + hessian.mT) / 2)
        return Value(gradient, eye, (vectors * values.unsqueeze(1)) @ vectors.mT)

    def step(
        self, value: Value, pull: Pull, control: Tensor, weight: float, damping: Tensor, side: Side
    ) -> tuple[Gains, Value]:
        eye = value.basis
        pulled = pull(torch.cat((value.gradient.unsqueeze(2), eye), 2))
        q_x, h_x = pulled[..., 0], pulled[..., 1:].mT
        h_u = h_x if side == "input" else eye
        after = value.curvature
        q_u = weight * control + _times(h_u.mT, value.gradient)
        q_xx, q_ux = h_x.mT @ after @ h_x, h_u.mT @ after @ h_x
        q_uu = weight * eye + h_u.mT @ after @ h_u
        right_side = torch.cat((q_u.unsqueeze(2), q_ux), 2)
        # solve_ex: a singular matrix spoils its own row, and says nothing to the others.
        solved = -torch.linalg.solve_ex(q_uu + damping[:, None, None] * eye, right_side)[0]
        k, feedback = solved[..., 0], solved[..., 1:]
        v_x = q_x + _times(feedback.mT, _times(q_uu, k) + q_u) + _times(q_ux.mT, k)
        cross = feedback.mT @ q_ux
        v_xx = q_xx + feedback.mT @ q_uu @ feedback + cross + cross.mT
        gains = Gains(k, -feedback, eye, q_u)
        return gains, Value(v_x, eye, (v_xx + v_xx.mT) / 2)


class LowRank(Curvature):
    """Rank k, matrix-free.

    Args:
        rank: k >= 0; 0 is the first-order form.
        power: power iterations of the range finder of ∇²ℓ, >= 0.
    """

    def __init__(self, rank: int, power: int = 1) -> None:
        self.rank, self.power = rank, power

    def directions(self, d: int) -> int:
        return min(self.rank, d)

    probes = directions

    def terminal(self, gradient: Tensor, product: Pull, draws: Tensor) -> Value:
        if draws.shape[2] == 0:
            return Value(gradient, draws, draws[:, 0])
        basis = product(draws)
        for _ in range(self.power):
            basis = product(_orthonormal(basis))
        basis = _orthonormal(basis)
        compressed = basis.mT @ product(basis)
        vectors, values = _eigen((compressed + compressed.mT) / 2)
        return Value(gradient, basis @ vectors, values)

    def step(
        self, value: Value, pull: Pull, control: Tensor, weight: float, damping: Tensor, side: Side
    ) -> tuple[Gains, Value]:
        pulled = pull(torch.cat((value.gradient.unsqueeze(2), value.basis), 2))
        q_x, columns = pulled[..., 0], pulled[..., 1:]
        q_u = weight * control + (q_x if side == "input" else value.gradient)
        a = (weight + damping).unsqueeze(1)
        if columns.shape[2] == 0:
            return Gains(-q_u / a, columns, columns, q_u), Value(q_x, columns, value.curvature)
        if side == "input":
            basis, curvature = _diagonal(columns, value.curvature)
            right = basis
        else:
            basis, curvature, right = value.basis, value.curvature, columns
        kappa = curvature / (a + curvature)
        seen = _times(basis.mT, q_u)
        k = -(q_u - _times(basis, kappa * seen)) / a
        along = -seen / (a + curvature)  # k in the basis
        change = (curvature - kappa * (weight + curvature)) * along - kappa * seen
        v_x = q_x + _times(right, change)
        left = curvature * (1 - kappa) ** 2 + weight * kappa**2
        before = (basis, left) if side == "input" else _diagonal(right, left)
        return Gains(k, basis * kappa.unsqueeze(1), right, q_u), Value(v_x, *before)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns)[0]


def _diagonal(columns: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Y Λ Y^T = Z̃ Λ̃ Z̃^T with Z̃ orthonormal: (Z̃, Λ̃)."""
    basis, triangle = torch.linalg.qr(columns)
    vectors, values = _eigen((triangle * curvature.unsqueeze(1)) @ triangle.mT)
    return basis @ vectors, values


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors and eigenvalues, the negative ones set to zero; NaN where the matrix has it."""
    finite = matrix.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], matrix, 0)  # eigh refuses the whole batch else
    values, vectors = torch.linalg.eigh((safe + safe.mT) / 2)
    return vectors, torch.where(finite[:, None], values.clamp_min(0), torch.nan)
