r"""Diffusion optimal control: iLQR over the steps of a sampler.

    min_u  C(decode(x_n)) + Σ_k ½ω_k ‖u_k‖²,        x_{k+1} = h_k(x_k + u_k)  or  h_k(x_k) + u_k,

for all steps at once (Li and Pereira, arXiv 2412.16748). Every iteration goes backwards along the
nominal trajectory for the gains k_k, K_k (`ctrlgen.methods.trajectory.riccati`), then forwards,

    u_k ← u_k + λ k_k + K_k (x̂_k − x_k),

with a step λ of each sample's own: from 1, halved until the cost decreases; where it never does,
the regularisation α of that sample grows tenfold. The published code goes forwards otherwise, and
`update="adam"` does so too: one AdamW step of every control with gradient −k_k, feedback added.

With output control, no curvature and α = 1/((σW/α_t)δ), the step to t + δ is Euler's step of the
conditional flow with ∇log p(y|x_n(x_k)): guidance is the first iteration of this method. (In the
diffusion's terms α = 2/(g²Δt) for the probability-flow ODE; the published lemma has half of it, the
scale of the SDE.)

n network evaluations a rollout; n more and n(1 + rank) backward passes a backward pass, except with
"adam", whose rollouts keep their graphs. In all: (1 + iterations + trials) n forward with the
search, (1 + iterations) n with Adam, and iterations · n (1 + rank) backward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

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
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Initializer, SourceSample
from ctrlgen.methods.trajectory.riccati import Curvature, Dense, LowRank, Side
from ctrlgen.methods.trajectory.sweeps import Plan, Sweep
from ctrlgen.methods.trajectory.trajectories import Dynamics
from ctrlgen.optimizers.base import Observer, check_target
from ctrlgen.priors.paths import DiscreteVP, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import Seeds
from ctrlgen.sampling.grids import Grid, Respaced, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["OptimalControl"]

Update = Literal["search", "adam"]
Schedule = Literal["constant", "released"]

_SPAN = 1 - 1e-3  # of diffusion time that the published code covers

_NUMBERS = {  # name: (least, whether it may be that)
    "penalty": (0.0, True),
    "damping": (0.0, True),
    "growth": (1.0, False),
    "learning_rate": (0.0, False),
    "weight_decay": (0.0, True),
    "tolerance": (0.0, True),
}
_COUNTS = {"iterations": 1, "halvings": 0, "power": 0}


@dataclass(frozen=True, kw_only=True)
class OptimalControl(Method):
    """iLQR with low-rank, dense or no curvature.

    Args:
        grid: noise levels; one control a step.
        rule: step of the sampler; the noise of stochastic ones is frozen.
        clock: path on which the prior is read; None for its own.
        initializer: source point, which stays; a draw from the source by default.
        side: "input", controls are added before the network, or "output", after it.
        rank: of the value function's curvature; 0 is first order, None all of it (small states).
        power: power iterations that find the terminal curvature.
        penalty: ω, weight of the controls.
        schedule: "constant" ω, or as "released", for a clock that is a table: ω √(a/(1−a))/Δ²,
            a = 1 − β at the index ⌊τ(N − 1)⌋, where τ are the first n times of n + 1 from 1 to
            0.001, and Δ = 0.999/(n + 1), wherever the grid evaluates the network.
        damping: α, regularisation of Q_uu, to begin with.
        growth: factor of α where no step length lowers the cost, > 1.
        iterations: backward and forward passes, >= 1.
        halvings: of the step length, at most.
        update: "search", or "adam" as in the published code.
        learning_rate: of "adam".
        weight_decay: of "adam".
        clip: bound of |x̂| in every step, or None.
        target: a sample stops when its cost (without the penalty) is at most this.
        tolerance: a sample has converged when no entry of any Q_u is larger than this.
        vectorized: pull all columns back in one call under vmap; False for networks that cannot.
        dtype: of states.
        device: of states; the network's by default.

    Raises:
        TypeError: if a part is of another kind than its name says.
        ValueError: for an option out of its range.
    """

    control: ClassVar[str] = "every step, whole trajectory"
    needs: ClassVar[str] = "a gradient; two for a rank > 0"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "grid": Respaced(20),
            "rule": DDIM(1.0),
            "clock": ddpm(),
            "rank": 0,
            "penalty": penalty,
            "schedule": "released",
            "iterations": 50,
            "update": "adam",
            "learning_rate": rate,
            "clip": 1.0,
        }
        for name, rate, penalty in (
            ("released", 5e-3, 1e-6),
            ("released-gaussian-blur", 1e-2, 1e-5),
            ("released-nonlinear", 1e-2, 1e-6),
        )
    }
    """The published code's settings, for its cost ‖H(x) − y‖ (not squared): 20 states, 19 steps."""

    grid: Grid = field(default_factory=lambda: Uniform(20))
    rule: StepRule = field(default_factory=DDIM)
    clock: Path | None = None
    initializer: Initializer = field(default_factory=SourceSample)
    side: Side = "input"
    rank: int | None = 4
    power: int = 1
    penalty: float = 1e-3
    schedule: Schedule = "constant"
    damping: float = 1e-3
    growth: float = 10.0
    iterations: int = 20
    halvings: int = 20
    update: Update = "search"
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    clip: float | None = None
    target: float | None = None
    tolerance: float = 1e-7
    vectorized: bool = True
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_parts(self, grid=Grid, rule=StepRule, initializer=Initializer)
        check_clock(self.clock)
        for name, words in (("side", Side), ("schedule", Schedule), ("update", Update)):
            if getattr(self, name) not in get_args(words):
                got = getattr(self, name)
                raise ValueError(f"{name}: expected one of {get_args(words)}, got {got!r}")
        for name, (least, allowed) in _NUMBERS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > least or (allowed and value == least))):
                sign = ">=" if allowed else ">"
                raise ValueError(f"{name}: expected a finite number {sign} {least}, got {value}")
        counts = _COUNTS if self.rank is None else {**_COUNTS, "rank": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
        if self.rank is not None and self.penalty == self.damping == 0:
            raise ValueError("penalty, damping: one must be > 0 unless rank is None, got 0 and 0")
        check_clip(self.clip)
        check_dtype(self.dtype)

    def weights(self, dynamics: Dynamics) -> list[float]:
        """ω of every step.

        Raises:
            ValueError: for the released schedule on a clock that is no table.
        """
        if self.schedule == "constant":
            return [self.penalty] * dynamics.steps
        path = dynamics.prior.flow.path
        if not isinstance(path, DiscreteVP):
            raise ValueError(f"schedule: 'released' needs a DiscreteVP clock, got {path}")
        n, betas = dynamics.steps, path.betas
        taus = [1 - k * _SPAN / n for k in range(n)]
        beta = [float(betas[int(tau * (len(betas) - 1) + 1e-9)]) for tau in taus]
        return [self.penalty * math.sqrt(1 / b - 1) / (_SPAN / (n + 1)) ** 2 for b in beta]

    def curvature(self) -> Curvature:
        return Dense() if self.rank is None else LowRank(self.rank, self.power)

    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Run; see `Method`."""
        rows, z = first_points(prior, seeds, self.dtype, self.device)
        given, prior = prior, prior.on(self.clock)
        levels = self.grid(prior.flow.path)
        dynamics = Dynamics(prior, levels, self.rule, rows, self.side, self.clip)
        weights = self.weights(dynamics)
        target = check_target(self.target, z)
        check_levels(prior, levels)
        try_cost(prior, cost, z, self.target)
        if self.rank != 0:
            _try_twice(prior, cost, z)
        counted, meter = given.metered(rows)
        dynamics.prior = counted.on(self.clock)
        # the source is the same on every clock, the times of an initializer are those of its own
        x0 = self.initializer.first_points(counted, measurement_of(cost), rows, z).detach()
        first = levels[0]
        x0 = (first.alpha**2 + first.sigma**2) ** 0.5 * x0
        plan = Plan(self, self.curvature(), weights, target, observer)
        result = Sweep(plan, dynamics, cost, x0, meter).run()
        result.method = repr(self)
        return result


def _try_twice(prior: Prior, cost: CostLike, x0: Tensor) -> None:
    """Raise CostError where the cost cannot be differentiated twice."""

    def slope(x: Tensor) -> tuple[Tensor, Tensor]:
        state = x.detach().requires_grad_()
        value = cost(prior.codec.decode(state)).sum()
        return state, torch.autograd.grad(value, state, create_graph=True)[0]

    hint = "cost: curvature needs two derivatives; use rank=0 where there is one"
    with torch.enable_grad():
        try:
            state, gradient = slope(x0)
            if gradient.requires_grad:
                torch.autograd.grad(gradient.sum(), state, allow_unused=True)
                return
        except RuntimeError as error:
            raise CostError(f"{hint}: {error}") from error
        # No graph: the cost is linear, or its gradient hides that it depends on the signal.
        other = slope(x0 + 1)[1]
        finite = gradient.isfinite() & other.isfinite()  # a row that is not says nothing
        if not torch.equal(torch.where(finite, gradient, 0), torch.where(finite, other, 0)):
            raise CostError(hint)
