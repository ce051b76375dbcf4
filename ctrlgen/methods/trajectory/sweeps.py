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
from ctrlgen.methods.trajectory.riccati import Curvature, Gains
from ctrlgen.methods.trajectory.trajectories import Dynamics, Link, Trajectory, last_finite
from ctrlgen.optimizers.base import Event, Observer
from ctrlgen.optimizers.first_order import Adam
from ctrlgen.rows.batching import expand_like, flat, partition, row_sum
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
        self.meter = meter
        self.plan, self.dynamics, self.cost = plan, dynamics, cost
        self.whole, self.seeds = cost, dynamics.seeds
        self.everyone = dynamics
        self.shape = x0.shape[1:]
        count = len(x0)
        self.rows = torch.arange(count, device=x0.device)
        self.damping = x0.new_full((count,), plan.method.damping)
        self.failures = torch.zeros_like(self.rows)
        self.status = torch.zeros_like(self.rows)
        self.iterations, self.calls = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self.counts = {
            name: torch.zeros_like(self.rows)
            for name in ("evaluations", "backward_passes", "objective_calls")
        }
        self.tables: dict[str, list[Tensor]] = {
            name: [] for name in ("value", "cost", "evaluations", "objective_calls")
        }
        still = [torch.zeros_like(x0)] * dynamics.steps
        averages = flat(x0).new_zeros(_ADAM.moments, *flat(x0).shape)
        self.averages = [averages] * dynamics.steps  # of the gradients at every step, (2, b, d)
        self.at = self._rollout(x0, still)
        self.calls += 1
        self.value, self.monitor = self._evaluate(self.at)
        self.best = {
            "value": self.value.nan_to_num(nan=torch.inf),
            "cost": self.monitor.clone(),
            "state": last_finite(self.at),
            "controls": torch.stack(self.at.controls, 1),
        }

    def run(self) -> Result:
        """All iterations; the method's name is the caller's."""
        with carrying(lambda _: self._result(self.best["cost"])):
            self._iterate()
        self.status[self.rows] = int(Status.MAX_ITERATIONS)
        with torch.no_grad():
            samples = self.everyone.decode(self.best["state"])
            costs = self.whole(samples).to(samples.dtype)
            self.status = torch.where(costs.isfinite(), self.status, int(Status.DIVERGED))
            return self._result(costs)

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
                self._note()
                break
            gains = [gain.take(kept) for gain in gains] if kept is not None else gains
            moved = (
                self._search(gains) if self.plan.method.update == "search" else self._adam(gains)
            )
            self._finish_round(moved)

    def _result(self, costs: Tensor) -> Result:
        with torch.no_grad():
            samples = self.everyone.decode(self.best["state"])
        return Result(
            samples=samples,
            controls=self.best["controls"],
            costs=costs,
            status=self.status,
            seeds=self.seeds,
            iterations=self.iterations,
            evaluations=self.counts["evaluations"],
            backward_passes=self.counts["backward_passes"],
            objective_calls=self.counts["objective_calls"],
            network=self.meter.total,
            history={name: torch.stack(table) for name, table in self.tables.items()},
        )

    # ---------------------------------------------------------------- backward

    def _backward(self) -> list[Gains]:
        """The gains of every step along the nominal trajectory."""
        method, at = self.plan.method, self.at
        end = at.states[-1]
        d = flat(end).shape[1]
        directions = self.plan.curvature.directions(d)
        with torch.enable_grad():
            state = end.detach().requires_grad_()
            self.calls[self.rows] += 1
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

        draws = self._draws(flat(end))
        value = self.plan.curvature.terminal(flat(slope.detach()), product, draws)
        gains: list[Gains] = []
        for k in reversed(range(self.dynamics.steps)):
            link = at.links[k] if at.links is not None else None
            if link is None:
                link = self.dynamics.link(at.states[k], at.controls[k], k)
            gain, value = self.plan.curvature.step(
                value,
                partial(link.pull, vectorized=method.vectorized),
                flat(at.controls[k]),
                self.plan.weights[k],
                self.damping,
                method.side,
            )
            gains.append(gain)
        if at.links is not None:
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
            self.calls[self.rows[pending]] += 1
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
        clock = self.iterations[self.rows].unsqueeze(1) + 1
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
        self.calls[self.rows] += 1
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
        now = self.status[self.rows]
        self.status[self.rows] = torch.where(which & (now == Status.RUNNING), int(status), now)

    def _finish_round(self, moved: Tensor) -> None:
        """Note what a round brought, and let rows go that are done."""
        self.iterations[self.rows] += moved
        if self.plan.target is not None:
            reached = self.monitor <= self.plan.target[self.rows]
            self._close(reached, Status.TARGET)
        best = self.best
        lower = self.value < best["value"][self.rows]
        lower = lower | (moved & (self.status[self.rows] == Status.TARGET))
        news = {
            "value": self.value,
            "cost": self.monitor,
            "state": self.at.states[-1],
            "controls": torch.stack(self.at.controls, 1),
        }
        for name, new in news.items():
            old = best[name][self.rows]
            best[name][self.rows] = torch.where(expand_like(lower, new), new, old)
        self._note()
        self._leave()

    def _count(self) -> None:
        """What was spent on the rows that run; what a row has spent when it leaves stays."""
        spent = {
            "evaluations": self.meter.evaluations,
            "backward_passes": self.meter.backward_passes,
            "objective_calls": self.calls,
        }
        for name, count in spent.items():
            self.counts[name][self.rows] = count[self.rows]

    def _note(self) -> None:
        self._count()
        news = {**self.best, **self.counts}
        for name, table in self.tables.items():
            table.append(news[name].clone())
        if self.plan.observer is not None:
            rows = (self.status == Status.RUNNING).nonzero().squeeze(1)
            latest = {name: table[-1] for name, table in self.tables.items()}
            event = Event(
                round=len(self.tables["value"]),
                rows=rows,
                value=latest["value"],
                monitor=latest["cost"],
                iterations=self.iterations.clone(),
                calls=latest["objective_calls"],
                status=self.status.clone(),
                evaluations=latest["evaluations"],
            )
            self.plan.observer(event)

    def _leave(self) -> Tensor | None:
        """Rows that are done leave; the positions of those that stay, None where none left."""
        kept, gone = partition(self.status[self.rows] == Status.RUNNING)
        if len(gone) == 0:
            return None
        self._count()
        self.rows, self.at = self.rows[kept], self.at.take(kept)
        self.value, self.monitor = self.value[kept], self.monitor[kept]
        self.damping, self.failures = self.damping[kept], self.failures[kept]
        self.averages = [averages.index_select(1, kept) for averages in self.averages]
        self.dynamics, self.cost = self.dynamics.take(kept), cost_rows(self.cost, kept)
        return kept
