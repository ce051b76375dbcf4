"""Strong-Wolfe line searches, one per row, as one vectorised state machine.

Along the ray phi(t) = f(x + t p) with phi'(0) < 0, a step t is accepted when (Nocedal & Wright,
Numerical Optimization, 2nd ed. 2006, eq. 3.7)

    phi(t) <= phi(0) + c1 t phi'(0)       sufficient decrease (Armijo)
    |phi'(t)| <= c2 |phi'(0)|             curvature

Algorithms 3.5 (bracketing) and 3.6 (zoom) of the book keep two steps: `low`, the lowest point
known to satisfy Armijo (at first t = 0), and `high`, such that the interval between them contains
an acceptable step. Bracketing is zoom with high = infinity, so both are one update. Each new
point t either lies above (it violates Armijo or is not lower than `low`) and becomes `high`; or it
becomes `low`, and where phi'(t) (high - low) >= 0 the old `low` becomes `high`. The next step is

    high = infinity:   the cubic's minimiser beyond t, within [t + 0.01 (t - low), 10 t]
    otherwise:         the cubic's minimiser between low and high, kept away from both ends
                       by a tenth of the interval when it comes close to one twice
    high not finite:   low + (high - low) / 10

where the cubic interpolates phi and phi' at two points (eq. 3.59). A value or slope that is not
finite thus counts as +infinity: the step shrinks, a limited number of times.

Two values that differ by less than their rounding cannot be compared. Slopes still can: what lies
between two such points is then taken from the trapezium rule, (phi'(a) + phi'(b)) (b - a) / 2. In
the test of Armijo this is the approximate Wolfe condition of Hager & Zhang (2005, eq. 4.1), in the
cubic a step of the secant rule.

Every row is in its own phase of its own search: one `update` advances all of them by one point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.rows.batching import take

__all__ = ["Verdict", "WolfeSearch", "cubic_minimizer", "rounding_of"]

_SHRINKS = 10
"""How often a search may meet a point that is not finite: 1e-10 of the first step is hopeless."""


def rounding_of(value: Tensor) -> Tensor:
    """Differences between values of this size that may be rounding alone, shape of value."""
    return 4 * torch.finfo(value.dtype).eps * value.abs()


class Sample(NamedTuple):
    """phi at one step per row; all of shape (b,)."""

    step: Tensor
    value: Tensor
    slope: Tensor

    def where(self, mask: Tensor, other: Sample) -> Sample:
        """This sample, replaced by `other` in the rows of `mask`."""
        return Sample(*(torch.where(mask, new, old) for old, new in zip(self, other, strict=True)))


class Verdict(NamedTuple):
    """Judgement of the newest point of each search; bool of shape (b,).

    Attributes:
        lower: the point is the best Armijo point of its search so far (`low`).
        found: the point ends its search: strong Wolfe, or Armijo at the target.
        over: the search has to end without a Wolfe point; `low` is what it leaves.
    """

    lower: Tensor
    found: Tensor
    over: Tensor


class WolfeSearch:
    """One strong-Wolfe search per row.

    Args:
        like: any tensor of shape (b,), for the dtype and the device.
        c1: Armijo constant, 0 < c1 < c2.
        c2: curvature constant, c1 < c2 < 1.
        max_evaluations: points that one search may try, >= 1.

    Attributes:
        step: step to evaluate next, shape (b,).
        low: best Armijo point of each search so far, t = 0 at first.
        failing: whether the last interval ends at a point that was not finite, shape (b,).
    """

    def __init__(self, like: Tensor, c1: float, c2: float, max_evaluations: int) -> None:
        zero = torch.zeros_like(like)
        self.c1, self.c2, self.max_evaluations = c1, c2, max_evaluations
        self.start = self.low = Sample(zero, zero, zero)
        self.high = Sample(zero + torch.inf, zero, zero)
        self.step = self.least = zero
        self.evaluations = self.shrinks = torch.zeros_like(like, dtype=torch.int64)
        self.stalled = torch.zeros_like(like, dtype=torch.bool)

    def take(self, index: Tensor) -> None:
        """Keep the searches of the rows `index` only."""
        self.start, self.low, self.high = (
            Sample(*(take(field, index) for field in sample))
            for sample in (self.start, self.low, self.high)
        )
        for name in ("step", "least", "evaluations", "shrinks", "stalled"):
            setattr(self, name, take(getattr(self, name), index))

    def begin(
        self, rows: Tensor, value: Tensor, slope: Tensor, step: Tensor, least: Tensor
    ) -> None:
        """Start new searches in the rows of a mask.

        Args:
            rows: which, bool of shape (b,).
            value: phi(0), shape (b,).
            slope: phi'(0) < 0, shape (b,).
            step: first step to try, > 0, shape (b,).
            least: length of an interval too short to search on, shape (b,).
        """
        zero = torch.zeros_like(value)
        self.start = self.start.where(rows, Sample(zero, value, slope))
        self.low = self.low.where(rows, self.start)
        self.high = self.high.where(rows, Sample(zero + torch.inf, zero, zero))
        self.step = torch.where(rows, step, self.step)
        self.least = torch.where(rows, least, self.least)
        self.evaluations = self.evaluations.masked_fill(rows, 0)
        self.shrinks = self.shrinks.masked_fill(rows, 0)
        self.stalled = self.stalled & ~rows

    @property
    def failing(self) -> Tensor:
        """Rows whose interval ends at a point that was not finite, shape (b,)."""
        return ~self.high.value.isfinite()

    def update(self, value: Tensor, slope: Tensor, reached: Tensor) -> Verdict:
        """Take in phi and phi' at `step`, and choose the next step.

        Args:
            value: phi(step), shape (b,).
            slope: phi'(step), shape (b,).
            reached: rows where this point is good enough if it satisfies Armijo, shape (b,).
        """
        finite = value.isfinite() & slope.isfinite()
        new = Sample(self.step, torch.where(finite, value, torch.inf), slope)
        rounding = rounding_of(self.start.value)
        allowed = self.c1 * new.step * self.start.slope
        armijo = finite & (_rise(self.start, new, rounding) <= allowed)
        above = ~armijo | ((_rise(self.low, new, rounding) >= 0) & (self.low.step > 0))
        wolfe = ~above & (slope.abs() <= -self.c2 * self.start.slope)
        found = wolfe | (armijo & reached)
        lower = ~above | found

        turned = ~above & ((slope >= 0) == (self.high.step > new.step))
        old = self.low
        self.high = self.high.where(turned, old).where(above, new)
        self.low = old.where(lower, new)
        self.evaluations = self.evaluations + 1
        self.shrinks = self.shrinks + ~finite
        longer, between = self._extrapolate(old, new, rounding), self._zoom(rounding)
        self.step = torch.where(self.high.step.isinf(), longer, between)

        over = (
            (self.evaluations >= self.max_evaluations)
            | (self.shrinks >= _SHRINKS)
            | ((self.high.step - self.low.step).abs() <= self.least)
        )
        return Verdict(lower, found, over & ~found)

    @staticmethod
    def _extrapolate(old: Sample, new: Sample, rounding: Tensor) -> Tensor:
        """A longer step: phi still falls at `new`, which lies beyond `old`."""
        least = new.step + 0.01 * (new.step - old.step)
        most = 10 * new.step
        step = cubic_minimizer(old, new, rounding)
        # Without a minimum ahead the cubic falls for ever: go as far as is allowed.
        return torch.where(step > new.step, step.clamp(least, most), most)

    def _zoom(self, rounding: Tensor) -> Tensor:
        """A step between low and high, in the coordinate u = 0 at low and u = 1 at high."""
        span = self.high.step - self.low.step
        u = (cubic_minimizer(self.low, self.high, rounding) - self.low.step) / span
        u = torch.where(u.isfinite(), u, 0.5)
        near = (u < 0.1) | (u > 0.9)
        push = near & (self.stalled | (u <= 0) | (u >= 1))
        self.stalled = near & ~push
        u = torch.where(push, u.clamp(0.1, 0.9), u)
        u = torch.where(self.high.value.isfinite(), u, 0.1)
        return self.low.step + u * span


def _rise(a: Sample, b: Sample, rounding: Tensor) -> Tensor:
    """phi(b) - phi(a), shape (b,); from the slopes where it is lost in rounding."""
    rise = b.value - a.value
    trapezium = 0.5 * (a.slope + b.slope) * (b.step - a.step)
    return torch.where(rise.abs() <= rounding, trapezium.clamp(-rounding, rounding), rise)


def cubic_minimizer(a: Sample, b: Sample, rounding: Tensor) -> Tensor:
    """Minimiser of the cubic through phi and phi' at a and b (Nocedal & Wright, eq. 3.59).

    Args:
        a: one point.
        b: another.
        rounding: of the values, shape (b,).

    Returns:
        Steps of shape (b,); not finite where the cubic has no minimum.
    """
    d1 = a.slope + b.slope - 3 * _rise(a, b, rounding) / (b.step - a.step)
    # Scaled, so that squares neither overflow nor vanish in float32.
    scale = torch.stack([d1.abs(), a.slope.abs(), b.slope.abs()]).amax(0)
    radicand = (d1 / scale).square() - (a.slope / scale) * (b.slope / scale)
    d2 = torch.sign(b.step - a.step) * scale * radicand.sqrt()
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
