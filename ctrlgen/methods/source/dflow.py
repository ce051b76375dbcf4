r"""D-Flow: optimise the source point through the flow (Ben-Hamu et al., arXiv 2402.14017).

    x_0* = argmin_{x_0}  C(Φ(x_0)) + R(x_0, u),      x = decode(Φ(x_0)),

Φ the ODE dx/dt = u_t(x) from t = 0 to 1, C any cost of the signal, R a regularizer of the source
(Algorithm 1, eqs 1-4). The gradient passes through the solver's steps: along the tangent directions
of the data the chain of Jacobians I + h(aI + γ Var[x_1|x]) stretches, elsewhere it annihilates
(Theorem 4.2), so even without R the optimiser moves along the data.

A noisy measurement is not to be fitted to the end: the run of a sample stops at its target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import (
    CostLike,
    Method,
    check_dtype,
    check_parts,
    first_points,
    measurement_of,
    try_cost,
)
from ctrlgen.methods.regularizers import Chi, Regularizer
from ctrlgen.methods.result import Result
from ctrlgen.methods.source.objective import SourceObjective, check_squares
from ctrlgen.methods.starts import Blend, Initializer, SourceSample
from ctrlgen.optimizers import LBFGS
from ctrlgen.optimizers.base import (
    Evaluated,
    Objective,
    Observer,
    Optimizer,
    Projection,
    Solution,
    check_target,
)
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, flat, rows_of
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.errors import carrying
from ctrlgen.rows.seeds import Seeds
from ctrlgen.solvers import Midpoint, Solver

__all__ = ["PRESETS", "DFlow"]

Descend = Literal["cost", "squares"]


def _preset(
    target: float, noisy: bool, blend: float = 0.1, iterations: int = 400
) -> dict[str, Any]:
    return {
        "initializer": Blend(blend),
        "target": target,
        "regularizer": Chi(0.01) if noisy else None,
        "optimizer": LBFGS(max_iterations=iterations),
    }


PRESETS: dict[str, dict[str, Any]] = {
    "inpaint": _preset(-45, noisy=False),
    "inpaint-noisy": _preset(-32, noisy=True),
    "sr2": _preset(-55, noisy=False),
    "sr2-noisy": _preset(-32, noisy=True),
    "deblur": _preset(-55, noisy=False),
    "deblur-noisy": _preset(-32, noisy=True),
    "denoise": _preset(-32, noisy=True),
    "latent-inpaint": {
        **_preset(-45, noisy=False, blend=0.25),
        "solver": Midpoint(3, gradient="checkpoint"),
    },
    "audio": {
        "initializer": Blend(0.1),
        "optimizer": LBFGS(max_iterations=1000),
        "solver": Midpoint(3, gradient="checkpoint"),
    },
    "molecule-property": {
        "solver": Midpoint(50, gradient="checkpoint"),
        "optimizer": LBFGS(max_iterations=25, restart_every=5),
    },
}
"""Settings of the paper's Table 6 (images: target PSNR 45 / 55 dB noiseless, 32 dB at noise 0.05 in
[−1, 1]; 400 iterations in place of its time limits). Molecule runs add their domain's projection.
"""


@dataclass(frozen=True, kw_only=True)
class DFlow(Method):
    """Optimises the source point of every sample through the flow.

    Args:
        solver: of the flow; its `gradient` says how to differentiate. By default three midpoint
            steps on the prior's grid, the six evaluations of the paper's image and audio runs.
        optimizer: per-sample optimiser; L-BFGS with strong-Wolfe search by default.
        regularizer: penalty of the source point, or None.
        initializer: first source point; a draw from the source by default, which also replaces a
            point that is not finite.
        target: a sample stops when its cost (without the regularizer) is at most this, e.g. -45 for
            45 dB of `NegativePSNR`; one number, or one per sample, shape (B,); None for no target.
        descend: "cost", the cost and the regularizer, or "squares", where the cost is a rising
            function of a sum of squares, that sum: −PSNR is compared with the target, ‖Hx − y‖²
            descended. It takes about half as many calls far beyond the noise, as many down to it
            (`benchmarks/fewer_evaluations.py`).
        projection: applied to source points every `optimizer.restart_every` iterations.
        dtype: of states and optimiser.
        device: of states; the network's by default.

    Raises:
        TypeError: if a part is of another kind than its name says.
        ValueError: if the dtype is no floating point one, or a projection comes with an optimizer
            that never restarts.
    """

    control: ClassVar[str] = "source point"
    needs: ClassVar[str] = "a gradient"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    solver: Solver | None = None
    optimizer: Optimizer = field(default_factory=lambda: LBFGS(max_iterations=200))
    regularizer: Regularizer | None = None
    initializer: Initializer = field(default_factory=SourceSample)
    target: float | Tensor | None = None
    descend: Descend = "cost"
    projection: Projection | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, optimizer=Optimizer, initializer=Initializer)
        for name, kind in {"solver": Solver, "regularizer": Regularizer}.items():
            if getattr(self, name) is not None:
                check_parts(self, **{name: kind})
        check_dtype(self.dtype)
        if self.descend not in get_args(Descend):
            raise ValueError(f"descend: expected one of {get_args(Descend)}, got {self.descend!r}")
        if self.projection is not None and self.optimizer.restart_every is None:
            raise ValueError("projection: needs an optimizer with restart_every, got None")

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`. Costs one solve forward and backward per evaluation and sample."""
        solver = self.solver or prior.solver(3)
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        check_target(self.target, z)
        for name in ("regularizer", "projection"):
            held = rows_of(getattr(self, name))
            if held is not None and held != len(rows):
                raise ValueError(f"{name}: holds data of {held} samples, expected {len(rows)}")
        try_cost(prior, cost, z, self.target)
        if self.optimizer.needs_residual:
            check_squares(type(self.optimizer).__name__, "LBFGS()", cost, self.regularizer)
        if self.descend == "squares":
            check_squares("descend='squares'", "descend='cost'", cost, self.regularizer)
        prior, meter = prior.metered(rows)
        initializer = self.initializer.aimed(cost, self.target)
        x0 = initializer.first_points(prior, measurement_of(cost), rows, z)
        source = SourceObjective(prior, cost, solver, self.regularizer, rows, x0)
        source.with_residual = self.optimizer.needs_residual
        source.of_squares = self.descend == "squares"
        objective = MeteredObjective(source, meter)

        def result(found: Solution) -> Result:
            found = replace(found, x=prior.source.project(found.x))
            return source_result(
                found,
                rows,
                objective,
                repr(replace(self, solver=solver)),
                lambda: prior.codec.decode(found.x),
            )

        with carrying(result):
            found = self.optimizer.minimize(
                objective,
                x0,
                target=self.target,
                observer=metered_observer(observer, meter),
                projection=self.projection,
            )
        return result(found)


