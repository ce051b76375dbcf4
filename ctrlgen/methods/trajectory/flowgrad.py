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

stays within a threshold; the step that exceeds it is the group's last, and the sum starts again at
zero. One product with the Jacobian at the start of the group, over all of its length, serves all of
its controls. Groups are each sample's own.

OC-Flow's code differs from its paper. For images it is FlowGrad without groups under weight decay,
u ← 0.995 u − lr ∇C, which is ρ = 0.005/lr; for molecules the controls are of the velocity, and the
source point moves too, z_0 + u_*, at no price, with the energy averaged over the points of a state.

n evaluations for J; for its gradient as many more as there are groups, with a backward pass each;
n − 1 where controls are of the velocity and the start stays: the first moves nothing before it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_dtype,
    check_levels,
    check_parts,
    cost_rows,
    first_points,
    measurement_of,
    try_cost,
)
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.dflow import MeteredObjective, metered_observer, source_result
from ctrlgen.methods.starts import Initializer, SourceSample
from ctrlgen.methods.trajectory.controlled_euler import ControlledEuler
from ctrlgen.optimizers import Adam, GradientDescent
from ctrlgen.optimizers.base import Evaluated, Observer, Optimizer, Solution, check_target
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import row_sum, take
from ctrlgen.rows.constants import numbers
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.grids import Grid, Level, Uniform

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
    def euler(self, prior: Prior, levels: list[Level]) -> ControlledEuler:
        """The controlled solve whose adjoint gives the gradients."""

    def prices(self, widths: list[float]) -> list[float]:
        """Weight of ½‖u_k‖² in J, of every step."""
        return [self.penalty] * len(widths)

    def moves(self) -> bool:
        """Whether the source point moves as well, by the last of n + 1 controls."""
        return False

    def share(self, prior: Prior, x0: Tensor) -> Tensor | None:
        """Factor of each row's energy, shape (B,); None for one."""
        return None

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`."""
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        levels = self.grid(prior.flow.path)
        check_target(self.target, z)
        check_levels(prior, levels)
        try_cost(prior, cost, z, self.target)
        prior, meter = prior.metered(rows)
        x0 = self.initializer.first_points(prior, measurement_of(cost), rows, z).detach()
        first = levels[0]
        x0 = (first.alpha**2 + first.sigma**2) ** 0.5 * x0
        euler = self.euler(prior, levels)
        objective = _Objective(
            euler, self.prices(euler.widths), cost, x0, self.moves(), self.share(prior, x0)
        )
        still = x0.new_zeros(len(x0), euler.steps + self.moves(), *x0.shape[1:])
        metered = MeteredObjective(objective, meter)

        def result(found: Solution) -> Result:
            return source_result(
                found,
                rows,
                metered,
                repr(self),
                lambda: prior.codec.decode(prior.source.project(x0)),
            )

        with carrying(result):
            found = self.optimizer.minimize(
                metered, still, target=self.target, observer=metered_observer(observer, meter)
            )
        return result(found)


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

    def euler(self, prior: Prior, levels: list[Level]) -> ControlledEuler:
        return ControlledEuler(prior, levels, self.threshold)


@dataclass(frozen=True, kw_only=True)
class OCFlow(TrajectoryControl):
    """Whole-trajectory control of the velocity, with a price on its energy.

    Args:
        penalty: ρ, price of ½∫‖u‖² dt; of ½Σ‖u_k‖² where controls enter the state.
        enters: what controls add to, "velocity", or "state" as in FlowGrad.
        move_start: the source point moves as well, at no price; `Result.controls` then holds its
            shift as the last of n + 1.
        per_point: average the energy over the points of a state (B, N, F) instead of summing it.

    Raises:
        ValueError: for a place that is not known.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released-image": {
            "grid": Uniform(100),
            "optimizer": GradientDescent(learning_rate=2.5, max_iterations=15),
            "penalty": (1 - 0.995) / 2.5,
            "enters": "state",
        },
        "released-molecule": {
            "grid": Uniform(50),
            "optimizer": GradientDescent(learning_rate=1.0, max_iterations=5, clip_norm=10.0),
            "penalty": 0.01,
            "move_start": True,
            "per_point": True,
        },
    }
    """The authors' code."""

    penalty: float = 0.1
    enters: Literal["velocity", "state"] = "velocity"
    move_start: bool = False
    per_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.enters not in ("velocity", "state"):
            raise ValueError(f"enters: expected 'velocity' or 'state', got {self.enters!r}")

    def euler(self, prior: Prior, levels: list[Level]) -> ControlledEuler:
        return ControlledEuler(prior, levels, velocity=self.enters == "velocity")

    def prices(self, widths: list[float]) -> list[float]:
        if self.enters == "state":
            return super().prices(widths)
        return [self.penalty * width for width in widths]

    def moves(self) -> bool:
        return self.move_start

    def share(self, prior: Prior, x0: Tensor) -> Tensor | None:
        if not self.per_point or x0.ndim < 3:
            return None
        return x0.shape[-1] / prior.source.entries(x0)


class _Objective:
    """J of the controls, with the cost to monitor and the signal carried along."""

    def __init__(
        self,
        euler: ControlledEuler,
        prices: list[float],
        cost: Callable[[Tensor], Tensor],
        x0: Tensor,
        moves: bool,
        share: Tensor | None,
    ) -> None:
        self.euler, self.prices, self.cost, self.x0 = euler, prices, cost, x0
        self.moves, self.share = moves, share

    def take(self, index: Tensor) -> _Objective:
        euler, cost = self.euler.take(index), cost_rows(self.cost, index)
        x0, share = take(self.x0, index), take(self.share, index)
        return _Objective(euler, self.prices, cost, x0, self.moves, share)

    def __call__(self, controls: Tensor) -> Evaluated:
        x0 = self.x0
        if self.moves:
            controls, x0 = controls[:, :-1], x0 + controls[:, -1]
        prior, end = self.euler.prior, self.euler(x0, controls)
        signal = prior.codec.decode(prior.source.project(end))
        cost = value = self.cost(signal)
        if any(self.prices):
            squares = torch.stack([row_sum(u.square()) for u in controls.unbind(1)], 1)
            energy = (squares * numbers(tuple(self.prices), squares)).sum(1)
            value = cost + 0.5 * (energy if self.share is None else self.share * energy)
        return Evaluated(value, cost, signal)
