"""The adaptive method of Dormand and Prince, every sample with steps of its own.

Two embedded formulas, of fifth and fourth order, share their stages; their difference estimates
the error of a step, and the step is chosen so that it stays below the tolerance (Dormand & Prince
1980; Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4-II.5).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctrlgen.rows.batching import expand_like, flat, partition, row_sum
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

    A row whose error norm is above one, or not finite, repeats its step with a shorter one; rows
    that have arrived leave the batch. The error norm is the root mean square over the row of
    error/(atol + rtol |x|), without entries that neither are nor move: padding is no part of it.
    A row that does not arrive, because its state is not finite, its steps become too short to count
    or `max_steps` do not do, ends as NaN; its neighbours never notice.

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

    _least = 1e-14
    """Share of the interval that is too short for a step."""

    def config(self) -> dict[str, Any]:
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return {**tolerances, "gradient": self.gradient, "max_steps": self.max_steps}

    def _norm(self, error: Tensor, there: Tensor, *states: Tensor) -> Tensor:
        """Of errors (B, *), over the entries of a mask."""
        largest = torch.stack([state.detach().abs() for state in states]).amax(0)
        square = (error / (self.atol + self.rtol * largest)).square()
        return (row_sum(square) / row_sum(there).clamp_min(1)).sqrt()

    def _first_step(self, x: Tensor, slope: Tensor, length: float) -> Tensor:
        """A step over which the state moves by a hundredth of its scale (Hairer et al. II.4)."""
        there = _there(x, slope)
        size, speed = self._norm(x.detach(), there, x), self._norm(slope.detach(), there, x)
        guess = 0.01 * size / speed.clamp_min(1e-12)
        return torch.where((size < 1e-5) | (speed < 1e-5), 1e-4, guess).clamp(1e-6, abs(length))

    def _integrate(self, velocity: Velocity, x: Tensor, t0: float, t1: float) -> Tensor:
        rows = torch.arange(x.shape[0], device=x.device)
        sign = 1.0 if t1 > t0 else -1.0
        arrived, order = [], []
        # Clocks are float64 whatever the states are: a first step may be far below float32's 1e-7.
        t = torch.full((x.shape[0],), t0, dtype=torch.float64, device=x.device)
        slope = velocity(x, t.to(x.dtype))
        h = self._first_step(x, slope, t1 - t0).double()
        working = velocity
        for step in range(1, self.max_steps + 1):
            h = torch.minimum(h, (t1 - t).abs())
            before, first = x.view_as(x), slope.view_as(slope)
            length = (sign * h).to(x.dtype)
            stages = stages_of(working, before, t.to(x.dtype), length, _DOPRI, first)
            wide = expand_like(length, x)
            proposal = combine(before, wide, _DOPRI.b, stages)
            error = combine(torch.zeros_like(x), wide, _DOPRI_ERROR, stages).detach()
            ratio = self._norm(error, _there(x, *stages), x, proposal)
            finite = ratio.isfinite() & flat(proposal).isfinite().all(1)
            ratio = torch.where(finite, ratio, torch.inf)
            accept = ratio <= 1
            for entry in (before, first):
                _cut(entry, accept)
            x = torch.where(expand_like(accept, x), proposal, x)
            slope = torch.where(expand_like(accept, x), stages[-1], slope)  # first same as last
            left = torch.where(accept, (t1 - t).abs() - h, (t1 - t).abs())
            t = t1 - sign * left
            h = h * (0.9 * ratio.double().clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
            done = left <= 1e-9 * abs(t1 - t0)
            hopeless = h <= self._least * abs(t1 - t0)
            broken = ~flat(x).isfinite().all(1) | ~flat(slope).isfinite().all(1)
            lost = ~done & (hopeless | broken | (step == self.max_steps))
            leave, keep = partition(done | lost)  # the step's one read
            if len(leave):
                arrived.append(torch.where(expand_like(lost, x), torch.nan, x)[leave])
                order.append(rows[leave])
                if len(keep) == 0:
                    break
                x, t, h, slope, rows = x[keep], t[keep], h[keep], slope[keep], rows[keep]
                working = velocity.take(rows)
        return torch.cat(arrived)[torch.cat(order).argsort()]


def _there(*states: Tensor) -> Tensor:
    """Entries that are not zero in all of the states: 1, else 0; shape (B, *)."""
    there = torch.zeros_like(states[0], dtype=torch.bool)
    for state in states:
        there = there | (state.detach() != 0)
    return there.to(states[0].dtype)


def _cut(entry: Tensor, accept: Tensor) -> None:
    """Keep the gradient of a rejected trial, which may not be finite, from what it began with."""
    if entry.requires_grad:
        entry.register_hook(lambda g: torch.where(expand_like(accept, g), g, 0))
