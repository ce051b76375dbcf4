r"""Where D-Flow begins on the latents of audio: a sample that is pulled onto the measurement.

    x̂ = D(z_1|t),   z_1|t the data that the flow expects at time t,
    x' = x̂ + H†(y − H x̂),                     the nearest signal that explains y,
    z ← z + Δt (E(x') − z) / (1 − t),

Euler steps from a draw of the source: DDNM (Wang, Yu & Zhang 2022) on the straight path, through a
codec that may be any. The result is solved back to its source, and `Refined` brings the source of
the few steps that D-Flow takes onto the measurement. No step needs a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.methods.starts import Initializer
from ctrlgen.operators import LinearOperator, Measurement
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import Seeds

__all__ = ["Projected"]


class Projected(Initializer):
    """The source of a sample whose data are projected onto the measurement at every step.

    Args:
        steps: Euler steps; the solve back takes as many midpoint steps, half of it.
    """

    def __init__(self, steps: int = 20) -> None:
        if not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps: expected an integer of at least 2, got {steps!r}")
        self.steps = steps

    def config(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def check(self, prior: Prior, measurement: Measurement | None) -> None:
        if measurement is None or not isinstance(measurement.operator, LinearOperator):
            raise ValueError(
                "initializer: Projected needs a cost with a linear operator; use SourceSample()"
            )

    @torch.no_grad()
    def __call__(
        self, prior: Prior, measurement: Measurement | None, seeds: Seeds, z: Tensor
    ) -> Tensor:
        assert measurement is not None
        operator, y = measurement.operator, measurement.y.to(z)
        state = z
        for step in range(self.steps):
            t = step / self.steps
            x = prior.codec.decode(prior.predict(state, t).data)
            x = x + operator.pinv(operator.observed(y - operator(x)))
            state = state + (prior.codec.encode(x) - state) / (self.steps - step)
        back = prior.solver(max(1, self.steps // 2)).invert(BoundVelocity(prior), state)
        return prior.source.project(back)
