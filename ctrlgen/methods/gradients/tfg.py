r"""Training-free guidance, one implementation of a family (Ye et al., TFG, arXiv 2409.15761).

With the energy E of a denoised state (the cost, or a norm) and Gaussian smoothing of width σ̄,

    log f̃(x̂) = log (1/M) Σ_m exp(−E(x̂ + σ̄_t δ_m)),    δ_m ~ N(0, I),

a step from t to s, `recurrences` times, is

    Δ_var  = ρ_t ∇_{x_t} log f̃(x̂(x_t))                            (through the network)
    Δ_mean = `iterations` ascent steps μ_t ∇_{x̂} log f̃ from x̂      (not through the network)
    x_s    = rule(x̂ + Δ_mean, ε̂) + (α_s/α_t or 1) Δ_var
    x_t    ← x_s brought back by fresh noise, before the next recurrence,

where ε̂ stays what it was before guidance; a bound of x̂ comes before both, and ε̂ is then that of
the bounded x̂. Guidance may enter through the noise instead (`enters="noise"`),

    ε̂' = ε̂ − σ_t ρ_t ∇_{x_t} log f̃ − (α_t/σ_t) Δ_mean,     x_s = rule((x_t − σ_t ε̂')/α_t, ε̂'),

so that with b the rule's weight of ε̂ the two come to x_s with (α_s σ_t/α_t − b) σ_t ρ_t and
α_s − b α_t/σ_t. The special cases (their update rules are this one's):

    DPS      ρ only, E = ‖Hx̂ − y‖          (Chung et al., arXiv 2209.14687)
    LGDMC    ρ and smoothing, M draws      (Song et al., ICML 2023)
    FreeDoM  ρ with recurrences            (Yu et al., arXiv 2303.09833)
    MPGD     μ only, one iteration         (He et al., arXiv 2311.16424)
    UGD      ρ and μ through the noise     (Bansal et al., arXiv 2302.07121)

Strengths go by `ctrlgen.methods.gradients.schedules`.

Evaluations per step: `recurrences`; as many vjps where ρ is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ctrlgen.methods.base import CostForm, CostLike
from ctrlgen.methods.gradients.schedules import Schedule, Strengths, schedule_weights
from ctrlgen.methods.stepping import RuledMethod, Run
from ctrlgen.optimizers.base import Projection
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like, row_sum
from ctrlgen.sampling.fresh import back, renoise
from ctrlgen.sampling.grids import DDPMUniform, Grid, Level, ddpm
from ctrlgen.sampling.steps import DDIM, StepRule

__all__ = ["TFG", "Energy", "residual_norm"]

Energy = Literal["cost", "norm", "ratio"]
Enters = Literal["step", "noise"]

_TINY = 1e-24  # under a root, where its derivative would be infinite


def residual_norm(cost: CostLike, signal: Tensor) -> Tensor:
    """‖Hx − y‖ of a cost that compares with a measurement, the root of any other, shape (B,)."""
    residual = getattr(cost, "residual", None)
    square = cost(signal) if residual is None else row_sum(residual(signal).square())
    return square.clamp_min(_TINY).sqrt()


@dataclass(frozen=True, kw_only=True)
class TFG(RuledMethod[Strengths]):
    """Guidance by gradients at the state and at its denoised estimate, with all its parameters.

    Args:
        rho: ρ >= 0, strength at x_t; 0 spares the backward pass through the network.
        mu: μ >= 0, strength at x̂.
        rho_schedule: of ρ over the steps.
        mu_schedule: of μ.
        gamma: σ̄ >= 0, width of the smoothing; 0 for none.
        gamma_schedule: "decrease" for γ̄ √(1 − ᾱ_t), or "constant".
        draws: M >= 1, of the smoothing; the same for all gradients of a recurrence.
        iterations: N_iter >= 1, ascent steps at x̂.
        recurrences: N_recur >= 1, of each step within `recur_within`.
        recur_within: share of the run, (from, to) in [0, 1], in which steps recur.
        guide_within: share of the run in which there is guidance.
        energy: "cost": the cost itself. "norm": ‖Hx̂ − y‖, or the root of a cost without a
            measurement. "ratio": twice that, whose gradient is ∇‖Hx̂ − y‖²/‖Hx̂ − y‖.
        enters: where guidance enters, "step" (TFG) or "noise" (UGD), see the module.
        carry: carry Δ_var, a change of x_t, to x_s by α_s/α_t (TFG), or add it as it is.
        relative: scale Δ_var of each row to ρ_t times the root mean square of c (σ_t/α_t) ε̂, what ε̂
            takes from an ancestral step; c = α_s (1 − (σ_s α_t/α_s σ_t)²) is the weight of x̂ there.
        largest: gradients of a row whose mean square over its entries, padding not counted, is more
            than this are multiplied by `largest` over that mean square (TFG's code for molecules);
            None for no bound.
        manifold: applied to x̂ + Δ_mean, e.g. decode(encode(·)) of an autoencoder; None for none.
        clip: bound of |x̂|, before guidance, with the ε̂ that belongs to it.

    Raises:
        ValueError: for numbers out of range or names that are not known.
    """

    control: ClassVar[str] = "state and denoised state, by gradients"
    cost_form: ClassVar[CostForm] = "squared"
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "deblur": {"rho": 1.0, "mu": 8.0, "gamma": 0.01, "iterations": 4, "clip": 1.0},
        "sr4": {"rho": 4.0, "mu": 2.0, "gamma": 0.01, "iterations": 4, "clip": 1.0},
        "molecule-property": {
            "rho": 0.001,
            "mu": 0.002,
            "gamma": 0.1,
            "iterations": 4,
            "mu_schedule": "decrease",
            "largest": 100.0,
        },
    }

    grid: Grid = field(default_factory=lambda: DDPMUniform(100))
    clock: Path | None = field(default_factory=ddpm)
    rule: StepRule = field(default_factory=lambda: DDIM(1.0))
    rho: float = 1.0
    mu: float = 1.0
    rho_schedule: Schedule = "increase"
    mu_schedule: Schedule = "increase"
    gamma: float = 0.0
    gamma_schedule: Literal["decrease", "constant"] = "decrease"
    draws: int = 1
    iterations: int = 1
    recurrences: int = 1
    recur_within: tuple[float, float] = (0.0, 1.0)
    guide_within: tuple[float, float] = (0.0, 1.0)
    energy: Energy = "cost"
    enters: Enters = "step"
    carry: bool = True
    relative: bool = False
    largest: float | None = None
    manifold: Projection | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "mu", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        for name in ("draws", "iterations", "recurrences"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        known = {
            "rho_schedule": get_args(Schedule),
            "mu_schedule": get_args(Schedule),
            "gamma_schedule": ("decrease", "constant"),
            "energy": get_args(Energy),
            "enters": get_args(Enters),
        }
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name}: expected one of {names}, got {getattr(self, name)!r}")
        for name in ("recur_within", "guide_within"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name}: expected 0 <= from <= to <= 1, got {low, high}")
        if self.relative and self.enters == "noise":
            raise ValueError("relative: is known for enters='step' only, got enters='noise'")
        if self.largest is not None and not self.largest > 0:
            raise ValueError(f"largest: expected a positive number or None, got {self.largest}")
        if self.manifold is not None and not callable(self.manifold):
            raise TypeError(f"manifold: expected a function of states, got {self.manifold!r}")

    def check(self, prior: Prior, cost: CostLike, x0: Tensor) -> None:
        super().check(prior, cost, x0)
        carries = (self.rho and (self.carry or self.relative)) or self.enters == "noise"
        if (carries or "inverse" in (self.rho_schedule, self.mu_schedule)) and self.grid(
            prior.flow.path
        )[0].alpha == 0:
            raise ValueError(
                f"grid: {type(self).__name__} needs α > 0 at the first level, got α = 0; "
                "start later, or on another clock"
            )
        if self.energy != "cost" and not hasattr(cost, "residual"):
            with torch.no_grad():
                lowest = float(cost(prior.codec.decode(x0)).min())
            if lowest < 0:
                raise ValueError(
                    f"cost: energy {self.energy!r} takes the root of a cost that is never "
                    f"negative, got {lowest}; use energy='cost' or a squared error"
                )

    def begin(self, run: Run[Strengths], z: Tensor) -> Strengths:
        kinds = ((self.rho, self.rho_schedule), (self.mu, self.mu_schedule))
        return Strengths(
            *([most * w for w in schedule_weights(kind, run.levels)] for most, kind in kinds)
        )

    def update(self, run: Run[Strengths], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, s = run.at(step)
        share = step / (len(run.levels) - 1)
        guided = _within(share, self.guide_within)
        rho, mu = (run.state.rho[step], run.state.mu[step]) if guided else (0.0, 0.0)
        rounds = self.recurrences if _within(share, self.recur_within) else 1
        for turn in range(rounds):
            draw = turn * (self.draws + 2)  # this turn's draws: the step's, the way back's, M δ's
            deltas = self._deltas(run, x, step, draw + 2)
            data, noise, slope = self._predict(run, x, t, deltas, bool(rho))
            better = self._ascend(run, data, deltas, mu)
            if self.enters == "noise":
                noise = noise - t.alpha / t.sigma * (better - data)
                if slope is not None:
                    noise = noise + t.sigma * rho * slope
                    better = better - t.sigma**2 / t.alpha * rho * slope
            new = run.move(better, noise, step, draw)
            if slope is not None and self.enters == "step":
                scale: Tensor | float = s.alpha / t.alpha if self.carry else 1.0
                if self.relative:
                    own = s.alpha * (1 - (s.ratio / t.ratio) ** 2) * t.ratio
                    scale = scale * expand_like(own * _norm(noise) / _norm(slope), x)
                new = new - scale * rho * slope
            new = run.project(new)
            if turn + 1 < rounds:
                x = renoise(new, s, t, run.fresh(back(s, t), step, better, draw + 1))
        with torch.no_grad():
            return new, run.value(data)

    def _predict(
        self, run: Run, x: Tensor, t: Level, deltas: list[Tensor], through: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x̂, ε̂ and, through the network, ∇_{x_t} E; all detached."""
        if not through:
            with torch.no_grad():
                seen = run.predict(x, t).clipped(self.clip)
                return seen.data, seen.noise, None
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            seen = run.predict(x, t).clipped(self.clip)
            (slope,) = torch.autograd.grad(self._smoothed(run, seen.data, deltas).sum(), x)
        return seen.data.detach(), seen.noise.detach(), self._bounded(run, slope)

    def _ascend(self, run: Run, data: Tensor, deltas: list[Tensor], mu: float) -> Tensor:
        """x̂ + Δ_mean, on the manifold."""
        for _ in range(self.iterations if mu else 0):
            with torch.enable_grad():
                data = data.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self._smoothed(run, data, deltas).sum(), data)
            data = data.detach() - mu * self._bounded(run, slope)
        return data if self.manifold is None else self.manifold(data).detach()

    def _smoothed(self, run: Run, data: Tensor, deltas: list[Tensor]) -> Tensor:
        """−log f̃ of denoised states, shape (B,)."""
        if not deltas:
            return self._energy(run, data)
        energies = torch.stack([self._energy(run, data + delta) for delta in deltas])
        return math.log(len(deltas)) - torch.logsumexp(-energies, 0)

    def _energy(self, run: Run, data: Tensor) -> Tensor:
        match self.energy:
            case "cost":
                return run.value(data)
            case "norm":
                return residual_norm(run.cost, run.decode(data))
            case _:
                return 2 * residual_norm(run.cost, run.decode(data))

    def _deltas(self, run: Run, x: Tensor, step: int, draw: int) -> list[Tensor]:
        """σ̄_t δ_m of one turn; none without smoothing."""
        t = run.levels[step]
        width = self.gamma
        if self.gamma_schedule == "decrease":
            width *= t.sigma / math.hypot(t.alpha, t.sigma)
        return [width * run.noise(step, x, draw + m) for m in range(self.draws) if width]

    def _bounded(self, run: Run, slope: Tensor) -> Tensor:
        """g · min(ms, largest)/ms of each row of a gradient g, ms its mean square."""
        if self.largest is None:
            return slope
        mean = row_sum(slope.square()) / run.prior.source.entries(slope)
        return slope * expand_like((self.largest / mean.clamp_min(_TINY)).clamp_max(1), slope)


def _within(share: float, window: tuple[float, float]) -> bool:
    return window[0] <= share < window[1] or share == window[0] == window[1]


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, shape (B,), never zero."""
    return row_sum(x.square()).sqrt().clamp_min(_TINY)
