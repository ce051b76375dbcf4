r"""FlowGrad and whole-trajectory gradient control: all controls of an Euler solve, by gradients.

    FlowGrad    z̃_k = z_k + u_k,   z_{k+1} = z̃_k + h_k v(z̃_k, t_k),        J = C + ½ρ Σ ‖u_k‖²
    OC-Flow     z_{k+1} = z_k + h_k (v(z_k, t_k) + u_k),                     J = C + ½ρ Σ h_k ‖u_k‖²

(Liu et al., "FlowGrad", CVPR 2023; Wang et al., "Training free guided flow matching with optimal
control", arXiv 2410.18070, in Euclidean space.) The gradients come from the discrete adjoint,

    λ_n = ∇C(z_n),      λ_k = λ_{k+1} + h_k D v(z̃_k)^T λ_{k+1},

∂C/∂u_k = λ_k in FlowGrad and h_k λ_{k+1} in OC-Flow; only states are stored, and every step is
evaluated again on the way back. Gradient descent on them is first-order diffusion optimal control.

FlowGrad skips where a trajectory is straight: consecutive steps form a group while the sum of

    S_k = max(‖v_{k−1} − v_k‖², ‖v_{k+1} − v_k‖²) / ‖v_k‖²

stays within a threshold; one product with the Jacobian at the start of the group, over all of its
length, serves all of its controls. Groups are each sample's own.

n evaluations for J; for its gradient as many more as there are groups, with a backward pass each.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.batching import expand_like, row_sum, take
from ctrlgen.grids import Grid, Level, Uniform
from ctrlgen.initializers import Initializer, SourceSample
from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_dtype,
    check_parts,
    cost_rows,
    first_points,
    measurement_of,
    try_cost,
)
from ctrlgen.methods.dflow import MeteredObjective, metered_observer, source_result
from ctrlgen.optimizers import Adam, GradientDescent
from ctrlgen.optimizers.base import Evaluated, Observer, Optimizer, check_target
from ctrlgen.priors import Prior
from ctrlgen.results import Result
from ctrlgen.seeds import Seeds

__all__ = ["FlowGrad", "OCFlow", "TrajectoryControl"]


@dataclass(frozen=True, kw_only=True)
class TrajectoryControl(Method):
    """Base: minimises cost and penalty over the controls of all Euler steps.

    Args:
        grid: times of the steps.
        optimizer: per-sample optimizer of the controls.
        penalty: ρ >= 0.
        initializer: source point, which stays; a draw from the source by default.
        target: a sample stops when its cost (without the penalty) is at most this.
        dtype: of states.
        device: of states; the network's by default.

    Raises:
        TypeError: if a part is of another kind than its name says.
        ValueError: for a penalty that is negative, or a dtype that is no floating point one.
    """

    control: ClassVar[str] = "every step, whole trajectory"
    needs: ClassVar[str] = "a gradient"

    grid: Grid = field(default_factory=lambda: Uniform(100))
    optimizer: Optimizer = field(default_factory=lambda: Adam(learning_rate=0.05))
    penalty: float = 0.0
    initializer: Initializer = field(default_factory=SourceSample)
    target: float | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, grid=Grid, optimizer=Optimizer, initializer=Initializer)
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty: expected a finite number >= 0, got {self.penalty}")
        check_dtype(self.dtype)

    @abstractmethod
    def euler(self, prior: Prior, levels: list[Level]) -> _Euler:
        """The controlled solve whose adjoint gives the gradients."""

    def prices(self, widths: list[float]) -> list[float]:
        """Weight of ½‖u_k‖² in J, of every step."""
        return [self.penalty] * len(widths)

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`."""
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        levels = self.grid(prior.flow.path)
        check_target(self.target, z)
        try_cost(prior, cost, z)
        prior, meter = prior.metered(rows)
        x0 = self.initializer.first_points(prior, measurement_of(cost), rows, z).detach()
        first = levels[0]
        x0 = (first.alpha**2 + first.sigma**2) ** 0.5 * x0
        euler = self.euler(prior, levels)
        objective = MeteredObjective(_Objective(euler, self.prices(euler.widths), cost, x0), meter)
        still = x0.new_zeros(len(x0), euler.steps, *x0.shape[1:])
        found = self.optimizer.minimize(
            objective, still, target=self.target, observer=metered_observer(observer, meter)
        )
        return source_result(found, rows, objective, repr(self))


