r"""Flow-Priors: local maximum a posteriori along the flow (Zhang et al., ICTM, arXiv 2405.18816).

At every time t of the path the state x is brought to the mode of a local problem by K steps of
Adam, then moves one Euler step, x ← x + h u(x, t). The local problem is

    λ ‖H(x + h u(x, t)) − y_{t+h}‖²  +  h div u(x, t)  −  log p_t(x),     y_t = αy + σ H(x_init):

the look-ahead should measure what a noisy path to the datum would, the divergence is the change of
log-density over the step, and of log p_t only its gradient is used, ∇ log p_t = −ε̂/σ, held fixed
(−x at the first time). It starts at x_init = z, a draw of the source as it is. The divergence is
Hutchinson's v^T(∂u/∂x)v with Rademacher probes of the sample's own, fresh in every step; its
gradient takes a double backward pass.

Evaluations of the network per step: K + 1. Vjps per step: K(1 + 2 · probes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.methods.stepping import Run, SteppedMethod
from ctrlgen.optimizers import Adam
from ctrlgen.optimizers.first_order import FirstOrder
from ctrlgen.optimizers.stepwise import Stepwise
from ctrlgen.priors.flows import Prediction
from ctrlgen.priors.paths import CondOT, Path
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.seeds import rademacher
from ctrlgen.sampling.grids import Grid, Uniform

__all__ = ["FlowPriors"]

_PROBES = 2**60  # first stream of the probes; 2^20 of each step lie apart
_DRAWS = 2**20


@dataclass(frozen=True, kw_only=True)
class FlowPriors(SteppedMethod[Tensor]):
    """A mode of data, prior and change of volume at every time, reached by a few gradient steps.

    Args:
        iterations: K >= 1, optimizer steps at every time.
        weight: λ > 0.
        optimizer: of the local problem, fresh at every time; its stopping rules play no part.
        probes: of the divergence, >= 0; 0 leaves it out, with its double backward passes.

    Raises:
        TypeError: for an optimizer that is not of first order.
        ValueError: for numbers out of range, or a start that is not the source.
    """

    control: ClassVar[str] = "state"
    needs: ClassVar[str] = "a measurement, a gradient"
    needs_measurement: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "denoise": {"weight": 1e2},
        "deblur": {"weight": 1e3},
        "sr2": {"weight": 1e4, "optimizer": Adam(learning_rate=0.1)},
        "inpaint": {"weight": 1e4},
        "random-inpaint": {"weight": 1e4},
    }

    grid: Grid = field(default_factory=lambda: Uniform(100, start=1e-3))
    clock: Path | None = field(default_factory=CondOT)
    iterations: int = 1
    weight: float = 1e4
    optimizer: FirstOrder = field(default_factory=lambda: Adam(learning_rate=0.01))
    probes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.optimizer, FirstOrder):
            raise TypeError(f"optimizer: expected Adam or GradientDescent, got {self.optimizer!r}")
        Stepwise(self.optimizer, torch.zeros(1, 1))  # refuses schedules
        if self.start != "source":
            raise ValueError(
                f"start: FlowPriors starts from the source, of which its targets keep a share; "
                f"got {self.start!r}"
            )
        for name, least in (("iterations", 1), ("probes", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight: expected a number > 0, got {self.weight}")

    def first_state(self, run: Run[Tensor], z: Tensor) -> Tensor:
        return z

    def begin(self, run: Run[Tensor], z: Tensor) -> Tensor:
        """H(x_init), of which every target keeps a share."""
        assert run.measurement is not None
        with torch.no_grad():
            return run.measurement.operator(run.decode(run.project(z)))

    def update(self, run: Run[Tensor], x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t, s = run.at(step)
        move = Stepwise(self.optimizer, x)
        for turn in range(self.iterations):
            gradient = self.gradient(run, x, step, turn)
            x = run.prior.source.project(move(x, gradient))
        with torch.no_grad():
            seen = run.predict(x, t)
            return x + (s.time - t.time) * seen.velocity, run.value(seen.data)

    def gradient(self, run: Run[Tensor], x: Tensor, step: int, turn: int = 0) -> Tensor:
        """∇ of the local problem at states x (B, *), shape of x."""
        t, s = run.at(step)
        h, measurement = s.time - t.time, run.measurement
        assert measurement is not None
        target = s.alpha * measurement.y.to(x) + s.sigma * run.state
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            seen = run.predict(x, t)
            ahead = measurement.operator(run.decode(x + h * seen.velocity))
            value = self.weight * row_sum((ahead - target).square())
            if self.probes:
                value = value + h * self._divergence(run, seen, x, step, turn)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            return gradient + (x if step == 0 else seen.noise / t.sigma)

    def _divergence(self, run: Run, seen: Prediction, x: Tensor, step: int, turn: int) -> Tensor:
        """Hutchinson's estimate of div u, shape (B,), differentiable."""
        stream = _PROBES + step * _DRAWS + turn * self.probes
        total = x.new_zeros(len(x))
        for probe in range(self.probes):
            sign = rademacher(
                run.seeds, x.shape[1:], stream + probe, dtype=x.dtype, device=x.device
            )
            sign = run.prior.source.project(sign)
            (pulled,) = torch.autograd.grad(seen.velocity, x, sign, create_graph=True)
            total = total + row_sum(pulled * sign)
        return total / self.probes
