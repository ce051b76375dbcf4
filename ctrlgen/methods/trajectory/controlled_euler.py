r"""An Euler solve under control, with its discrete adjoint, for FlowGrad.

    z̃_k = z_k + u_k,  z_{k+1} = z̃_k + h_k v(z̃_k, t_k)   or   z_{k+1} = z_k + h_k (v(z_k, t_k) + u_k)

    λ_n = ∇C(z_n),      λ_k = λ_{k+1} + h_k D v(z̃_k)^T λ_{k+1}

Only states are stored; every group of steps is evaluated once more on the way back.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, row_sum, take
from ctrlgen.rows.constants import numbers
from ctrlgen.sampling.grids import Level

__all__ = ["ControlledEuler"]


class ControlledEuler:
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

    def take(self, index: Tensor) -> ControlledEuler:
        taken = copy.copy(self)
        taken.prior = self.prior.take(index)
        return taken

    def __call__(self, x0: Tensor, controls: Tensor) -> Tensor:
        """The end of the solve, shape of x0, differentiable in it and the controls (B, n, *)."""
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
            lengths[start, row] += 1
            total = total + bent[k]
            last = ~(total <= self.threshold)
            start = torch.where(last, k + 1, start)
            total = torch.where(last, 0, total)
        return lengths


class _Adjoint(torch.autograd.Function):
    """The end of a controlled solve; backward by the discrete adjoint, one group at a time."""

    @staticmethod
    def forward(ctx: Any, controls: Tensor, x0: Tensor, euler: ControlledEuler) -> Tensor:
        points, velocities, end = euler.forward(x0, controls)
        ctx.save_for_backward(*points, euler.groups(velocities))
        ctx.euler = euler
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        euler: ControlledEuler = ctx.euler
        *points, lengths = ctx.saved_tensors
        gradients: list[Tensor] = []
        widths = numbers(tuple(euler.widths), gradient)
        ends = widths.flip(0).cumsum(0).flip(0)  # from the start of a step to the end
        ends = torch.cat((ends, ends.new_zeros(1)))
        # Which rows start a group at which step: known without groups, else read once for all.
        starts = lengths > 0
        counts = [len(gradient)] * euler.steps
        if euler.threshold is not None:
            counts = starts.sum(1).tolist()
            order = torch.argsort(starts, dim=1, descending=True, stable=True)
        for k in reversed(range(euler.steps)):
            if euler.velocity:
                gradients.append(euler.widths[k] * gradient)
                if k == 0 and not ctx.needs_input_grad[1]:
                    break  # the first step's Jacobian is asked for by the start alone
            if counts[k] == len(gradient):
                width = ends[k] - ends[k + lengths[k]]
                pulled = _pulled(euler, points[k], k, gradient)
                gradient = gradient + expand_like(width, pulled) * pulled
            elif counts[k]:
                index = order[k, : counts[k]]
                width = ends[k] - ends[k + lengths[k][index]]
                pulled = _pulled(
                    euler.take(index), take(points[k], index), k, take(gradient, index)
                )
                shift = expand_like(width, pulled) * pulled
                gradient = gradient.index_add(0, index, shift)
            if not euler.velocity:
                gradients.append(gradient)
        found = torch.stack(gradients[::-1], 1)
        start = gradient if ctx.needs_input_grad[1] else None
        return (found if euler.velocity else _shared(found, lengths)), start, None


def _pulled(euler: ControlledEuler, point: Tensor, step: int, gradient: Tensor) -> Tensor:
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
