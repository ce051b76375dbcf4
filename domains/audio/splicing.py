r"""What is made goes into what was there: seams, windows, mid and side.

A gap [a, b) takes the generated samples g. Where the sound x beyond a seam does not go on as g does
(`prediction`), it fades over f samples from the prediction c of x to them,

    out[a + n] = w_n c[n] + (1 − w_n) g[a + n],     w_n = cos²(π n / 2f),   n < f,

so there is no step at the seam, however well g agrees with x beyond it; a fill that goes on by
itself stays as it is, and no sample outside of the gap changes. Long files are worked on in windows
that overlap by a quarter or more; there they are added with weights of equal power, since what the
prior adds in one is not what it adds in the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrlgen.domains.audio.prediction import HISTORY, Predictor

__all__ = ["mid_side", "overlap_add", "splice", "window_starts"]


def splice(
    x: Tensor, generated: Tensor, start: int, end: int, *, offset: int, fade: int, known: Tensor
) -> Tensor:
    """The inside of a gap, shape (C, end − start).

    Args:
        x: the file, shape (C, L).
        generated: shape (C, n); its first sample belongs at `offset` of the file.
        start: first sample of the gap.
        end: the one after the last.
        offset: may lie before the file's start.
        fade: f; less where less is known beyond a seam, or the gap is shorter than two.
        known: samples of the file that are, bool, shape (L,).
    """
    inside = generated[:, start - offset : end - offset].clone()
    most = min(fade, inside.shape[1] // 2)
    before = _run(known[:start].flip(0)[:most])
    after = _run(known[end:][:most])
    for count, left in ((min(before, start - max(offset, 0)), True), (after, False)):
        if count == 0:
            continue
        if left:
            past = x[:, start - _run(known[max(0, start - HISTORY) : start].flip(0)) : start]
            inside[:, :count] = _entered(past, inside[:, :count])
        else:
            past = x[:, end : end + _run(known[end : end + HISTORY])].flip(1)
            inside[:, -count:] = _entered(past, inside[:, -count:].flip(1)).flip(1)
    return inside


def _entered(past: Tensor, made: Tensor) -> Tensor:
    """What is made, shape (C, f), entered from what was there before it, shape (C, n)."""
    out = made.clone()
    ramp = torch.arange(made.shape[1], dtype=made.dtype) / made.shape[1]
    weight = (0.5 * math.pi * ramp).cos().square()
    for row, before in zip(out, past.double().numpy(), strict=True):
        predictor = Predictor(before)
        if predictor.surprised(row.double().numpy()):
            row.lerp_(torch.from_numpy(predictor.continuation(len(row))).to(row), weight)
    return out


def _run(flags: Tensor) -> int:
    """How many of them are true from the first on."""
    return int(flags.int().cumprod(0).sum())


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """First samples of windows that cover a signal, evenly spread; they overlap by this or more."""
    if length <= window:
        return [0]
    steps = math.ceil((length - window) / (window - overlap))
    return [round(step * (length - window) / steps) for step in range(steps + 1)]


def overlap_add(parts: Tensor, starts: list[int], length: int, *, coherent: bool = False) -> Tensor:
    """Windows as one signal, shape (C, length).

    Args:
        parts: shape (n, C, W).
        starts: first sample of each, the first of them 0.
        length: of the signal; what lies beyond is left out.
        coherent: windows agree where they overlap; weights are of one sum, else of one power.
    """
    count, channels, window = parts.shape
    power = 1 if coherent else 2
    out, total = (
        parts.new_zeros(channels, max(length, window)),
        parts.new_zeros(max(length, window)),
    )
    for i, start in enumerate(starts):
        weight = torch.ones(window, dtype=parts.dtype)
        rising = starts[i - 1] + window - start if i else 0
        falling = start + window - starts[i + 1] if i + 1 < count else 0
        if rising > 0:
            weight[:rising] = _ramp(rising, weight)
        if falling > 0:
            weight[-falling:] = torch.minimum(weight[-falling:], _ramp(falling, weight).flip(0))
        out[:, start : start + window] += weight * parts[i]
        total[start : start + window] += weight**power
    return out[:, :length] / total[:length] ** (1 / power)


def _ramp(count: int, like: Tensor) -> Tensor:
    ramp = (torch.arange(count, dtype=like.dtype) + 0.5) / count
    return (0.5 * math.pi * ramp).sin()


def mid_side(x: Tensor) -> Tensor:
    """Two channels (..., 2, L) as half their sum and half their difference; twice is half of it.

    The way back is 2 · mid_side; signals of other numbers of channels stay as they are.
    """
    if x.shape[-2] != 2:
        return x
    left, right = x.unbind(-2)
    return torch.stack(((left + right) / 2, (left - right) / 2), dim=-2)
