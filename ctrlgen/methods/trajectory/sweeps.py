"""The sweeps of optimal control: backward for gains, forward with a step of each sample's own.

A sample that has reached its target, converged or diverged leaves the working set; what it was
steered to stays in the record. The mathematics is in `ctrlgen.methods.trajectory.optimal_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctrlgen.methods.base import CostLike, cost_rows
from ctrlgen.methods.result import Result
from ctrlgen.methods.trajectory.records import Record
from ctrlgen.methods.trajectory.riccati import Curvature, Gains
from ctrlgen.methods.trajectory.trajectories import Dynamics, Link, Trajectory, last_finite
from ctrlgen.optimizers.base import Observer
from ctrlgen.optimizers.first_order import Adam
from ctrlgen.rows.batching import flat, partition, row_sum
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status

if TYPE_CHECKING:
    from ctrlgen.methods.trajectory.optimal_control import OptimalControl

__all__ = ["Plan", "Sweep"]

_RANGE_FINDER = 2**44  # stream of its draws
_FAILURES = 3
"""How often in a row no step length may lower a sample's cost before it stops."""
_ADAM = Adam()
"""The rule of the update by Adam; its rate is the method's."""


@dataclass
class Plan:
    """What does not change during a run.

    Attributes:
        method: the settings.
        curvature: of the value function.
        weights: ω of every step.
        target: of each sample, (B,), or None.
        observer: or None.
    """

    method: OptimalControl
    curvature: Curvature
    weights: list[float]
    target: Tensor | None
    observer: Observer | None


