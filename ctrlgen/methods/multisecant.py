r"""A first source point by secants: forward passes alone bring Φ(x_0) onto a measurement.

The residual r(x_0) of a cost that is made of squares, Hx − y for one, falls along steps

    p = −S Qᵀ r − K (I − QQᵀ) r,        q_i = r(x_0 + s_i) − r(x_0), made orthonormal, s_i alike,

the solution where the secants S have been, and a guess of the inverse of r' in the rest. It is
Anderson's mixing (J. ACM 12, 1965) in the space of measurements, a multisecant quasi-Newton method
(Fang & Saad, Numer. Linear Algebra Appl. 16, 2009): for an affine r, GMRES preconditioned by K, and
the solution after as many steps as r'K has distinct eigenvalues. For K, with J_c the Jacobian of
the residual in the state x_1 (of the cost and the codec; the network has no part in it),

    K = J_c⁺ by a few conjugate gradients, times ∂x̂_t/∂x_t in the first rounds, at
    x_t = α x_1 + σ x_0,

which takes the Jacobian of the flow for the identity. That of a Gaussian prior is C^{1/2},
symmetric and positive, which is what GMRES wants: it needs about as many steps as √cond, where
descent on ‖r‖² needs cond, and a step takes a solve forward and none back. What K leaves out is how
the data hang together: with it alone the part that no entry measures would never move. So the first
steps go through ∂x̂/∂x ∝ Cov[x_1|x_t], along the data's tangent, for one evaluation and one backward
pass, and so does every other one after a step in vain.

Steps stay in a trust region around the best point; one that does not lower ‖r‖ adds its secant, and
shrinks it. [Put together here.]
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows
from ctrlgen.methods.secants import Secants
from ctrlgen.methods.source.objective import check_squares
from ctrlgen.methods.starts import Initializer
from ctrlgen.operators.base import Measurement
from ctrlgen.optimizers.base import check_target
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import PerSample, expand_like, flat, partition, row_sum, take
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import Seeds
from ctrlgen.solvers import Solver

__all__ = ["MultiSecant"]


class MultiSecant(Initializer):
    """The draw z, brought onto what the cost asks by secants of forward solves.

    For costs that are sums of squares, or rising functions of one (`Cost.squares`), in D-Flow; of
    a method that tells an initializer no more than the measurement, for that. They must be twice
    differentiable by autograd. A round costs a solve forward, one along the tangent an evaluation
    and a backward pass more. A sample is done when its cost meets the target of the
    run; without one when the residual is at the noise of the measurement; and when `patience`
    steps on end brought nothing. It begins at the best point of its rounds.

    Args:
        rounds: steps, >= 1.
        tangents: first steps, which go along the tangent of the data, >= 0.
        time: t in (0, 1) of the tangent.
        radius: first length of a step in those of z, > 0.
        memory: secants remembered, >= 1.
        inner: conjugate gradients in the cost and the codec, >= 1.
        patience: steps in vain, >= 1.
        solver: Φ, that of the method; three midpoint steps by default, as `DFlow` has.
    """

    def __init__(
        self,
        rounds: int = 24,
        tangents: int = 4,
        time: float = 2 / 3,
        radius: float = 0.2,
        memory: int = 8,
        inner: int = 4,
        patience: int = 3,
        solver: Solver | None = None,
    ) -> None:
        least = {"rounds": 1, "tangents": 0, "memory": 1, "inner": 1, "patience": 1}
        self.rounds, self.tangents, self.memory = rounds, tangents, memory
        self.inner, self.patience, self.solver = inner, patience, solver
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise ValueError(f"{name}: expected an integer >= {bound}, got {value!r}")
        if not 0 < time < 1:
            raise ValueError(f"time: expected a time in (0, 1), got {time}")
        if not radius > 0:
            raise ValueError(f"radius: expected a positive number, got {radius}")
        self.time, self.radius = time, radius
        self._cost: CostLike | None = None
        self._target: float | Tensor | None = None

    def config(self) -> dict[str, Any]:
        names = ("rounds", "tangents", "time", "radius", "memory", "inner", "patience", "solver")
        return {name: getattr(self, name) for name in names}

    def aimed(self, cost: CostLike, target: float | Tensor | None) -> MultiSecant:
        check_squares(f"initializer {type(self).__name__}", "SourceSample()", cost, None)
        aimed = copy.copy(self)
        aimed._cost, aimed._target = cost, target
        return aimed

    def check(self, prior: Prior, measurement: Measurement | None) -> None:
        if self._cost is None and measurement is None:
            raise ValueError(
                f"initializer: {type(self).__name__} needs a cost with a measurement (operator and "
                "y) in this method; use SourceSample() for other costs"
            )

    @torch.no_grad()
    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        cost = self._cost
        if cost is None:
            assert measurement is not None  # `check` has seen to it
            cost = _Misfit(measurement)
        goal = _goal(measurement, self._target, z)
        solver = self.solver or prior.solver(3)
        rows, final = torch.arange(len(z), device=z.device), z.clone()
        radius = self.radius * torch.linalg.vector_norm(flat(z), dim=1)
        search = _Search(self.memory, radius)
        trial = z
        for round in range(self.rounds + 1):
            state = solver(BoundVelocity(prior), trial)
            signal = prior.codec.decode(state)
            residual = cost.least_squares(signal).to(z.dtype)  # type: ignore[attr-defined]
            height = row_sum(residual.square()) if self._target is None else cost(signal)
            search.see(trial, state, residual, met=height.to(z) <= goal)
            final[rows] = search.x
            going = ~search.met & (search.failures < self.patience)
            along = going & ((search.failures % 2 == 1) | (round < self.tangents))
            left, turned = torch.stack((going, along)).sum(1).tolist()  # the round's one read
            if round == self.rounds or not left:
                break
            if left < len(rows):
                kept, _ = partition(going, left)
                rows, goal, along = rows[kept], goal[kept], along[kept]
                cost, prior = cost_rows(cost, kept), prior.take(kept)
                search.take(kept)
            back, rest = search.known()
            step = self._correction(prior, cost, search.state, rest)
            if turned:
                where, _ = partition(along, turned)
                tangent = self._tangent(prior.take(where), search, where, step[where])
                step = step.index_copy(0, where, tangent)
            trial = search.within(prior.source.project(step) - back)
        return final

    def _correction(self, prior: Prior, cost: CostLike, state: Tensor, rest: Tensor) -> Tensor:
        """−J_c⁺ r of residuals r (b, m), shape of states (b, *): conjugate gradients (CGLS)."""
        with torch.enable_grad():
            state = state.detach().requires_grad_()
            residual = cost.least_squares(prior.codec.decode(state))  # type: ignore[attr-defined]
            w = torch.zeros_like(residual, requires_grad=True)
            (pulled,) = torch.autograd.grad(residual, state, w, create_graph=True)

        def pull(v: Tensor) -> Tensor:
            return flat(torch.autograd.grad(residual, state, v.to(w), retain_graph=True)[0])

        def push(v: Tensor) -> Tensor:
            v = v.reshape(state.shape)
            return torch.autograd.grad(pulled, w, v, retain_graph=True)[0].to(rest)

        rest, move = -rest, torch.zeros_like(flat(state))
        slope = direction = pull(rest)
        square = first = row_sum(slope.square())
        for _ in range(self.inner):
            pushed = push(direction)
            length = _ratio(square, row_sum(pushed.square()))
            # What is left is rounding: further on its quotients mean nothing.
            length = torch.where(square > torch.finfo(rest.dtype).eps * first, length, 0)
            move = move + length[:, None] * direction
            rest = rest - length[:, None] * pushed
            slope, before = pull(rest), square
            square = row_sum(slope.square())
            direction = slope + _ratio(square, before)[:, None] * direction
        return move.reshape(state.shape)

    def _tangent(self, prior: Prior, search: _Search, where: Tensor, step: Tensor) -> Tensor:
        """(∂x̂_t/∂x_t)ᵀ p at the best points, shape of states."""
        at = prior.flow.path(step.new_full((), self.time))
        with torch.enable_grad():
            x = (at.alpha * search.state[where] + at.sigma * search.x[where]).requires_grad_()
            return torch.autograd.grad(prior.predict(x, self.time).data, x, step)[0]


class _Misfit(PerSample):
    """What there is where a method tells no more than the measurement: its residual."""

    per_sample = ("operator", "y")

    def __init__(self, measurement: Measurement) -> None:
        self.operator, self.y, self.noise = measurement

    def __call__(self, x: Tensor) -> Tensor:
        return row_sum(self.least_squares(x).square())

    def least_squares(self, x: Tensor) -> Tensor:
        seen = self.operator(x)
        return flat(self.operator.observed(seen - follow(self.y, seen)))


class _Search:
    """The best point of every row, its trust region and its secants.

    Args:
        memory: secants remembered.
        radius: first Δ, shape (b,).

    Attributes:
        x, state, residual: source points (b, *), their ends (b, *) and residuals (b, m).
        met: rows whose point is good enough, shape (b,).
        failures: steps in vain since the last that was not, shape (b,).
    """

    x: Tensor
    state: Tensor
    residual: Tensor
    met: Tensor

    def __init__(self, memory: int, radius: Tensor) -> None:
        self.radius, self.secants = radius, Secants(memory)
        self.failures = torch.zeros_like(radius, dtype=torch.int64)
        self.value = torch.full_like(radius, torch.inf)
        self.promised = torch.zeros_like(radius)

    def see(self, x: Tensor, state: Tensor, residual: Tensor, met: Tensor) -> None:
        """Compare trial points with the best ones."""
        value = row_sum(residual.square())
        if not hasattr(self, "x"):
            self.x, self.state, self.residual, self.met, self.value = x, state, residual, met, value
            return
        better = (value < self.value) | (value.isfinite() & ~self.value.isfinite())
        move, image = flat(x - self.x), residual - self.residual
        length = torch.linalg.vector_norm(move, dim=1)
        kept_word = self.value - value > 0.5 * (self.value - self.promised)
        wider = torch.where(kept_word, torch.maximum(self.radius, 2 * length), self.radius)
        self.radius = torch.where(better, wider, length / 3)
        self.failures = torch.where(better, 0, self.failures + 1)
        self.secants.add(move, image)
        for name, new in {"x": x, "state": state, "residual": residual}.items():
            old = getattr(self, name)
            setattr(self, name, torch.where(expand_like(better, new), new, old))
        self.value = torch.where(better, value, self.value)
        self.met = self.met | (better & met)

    def known(self) -> tuple[Tensor, Tensor]:
        """S Qᵀ r, shape (b, *), and (I − QQᵀ) r, shape (b, m), of the best points."""
        back, rest = self.secants.solved(self.residual)
        return back.reshape(self.x.shape) if back.ndim else back, rest

    def within(self, step: Tensor) -> Tensor:
        """The points at the end of steps (b, *), cut to the trust region."""
        length = torch.linalg.vector_norm(flat(step), dim=1)
        share = _ratio(self.radius, length).clamp_max(1)
        self.promised = (1 - share).square() * self.value
        return self.x + expand_like(share, step) * step

    def take(self, index: Tensor) -> None:
        for name in ("x", "state", "residual", "met", "failures", "value", "promised", "radius"):
            setattr(self, name, take(getattr(self, name), index))
        self.secants.take(index)


def _goal(measurement: Measurement | None, target: float | Tensor | None, z: Tensor) -> Tensor:
    """Where a row is done, shape (b,): at its target, or at m σ_y² of its m entries."""
    goal = check_target(target, z)
    if goal is not None or measurement is None:
        return z.new_zeros(len(z)) if goal is None else goal
    return measurement.operator.measured(measurement.y).to(z) * measurement.noise**2


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, zero where b is."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
