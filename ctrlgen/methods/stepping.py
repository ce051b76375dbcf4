r"""Methods that walk once down the noise levels: one state per sample, one update per step.

    x ← start,   then for every pair of levels (t, s) of the grid:   x ← update(run, x, step)

`SteppedMethod` does all that such methods share, so that a method writes its `update` only
(`RuledMethod` adds the step rule and the bound of x̂):

- it reads the prior on the method's `clock` (`Flow.on`; None leaves the prior's own path), builds
  the levels of the `grid`, and checks prior, cost, seeds and needs before any compute;
- it starts from the source, x = √(α² + σ²) z, or guided by the measurement, x = α H†y + σ z;
- it keeps states where the source has them (masks, centre of mass), by its projection;
- it keeps a row that is no longer finite at its last finite state, marks it DIVERGED and leaves
  its neighbours alone;
- it tells the observer after every step, and returns a `Result`.

An update sees a `Run`: the prior on the clock, the cost, the measurement, the seeds and the
levels, what is computed from them (`predict`, `noise`, `decode`), and in `run.state` what the
method itself keeps from step to step, of the type S that `begin` returns. Rows never interact.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_clip,
    check_clock,
    check_dtype,
    check_levels,
    check_parts,
    first_points,
    measurement_of,
    try_cost,
)
from ctrlgen.methods.progress import History
from ctrlgen.methods.result import Result
from ctrlgen.methods.run import Run
from ctrlgen.operators.base import LinearOperator
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, flat
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.grids import Grid, Uniform
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["RuledMethod", "Run", "Start", "SteppedMethod", "check_rule"]

Start = Literal["source", "guided"]
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class SteppedMethod(Method, Generic[S]):
    """Base of the methods that update one state per sample from noise to data.

    Subclasses implement `update`; they may extend `check` (before any compute), `begin` (what they
    keep between steps) and `finish` (after the last step).

    Args:
        grid: noise levels to visit.
        clock: path on which the prior is read, e.g. `DiscreteVP.linear()`; None for its own.
        start: "source" for noise alone, "guided" for α H†y + σ z.
        dtype: of states.
        device: of states; the network's by default.

    Raises:
        TypeError: if a part is of another kind than its name says.
        ValueError: for a start that is not known, or a dtype that is no floating point one.
    """

    needs: ClassVar[str] = "a gradient"
    needs_linear: ClassVar[bool] = False
    """Whether the cost must have a measurement with a linear operator."""
    needs_measurement: ClassVar[bool] = False
    """Whether the cost must have a measurement."""
    needs_signal: ClassVar[bool] = False
    """Whether the first level must have α > 0."""

    grid: Grid = field(default_factory=Uniform)
    clock: Path | None = None
    start: Start = "source"
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, grid=Grid)
        check_clock(self.clock)
        if self.start not in ("source", "guided"):
            raise ValueError(f"start: expected 'source' or 'guided', got {self.start!r}")
        check_dtype(self.dtype)

    # ---------------------------------------------------------------- what a method writes

    @abstractmethod
    def update(self, run: Run[S], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            run: prior, cost, seeds, levels, `run.state`; `t, s = run.at(step)`.
            x: states at level t, shape (B, *), finite and detached.
            step: number of the step, from 0.

        Returns:
            The states at level s, and a cost (B,) to report: that of x̂, which the update has
            evaluated anyway. A row that is not finite in the first ends there.
        """

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        """Raise before any evaluation of the network where the problem lacks what is needed.

        The base checks the cost's contract and what `start` and the `needs_...` flags ask for.

        Args:
            prior: read on the method's clock.
            cost: of all samples.
            x0: source points of all samples, shape (B, *).
        """
        measurement = measurement_of(cost)
        name = type(self).__name__
        if measurement is None and (self.needs_linear or self.needs_measurement):
            raise ValueError(f"cost: {name} needs one with a measurement (operator and y)")
        if self.needs_linear:
            assert measurement is not None
            if not isinstance(measurement.operator, LinearOperator):
                raise ValueError(
                    f"cost: {name} needs a linear operator, got "
                    f"{type(measurement.operator).__name__}"
                )
        if self.start == "guided" and measurement is None:
            raise ValueError(
                "start: 'guided' needs a cost with a measurement (operator and y); use 'source'"
            )
        try_cost(prior, cost, x0)

    def begin(self, run: Run[S], z: Tensor) -> S:
        """What the method keeps from step to step, `run.state` from now on; nothing by default.

        Args:
            run: as in `update`, but without a state.
            z: source points, shape (B, *), in the dtype and on the device of states.
        """
        return cast(S, None)

    def finish(self, run: Run[S], x: Tensor) -> Tensor:
        """The final states from those of the last level; the same by default."""
        return x

    def controls(self, run: Run[S], x: Tensor) -> Tensor:
        """What `Result.controls` holds, shape (B, *); the final states by default."""
        return x

    # ---------------------------------------------------------------- what they share

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`."""
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        prior = prior.on(self.clock)
        levels = self.grid(prior.flow.path)
        if self.needs_signal and levels[0].alpha == 0:
            raise ValueError(
                f"grid: {type(self).__name__} needs α > 0 at the first level, got α = 0 at "
                f"t = {levels[0].time}; start later, or on another clock"
            )
        check_levels(prior, levels)
        self.check(prior, cost, z)
        prior, meter = prior.metered(rows)
        run: Run[S] = Run(prior, cost, measurement_of(cost), rows, levels)
        run.rule, run.clip = getattr(self, "rule", run.rule), getattr(self, "clip", None)
        history = History(z, meter)
        walk = _Walk(z, torch.ones_like(rows, dtype=torch.bool))

        def result(samples: Tensor, costs: Tensor, finished: bool) -> Result:
            return Result(
                samples=samples,
                controls=self.controls(run, walk.x),
                costs=costs,
                status=history.status(walk.alive, finished),
                seeds=rows,
                iterations=history.iterations,
                **history.counts,
                network=meter.total,
                history=history.tables(),
                method=repr(self),
            )

        def partial(_: object) -> Result:
            """As it stands in the middle of the walk, with the costs that updates reported."""
            with torch.no_grad():
                return result(run.prior.codec.decode(walk.x), history.cost, finished=False)

        with carrying(partial):
            run.state = self.begin(run, z)
            walk.go(run.project(self.first_state(run, z).detach()))
            for step in range(len(levels) - 1):
                new, value = self.update(run, walk.x, step)
                walk.go(run.project(new.detach()))
                history.write(walk.alive, value.detach(), run.objective_calls)
                if observer is not None:
                    observer(history.event(walk.alive))
            walk.go(self.finish(run, walk.x).detach())
            with torch.no_grad():
                samples = run.decode(walk.x)
                costs = run.judge(samples)
            walk.alive = walk.alive & costs.isfinite()
            history.write(walk.alive, costs, run.objective_calls, last=True)
        return result(samples, costs, finished=True)

    def first_state(self, run: Run[S], z: Tensor) -> Tensor:
        """The state at the first level from source points z (B, *), by `start`.

        Raises:
            ValueError: for a guided start with an operator that has no pseudo-inverse.
        """
        level = run.levels[0]
        if self.start == "source":
            return (level.alpha**2 + level.sigma**2) ** 0.5 * z
        assert run.measurement is not None  # `check` has seen to it
        with torch.no_grad():
            try:
                proxy = run.measurement.operator.pinv(run.measurement.y.to(z))
            except NotImplementedError as error:
                raise ValueError(f"start: 'guided' needs a pseudo-inverse; {error}") from error
            return level.alpha * run.prior.codec.encode(proxy) + level.sigma * z


@dataclass
class _Walk:
    """Where the rows of a run are.

    Attributes:
        x: their last finite states, shape (B, *).
        alive: those that are still finite, bool, shape (B,).
    """

    x: Tensor
    alive: Tensor

    def go(self, new: Tensor) -> None:
        """Rows that stay finite go on; the others keep their last finite state for good."""
        self.alive = self.alive & flat(new).isfinite().all(1)
        self.x = torch.where(expand_like(self.alive, new), new, self.x)


@dataclass(frozen=True, kw_only=True)
class RuledMethod(SteppedMethod[S]):
    """A stepped method that takes its steps by a rule; `run.move` and `run.clipped` use it.

    Args:
        rule: step from one level to the next.
        clip: bound of |x̂| in every step, e.g. 1 for images in [−1, 1]; None for none.

    Raises:
        TypeError: for a rule that is none.
        ValueError: for a bound that is not positive.
    """

    rule: StepRule = field(default_factory=DDIM)
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule)
        check_clip(self.clip)


def check_rule(rule: StepRule) -> None:
    """Raise for what is no rule of one prediction.

    Raises:
        TypeError: if it is no rule at all.
        ValueError: if it evaluates the network twice in a step, as guidance does not.
    """
    if not isinstance(rule, StepRule):
        raise TypeError(f"rule: expected a StepRule, got {rule!r}")
    if rule.evaluations != 1:
        raise ValueError(f"rule: expected one of a single prediction, as DDIM, got {rule}")