class Sweep:
    """One run on B samples, of which b are still at work."""

    def __init__(
        self, plan: Plan, dynamics: Dynamics, cost: CostLike, x0: Tensor, meter: Meter
    ) -> None:
        self.plan, self.dynamics, self.cost = plan, dynamics, cost
        self.whole, self.everyone, self.seeds = cost, dynamics, dynamics.seeds
        self.rows = torch.arange(len(x0), device=x0.device)
        self.damping = x0.new_full((len(x0),), plan.method.damping)
        self.failures = torch.zeros_like(self.rows)
        still = [torch.zeros_like(x0)] * dynamics.steps
        averages = flat(x0).new_zeros(_ADAM.moments, *flat(x0).shape)
        self.averages = [averages] * dynamics.steps  # of the gradients at every step, (2, b, d)
        self.at = self._rollout(x0, still)
        self.value, self.monitor = self._evaluate(self.at)
        best = {
            "value": self.value.nan_to_num(nan=torch.inf),
            "cost": self.monitor.clone(),
            "state": last_finite(self.at),
            "controls": torch.stack(self.at.controls, 1),
        }
        self.record = Record(best, meter, plan.observer)
        self.record.calls += 1

    def run(self) -> Result:
        """All iterations; the method's name is the caller's."""
        record = self.record
        with carrying(lambda _: record.result(self._samples(), record.best["cost"], self.seeds)):
            self._iterate()
        record.status[self.rows] = int(Status.MAX_ITERATIONS)
        with torch.no_grad():
            samples = self._samples()
            costs = self.whole(samples).to(samples.dtype)
        record.status = torch.where(costs.isfinite(), record.status, int(Status.DIVERGED))
        return record.result(samples, costs, self.seeds)

    def _samples(self) -> Tensor:
        """The best signals of all samples."""
        with torch.no_grad():
            return self.everyone.decode(self.record.best["state"])

    def _iterate(self) -> None:
        self._close(~self.value.isfinite(), Status.DIVERGED)
        self._finish_round(torch.zeros_like(self.rows, dtype=torch.bool))
        for _ in range(self.plan.method.iterations):
            if len(self.rows) == 0:
                break
            gains = self._backward()
            slopes = torch.stack([gain.gradient.abs().amax(1) for gain in gains]).amax(0)
            steps = torch.stack([gain.feedforward.isfinite().all(1) for gain in gains]).all(0)
            self._close(~steps | ~slopes.isfinite(), Status.DIVERGED)
            self._close(slopes <= self.plan.method.tolerance, Status.CONVERGED_GRADIENT)
            kept = self._leave()
            if len(self.rows) == 0:
                self.record.note(self.rows)
                break
            gains = [gain.take(kept) for gain in gains] if kept is not None else gains
            step = self._search if self.plan.method.update == "search" else self._adam
            self._finish_round(step(gains))

    # ---------------------------------------------------------------- backward

    def _backward(self) -> list[Gains]:
        """The gains of every step along the nominal trajectory."""
        method, at = self.plan.method, self.at
        end = at.states[-1]
        directions = self.plan.curvature.directions(flat(end).shape[1])
        with torch.enable_grad():
            state = end.detach().requires_grad_()
            self.record.calls[self.rows] += 1
            total = self.cost(self.dynamics.decode(state)).sum()
            (slope,) = torch.autograd.grad(total, state, create_graph=directions > 0)

        def product(columns: Tensor) -> Tensor:
            if not slope.requires_grad:  # the cost is linear
                return torch.zeros_like(columns)
            products = [
                torch.autograd.grad(
                    slope, state, column.reshape(end.shape), retain_graph=True, allow_unused=True
                )[0]
                for column in columns.unbind(2)
            ]
            zero = torch.zeros_like(end)
            return torch.stack([flat(zero if p is None else p) for p in products], 2)

        value = self.plan.curvature.terminal(flat(slope.detach()), product, self._draws(flat(end)))
        gains: list[Gains] = []
        for k in reversed(range(self.dynamics.steps)):
            link = at.links[k] if at.links else self.dynamics.link(at.states[k], at.controls[k], k)
            gain, value = self.plan.curvature.step(
                value,
                partial(link.pull, vectorized=method.vectorized),
                flat(at.controls[k]),
                self.plan.weights[k],
                self.damping,
                method.side,
            )
            gains.append(gain)
        at.links = None  # the graphs have served
        return gains[::-1]

    def _draws(self, like: Tensor) -> Tensor:
        """Directions of the range finder, (b, d, k), each sample's own."""
        d = like.shape[1]
        probes = self.plan.curvature.probes(d)
        if probes == 0:
            return like.new_empty(len(like), d, 0)
        seeds = self.seeds[self.rows]
        return normal(seeds, (d, probes), _RANGE_FINDER, dtype=like.dtype, device=like.device)

    # ---------------------------------------------------------------- forward

    def _search(self, gains: list[Gains]) -> Tensor:
        """Backtracking, each sample by itself; which of them went down."""
        pending = torch.arange(len(self.rows), device=self.rows.device)
        moved = torch.zeros_like(pending, dtype=torch.bool)
        finite = torch.zeros_like(moved)
        for trial in range(self.plan.method.halvings + 1):
            nominal, laws = self.at.take(pending), [gain.take(pending) for gain in gains]
            dynamics, cost = self.dynamics.take(pending), cost_rows(self.cost, pending)
            lengths = self.value.new_full((len(pending),), 0.5**trial)
            x = nominal.states[0]
            states, controls = [x], list[Tensor]()
            for k, law in enumerate(laws):
                change = law.law(lengths, flat(x - nominal.states[k])).reshape(x.shape)
                controls.append(nominal.controls[k] + change)
                x = dynamics.move(x, controls[-1], k)
                states.append(x)
            found = Trajectory(states, controls)
            self.record.calls[self.rows[pending]] += 1
            value, monitor = self._evaluate(found, cost, dynamics)
            finite = finite.index_copy(0, pending, value.isfinite())
            lower = value < self.value[pending]
            inside, outside = partition(lower)
            where = pending[inside]
            self.at = self.at.replaced(where, found.take(inside))
            self.value = self.value.index_copy(0, where, value[inside])
            self.monitor = self.monitor.index_copy(0, where, monitor[inside])
            moved = moved.index_fill(0, where, True)
            pending = pending[outside]
            if len(pending) == 0:
                break
        self.damping = torch.where(moved, self.damping, self.damping * self.plan.method.growth)
        self.failures = torch.where(moved, 0, self.failures + 1)
        self._close(~finite, Status.DIVERGED)  # not even the shortest step is
        self._close(self.failures >= _FAILURES, Status.LINE_SEARCH)
        return moved

    def _adam(self, gains: list[Gains]) -> Tensor:
        """An AdamW step of every control, with feedback, while going forwards."""
        method, nominal = self.plan.method, self.at
        clock = self.record.iterations[self.rows].unsqueeze(1) + 1
        weights = torch.stack([1 - beta ** clock.to(self.value) for beta in _ADAM.betas])
        zero = torch.zeros_like(self.value)
        x = nominal.states[0]
        states, controls, links = [x], list[Tensor](), list[Link]()
        for k, gain in enumerate(gains):
            self.averages[k] = _ADAM.update_averages(self.averages[k], -gain.feedforward)
            scaled = _ADAM.direction(self.averages[k], weights)
            u = flat(nominal.controls[k]) * (1 - method.learning_rate * method.weight_decay)
            u = u - method.learning_rate * scaled + gain.law(zero, flat(x - nominal.states[k]))
            controls.append(u.reshape(x.shape))
            links.append(self.dynamics.link(x, controls[-1], k))
            x = self.dynamics.leave(links[-1].after.detach(), controls[-1])
            states.append(x)
        found = Trajectory(states, controls, links)
        self.record.calls[self.rows] += 1
        value, monitor = self._evaluate(found)
        self._close(~value.isfinite(), Status.DIVERGED)
        self.at, self.value, self.monitor = found, value, monitor
        return value.isfinite()

    def _rollout(self, x: Tensor, controls: list[Tensor]) -> Trajectory:
        """The first trajectory, with graphs where they will be of use."""
        keep = self.plan.method.update == "adam"
        states, links = [x], list[Link]()
        for k, u in enumerate(controls):
            if keep:
                links.append(self.dynamics.link(x, u, k))
                x = self.dynamics.leave(links[-1].after.detach(), u)
            else:
                x = self.dynamics.move(x, u, k)
            states.append(x)
        return Trajectory(states, controls, links if keep else None)

    def _evaluate(
        self,
        trajectory: Trajectory,
        cost: CostLike | None = None,
        dynamics: Dynamics | None = None,
    ) -> tuple[Tensor, Tensor]:
        """J = C + Σ ½ω‖u‖², NaN where it or the state is not finite, and C, of every row, (b,)."""
        cost = cost or self.cost
        with torch.no_grad():
            signal = (dynamics or self.dynamics).decode(trajectory.states[-1])
            monitor = cost(signal).to(signal.dtype)
            value = monitor
            for weight, u in zip(self.plan.weights, trajectory.controls, strict=True):
                value = value + 0.5 * weight * row_sum(u.square())
            finite = value.isfinite() & flat(trajectory.states[-1]).isfinite().all(1)
        return torch.where(finite, value, torch.nan), monitor

    # ---------------------------------------------------------------- rows

    def _close(self, which: Tensor, status: Status) -> None:
        """Give running rows of a mask (b,) a status, unless they have one."""
        self.record.close(self.rows, which, status)

    def _finish_round(self, moved: Tensor) -> None:
        """Note what a round brought, and let rows go that are done."""
        record = self.record
        record.iterations[self.rows] += moved
        if self.plan.target is not None:
            reached = self.monitor <= self.plan.target[self.rows]
            self._close(reached, Status.TARGET)
        lower = self.value < record.best["value"][self.rows]
        lower = lower | (moved & (record.status[self.rows] == Status.TARGET))
        news = {
            "value": self.value,
            "cost": self.monitor,
            "state": self.at.states[-1],
            "controls": torch.stack(self.at.controls, 1),
        }
        record.improve(self.rows, lower, news)
        record.note(self.rows)
        self._leave()

    def _leave(self) -> Tensor | None:
        """Rows that are done leave; the positions of those that stay, None where none left."""
        kept, gone = partition(self.record.status[self.rows] == Status.RUNNING)
        if len(gone) == 0:
            return None
        self.record.count(self.rows)
        self.rows, self.at = self.rows[kept], self.at.take(kept)
        self.value, self.monitor = self.value[kept], self.monitor[kept]
        self.damping, self.failures = self.damping[kept], self.failures[kept]
        self.averages = [averages.index_select(1, kept) for averages in self.averages]
        self.dynamics, self.cost = self.dynamics.take(kept), cost_rows(self.cost, kept)
        return kept
