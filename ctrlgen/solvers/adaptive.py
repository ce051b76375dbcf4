"""The adaptive method of Dormand and Prince, every sample with steps of its own.

Two embedded formulas, of fifth and fourth order, share their stages; their difference estimates
the error of a step, and the step is chosen so that it stays below the tolerance (Dormand & Prince
1980; Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4-II.5).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.batching import expand_like, flat
from ctrlgen.solvers.base import Gradient, Solver, Tableau, Velocity, combine, stages_of

__all__ = ["Dopri5"]

_DOPRI = Tableau(
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
)
# Fifth minus embedded fourth order.
_DOPRI_ERROR = (
    71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40,
)  # fmt: skip


class Dopri5(Solver):
    """Dormand & Prince 5(4), with step sizes and error control of every sample's own.

    A row whose error norm is above one repeats its step with a shorter one; rows that have arrived
    leave the batch. The error norm is the root mean square over the row of error/(atol + rtol |x|).
    A row that does not arrive, because its state ceases to be finite or `max_steps` do not do,
    ends as NaN; its neighbours never notice.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        gradient: "direct" or "adjoint"; the accepted steps of the direct gradient are those of the
            discrete map, and step sizes count as constants.
        max_steps: steps, accepted or not, after which a row that has not arrived is given up.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        gradient: Gradient = "direct",
        max_steps: int = 10_000,
    ) -> None:
        super().__init__(gradient)
        if gradient == "checkpoint":
            raise ValueError(
                "gradient: expected 'direct' or 'adjoint' for Dopri5, got 'checkpoint'"
            )
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol, atol: expected positive tolerances, got {rtol, atol}")
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps

    def config(self) -> dict[str, Any]:
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return {**tolerances, "gradient": self.gradient, "max_steps": self.max_steps}

    def _norm(self, error: Tensor, *states: Tensor) -> Tensor:
        largest = torch.stack([state.detach().abs() for state in states]).amax(0)
        return flat(error / (self.atol + self.rtol * largest)).square().mean(1).sqrt()

    def _first_step(self, x: Tensor, slope: Tensor, length: float) -> Tensor:
        """A step over which the state moves by a hundredth of its scale (Hairer et al. II.4)."""
        size, speed = self._norm(x.detach(), x), self._norm(slope.detach(), x)
        guess = 0.01 * size / speed.clamp_min(1e-12)
        return torch.where((size < 1e-5) | (speed < 1e-5), 1e-4, guess).clamp(1e-6, abs(length))

    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        rows = torch.arange(x.shape[0], device=x.device)
        sign = 1.0 if t1 > t0 else -1.0
        arrived, order = [], []
        t = x.new_full((x.shape[0],), t0)
        slope = velocity(x, t)
        h = self._first_step(x, slope, t1 - t0)
        working = velocity
        for step in range(1, self.max_steps + 1):
            h = torch.minimum(h, (t1 - t).abs())
            stages = stages_of(working, x, t, sign * h, _DOPRI, slope)
            wide = expand_like(sign * h, x)
            proposal = combine(x, wide, _DOPRI.b, stages)
            error = combine(torch.zeros_like(x), wide, _DOPRI_ERROR, stages).detach()
            ratio = self._norm(error, x, proposal)
            accept = ratio <= 1
            x = torch.where(expand_like(accept, x), proposal, x)
            slope = torch.where(expand_like(accept, x), stages[-1], slope)  # first same as last
            left = torch.where(accept, (t1 - t).abs() - h, (t1 - t).abs())
            t = t1 - sign * left
            h = h * (0.9 * ratio.clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
            done = left <= 1e-9 * abs(t1 - t0)
            lost = ~done & (~ratio.isfinite() | (step == self.max_steps))
            leaving = done | lost
            if bool(leaving.any()):
                arrived.append(torch.where(expand_like(lost, x), torch.nan, x)[leaving])
                order.append(rows[leaving])
                keep = torch.nonzero(~leaving).squeeze(1)
                if len(keep) == 0:
                    break
                x, t, h, slope, rows = x[keep], t[keep], h[keep], slope[keep], rows[keep]
                working = velocity.take(rows)
        return torch.cat(arrived)[torch.cat(order).argsort()]