@dataclass(frozen=True, kw_only=True)
class FlowGrad(TrajectoryControl):
    """FlowGrad: controls shift the state before every step.

    Args:
        optimizer: gradient descent as published, rate 10 and 10 iterations (for costs of the order
            of one); `penalty` is zero there.
        threshold: of the straightness of a group of steps, 0.005 in the paper; None for no groups,
            whose gradients are exact.

    Raises:
        ValueError: for a negative threshold.
    """

    optimizer: Optimizer = field(
        default_factory=lambda: GradientDescent(learning_rate=10.0, max_iterations=10)
    )
    threshold: float | None = 5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold: expected a number >= 0 or None, got {self.threshold}")

    def euler(self, prior: Prior, levels: list[Level]) -> _Euler:
        return _Euler(prior, levels, self.threshold)


@dataclass(frozen=True, kw_only=True)
class OCFlow(TrajectoryControl):
    """Whole-trajectory control of the velocity, with a price on its energy.

    Args:
        penalty: ρ, price of ½∫‖u‖² dt.
    """

    penalty: float = 0.1

    def euler(self, prior: Prior, levels: list[Level]) -> _Euler:
        return _Euler(prior, levels, velocity=True)

    def prices(self, widths: list[float]) -> list[float]:
        return [self.penalty * width for width in widths]


