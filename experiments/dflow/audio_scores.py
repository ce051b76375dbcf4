r"""What fills and bands of `dflow.audio` are worth, clip by clip, and the problems they answer.

    LSD         in decades of power, over the gap or over the band that is missing
    PSNR        10 log₁₀(1/MSE), peak 1, of what was observed, of what was missing, of all
    SI-SDR, MR-STFT of all, and the step into each seam of a gap (`domains.audio.metrics`)

What a method gives is scored as a user gets it: what was observed is put back, with the seams of
`splicing` or as x̂ + H†(y − H x̂). The observed PSNR alone is that of the method's own signal.
Intervals are percentiles of the median over clips that are drawn again with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.costs.measurement import MeasurementCost
from ctrlgen.domains.audio.data import RATE
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.metrics import click, lsd, mrstft, psnr, si_sdr
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.splicing import splice
from ctrlgen.methods import Method
from ctrlgen.operators.base import LinearOperator

__all__ = ["TASKS", "Problem", "interval", "scores"]

TASKS = ("gap10", "gap20", "x2", "x4", "x8")
"""A gap in the middle of so many percent, or a rate lower by a factor."""

_FADE = 160  # 10 ms
_SIZE, _HOP = 1024, 256


@dataclass(frozen=True)
class Problem:
    """A task on some clips.

    Attributes:
        task: one of `TASKS`.
        truth: the clips, shape (B, 1, L), at 16 kHz.
        operator: H.
        y: H(truth).
        span: first sample of the gap and the one after the last; None for missing bands.
    """

    task: str
    truth: Tensor
    operator: LinearOperator
    y: Tensor
    span: tuple[int, int] | None

    @classmethod
    def of(cls, task: str, truth: Tensor) -> Problem:
        """The task of a name on clips (B, 1, L)."""
        if not task.startswith("gap"):
            low = LowPass(int(task[1:]))
            return cls(task, truth, low, low(truth), None)
        length = truth.shape[2]
        width = length * int(task[3:]) // 100
        span = ((length - width) // 2, (length - width) // 2 + width)
        known = torch.ones(length, dtype=torch.bool, device=truth.device)
        known[span[0] : span[1]] = False
        mask = TimeMask(known)
        return cls(task, truth, mask, mask(truth), span)

    def cost(self, method: Method) -> MeasurementCost:
        """The cost in the form that a method declares; PSNR at peak 1."""
        if method.cost_form == "squared":
            return SquaredError(self.operator, self.y)
        return NegativePSNR(self.operator, self.y, peak=1.0)

    def observed(self, x: Tensor) -> Tensor:
        """PSNR of what was observed, in dB, shape (B,)."""
        return -NegativePSNR(self.operator, self.y, peak=1.0)(x)

    def trivial(self) -> dict[str, Tensor]:
        """What costs nothing: silence and a line across a gap, or the low band alone."""
        plain = self.operator.pinv(self.y)
        if self.span is None:
            return {"low-pass": plain}
        start, end = self.span
        line = plain.clone()
        weight = (torch.arange(end - start, device=plain.device) + 1) / (end - start + 1)
        before, after = plain[..., start - 1, None], plain[..., end, None]
        line[..., start:end] = before * (1 - weight) + after * weight
        return {"silence": plain, "line": line}

    def spliced(self, x: Tensor) -> Tensor:
        """Signals with what was observed put back."""
        if self.span is None:
            return self.operator.pinv(self.y) + x - self.operator.project(x)
        start, end = self.span
        known = torch.ones(x.shape[2], dtype=torch.bool, device=x.device)
        known[start:end] = False
        out = self.y.clone()
        for row, (was, made) in enumerate(zip(self.y, x, strict=True)):
            out[row, :, start:end] = splice(
                was, made, start, end, offset=0, fade=_FADE, known=known
            )
        return out


def scores(problem: Problem, x: Tensor, own: Tensor | None = None) -> dict[str, list[float]]:
    """The module's numbers of signals, one per clip.

    Args:
        problem: that they answer.
        x: as a user gets them, shape (B, 1, L).
        own: the method's own signals, for the observed PSNR; x when None.
    """
    truth, span = problem.truth, problem.span
    x = x.nan_to_num(0.0, 0.0, 0.0)
    where: dict[str, Any] = {"span": span}
    missing = None
    if span is None:
        factor = truth.shape[2] // problem.y.shape[2]
        where = {"rate": RATE, "band": (RATE / 2 / factor, RATE / 2)}
    else:
        missing = torch.zeros(truth.shape[2], dtype=torch.bool, device=truth.device)
        missing[span[0] : span[1]] = True
    found = {
        "lsd": lsd(x, truth, size=_SIZE, hop=_HOP, **where),
        "psnr_observed": problem.observed(x if own is None else own),
        "psnr_missing": psnr(x, truth, mask=missing),
        "psnr": psnr(x, truth),
        "si_sdr": si_sdr(x, truth),
        "mrstft": mrstft(x, truth),
    }
    if span is not None:
        found["seam"] = torch.maximum(click(x, span[0]), click(x, span[1]))
    return {name: values.double().tolist() for name, values in found.items()}


def interval(
    values: list[float], draws: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Median over clips, and the ends of its bootstrap interval.

    Args:
        values: one per clip; infinities are kept, what is not a number counts as the worst end.
        draws: resamples, of a fixed seed.
        level: of the interval.
    """
    rows = np.nan_to_num(np.array(values, float), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.sort(rows)
    draw = np.random.default_rng(0).integers(len(rows), size=(draws, len(rows)))
    # The lower median is a value that is there: no mean of two infinities.
    middle = (len(rows) - 1) // 2
    medians = np.sort(order[draw], axis=1)[:, middle]
    ends = np.quantile(medians, ((1 - level) / 2, (1 + level) / 2), method="nearest")
    median = order[middle] if len(rows) % 2 else (order[middle] + order[middle + 1]) / 2
    return float(median), float(ends[0]), float(ends[1])