class MeteredObjective:
    """An objective of a network, with a note of what was spent before every call.

    A row takes part in every call until it leaves, so that its n-th objective call is the n-th of
    the run: the notes tell what the network had done for it after any number of them.
    """

    def __init__(self, objective: Objective, meter: Meter) -> None:
        self.objective, self.meter, self._notes = objective, meter, list[Tensor]()

    def take(self, index: Tensor) -> MeteredObjective:
        taken = copy.copy(self)
        taken.objective = self.objective.take(index)
        return taken

    def __call__(self, x: Tensor) -> Evaluated:
        self._notes.append(self.meter.evaluations)
        return self.objective(x)

    def residuals(self, x: Tensor) -> Tensor:
        """Of the objective: passes that belong to the calls before and after, no call itself."""
        return self.objective.residuals(x)  # type: ignore[attr-defined]

    def evaluations(self, calls: Tensor) -> Tensor:
        """Network evaluations of every row after numbers of objective calls (R, B): (R, B)."""
        return torch.stack([*self._notes, self.meter.evaluations]).gather(0, calls)


def metered_observer(observer: Observer | None, meter: Meter) -> Observer | None:
    """The observer of a run, to whom its events tell the network evaluations as well."""
    if observer is None:
        return None
    return lambda event: observer(event._replace(evaluations=meter.evaluations))


def source_result(
    found: Solution,
    seeds: Tensor,
    objective: MeteredObjective,
    method: str,
    start: Callable[[], Tensor],
) -> Result:
    """The result of an optimizer's solution.

    Args:
        found: the solution for all samples, whose `aux` are the signals.
        seeds: shape (B,).
        objective: what was minimised.
        method: the method and its settings, as text.
        start: gives the signals of the states in which the samples began, shape (B, *), for those
            that never were finite after.
    """
    assert found.aux is not None  # the objective always carries the signal
    meter, calls, samples = objective.meter, found.history["calls"], found.aux
    finite = flat(samples).isfinite().all(1)
    if not bool(finite.all()):
        with torch.no_grad():
            samples = torch.where(expand_like(finite, samples), samples, start())
    history = {
        "value": found.history["value"],
        "cost": found.history["monitor"],
        "evaluations": objective.evaluations(calls),
        "objective_calls": calls,
    }
    return Result(
        samples=samples,
        controls=found.x,
        costs=found.monitor,
        status=found.status,
        seeds=seeds,
        iterations=found.iterations,
        evaluations=meter.evaluations,
        backward_passes=meter.backward_passes,
        objective_calls=found.calls,
        network=meter.total,
        history=history,
        method=method,
    )