class _Euler:
    """A controlled Euler solve with its adjoint.

    Args:
        prior: whose velocity it integrates.
        levels: times of the steps.
        threshold: of the straightness of groups; None for none.
        velocity: controls add to the velocity, not to the state.
    """

    def __init__(
        self,
        prior: Prior,
        levels: list[Level],
        threshold: float | None = None,
        velocity: bool = False,
    ) -> None:
        self.prior, self.threshold, self.velocity = prior, threshold, velocity
        self.times = [level.time for level in levels]
        self.widths = [b - a for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        self.steps = len(self.widths)

    def take(self, index: Tensor) -> _Euler:
        taken = copy.copy(self)
        taken.prior = self.prior.take(index)
        return taken

    def __call__(self, x0: Tensor, controls: Tensor) -> Tensor:
        """The end of the solve, shape of x0, differentiable in the controls (B, n, *)."""
        return _Adjoint.apply(controls, x0, self)

    def forward(self, x0: Tensor, controls: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """States at which the velocity was taken, the velocities, and the end."""
        points, velocities, x = list[Tensor](), list[Tensor](), x0
        for k, h in enumerate(self.widths):
            u = controls[:, k]
            points.append(x if self.velocity else x + u)
            velocities.append(self.velocity_at(points[-1], k))
            slope = velocities[-1] + u if self.velocity else velocities[-1]
            x = points[-1] + h * slope
        return points, velocities, x

    def velocity_at(self, x: Tensor, step: int) -> Tensor:
        """v on the source's subspace, to which molecules are kept."""
        return self.prior.velocity(self.prior.source.project(x), self.times[step])

    def groups(self, velocities: list[Tensor]) -> Tensor:
        """Length of the group that starts with a step, 0 for steps that start none: (n, B)."""
        count, n = velocities[0].shape[0], self.steps
        lengths = torch.ones(n, count, device=velocities[0].device, dtype=torch.int64)
        if self.threshold is None:
            return lengths
        size = [row_sum(v.square()) for v in velocities]
        change = [
            row_sum((a - b).square()) for a, b in zip(velocities[1:], velocities, strict=False)
        ]
        none = torch.zeros_like(size[0])
        sides = [none, *change, none]
        bent = [torch.maximum(sides[k], sides[k + 1]) / size[k] for k in range(n)]
        lengths = torch.zeros_like(lengths)
        start = torch.zeros_like(lengths[0])
        total = torch.zeros_like(size[0])
        row = torch.arange(count, device=start.device)
        for k in range(n):
            total = total + bent[k]
            fresh = ~(total <= self.threshold) if k else torch.ones_like(total, dtype=torch.bool)
            start = torch.where(fresh, k, start)
            total = torch.where(fresh, bent[k], total)
            lengths[start, row] += 1
        return lengths


class _Adjoint(torch.autograd.Function):
    """The end of a controlled solve; backward by the discrete adjoint, one group at a time."""

    @staticmethod
    def forward(ctx: Any, controls: Tensor, x0: Tensor, euler: _Euler) -> Tensor:
        points, velocities, end = euler.forward(x0, controls)
        ctx.save_for_backward(*points, euler.groups(velocities))
        ctx.euler = euler
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        euler: _Euler = ctx.euler
        *points, lengths = ctx.saved_tensors
        gradients: list[Tensor] = []
        widths = gradient.new_tensor(euler.widths)
        ends = widths.flip(0).cumsum(0).flip(0)  # from the start of a step to the end
        ends = torch.cat((ends, ends.new_zeros(1)))
        for k in reversed(range(euler.steps)):
            if euler.velocity:
                gradients.append(euler.widths[k] * gradient)
            starts = lengths[k] > 0
            index = starts.nonzero().squeeze(1)
            if len(index):
                width = ends[k] - ends[k + lengths[k][index]]
                pulled = _pulled(
                    euler.take(index), take(points[k], index), k, take(gradient, index)
                )
                shift = expand_like(width, pulled) * pulled
                gradient = gradient.index_add(0, index, shift)
            if not euler.velocity:
                gradients.append(gradient)
        found = torch.stack(gradients[::-1], 1)
        return (found if euler.velocity else _shared(found, lengths)), None, None


def _pulled(euler: _Euler, point: Tensor, step: int, gradient: Tensor) -> Tensor:
    """(∂v/∂z)^T λ; one evaluation and one backward pass."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        velocity = euler.velocity_at(point, step)
        return torch.autograd.grad(velocity, point, gradient)[0]


def _shared(gradients: Tensor, lengths: Tensor) -> Tensor:
    """Every control of a group gets the gradient of its first: (B, n, *)."""
    steps = torch.arange(len(lengths), device=lengths.device).unsqueeze(1)
    start = torch.where(lengths > 0, steps, 0).cummax(0).values.T  # (B, n)
    wide = start.reshape(*start.shape, *(1,) * (gradients.ndim - 2)).expand_as(gradients)
    return gradients.gather(1, wide)


class _Objective:
    """J of the controls, with the cost to monitor and the signal carried along."""

    def __init__(
        self, euler: _Euler, prices: list[float], cost: Callable[[Tensor], Tensor], x0: Tensor
    ) -> None:
        self.euler, self.prices, self.cost, self.x0 = euler, prices, cost, x0

    def take(self, index: Tensor) -> _Objective:
        euler, x0 = self.euler.take(index), take(self.x0, index)
        return _Objective(euler, self.prices, cost_rows(self.cost, index), x0)

    def __call__(self, controls: Tensor) -> Evaluated:
        prior, end = self.euler.prior, self.euler(self.x0, controls)
        signal = prior.codec.decode(prior.source.project(end))
        cost = value = self.cost(signal)
        if any(self.prices):
            energy = torch.stack([row_sum(u.square()) for u in controls.unbind(1)], 1)
            value = cost + 0.5 * (energy * energy.new_tensor(self.prices)).sum(1)
        return Evaluated(value, cost, signal)
