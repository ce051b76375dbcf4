"""Moments and gaps as an engineer names them: seconds, minutes, samples, label files, silence.

4.5-5.5      seconds            1:02.250-1:03     minutes and seconds
@72000-@88000  samples          gaps.txt          labels as Audacity exports them
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["check_gaps", "gap", "labels", "moment", "silent_gaps"]

Span = tuple[int, int]
"""First sample and the one after the last."""


def moment(text: str, rate: int) -> int:
    """A moment as a number of samples.

    Args:
        text: "4.5" seconds, "1:02.25" minutes and seconds, or "@72000" samples.
        rate: in Hz.

    Raises:
        ValueError: it is none of these, or before the start.
    """
    try:
        if text.startswith("@"):
            sample = int(text[1:])
        else:
            *minutes, seconds = text.split(":")
            if len(minutes) > 2:
                raise ValueError("too many colons")
            total = float(seconds)
            for place, part in enumerate(reversed(minutes), 1):
                total += 60**place * int(part)
            sample = round(total * rate)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"gap: expected moments as 4.5, 1:02.250 or @72000 (samples), got {text!r}"
        ) from error
    if sample < 0:
        raise ValueError(f"gap: expected a moment after the start, got {text!r}")
    return sample


def gap(text: str, rate: int) -> Span:
    """A gap "start-end" in samples.

    Raises:
        ValueError: there are not two moments.
    """
    parts = text.split("-")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"gap: expected start-end, as in 4.5-5.5, got {text!r}")
    return moment(parts[0].strip(), rate), moment(parts[1].strip(), rate)


def labels(file: Path, rate: int) -> list[Span]:
    """The gaps of an Audacity label file: lines of start, tab, end, tab, text, in seconds.

    Raises:
        ValueError: it cannot be read, or a line is none of these; the line is named.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"labels: {file} cannot be read: {error}") from error
    spans = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):  # a backslash continues with frequencies
            continue
        try:
            start, end = (round(float(part) * rate) for part in line.split("\t")[:2])
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"labels: {file}, line {number}: expected start, tab, end in seconds, got {line!r}"
            ) from error
        spans.append((start, end))
    if not spans:
        raise ValueError(f"labels: {file} holds no label")
    return spans


def silent_gaps(samples: Tensor, rate: int, seconds: float = 0.005) -> list[Span]:
    """Runs of exact zeros in all channels that are at least so long, samples (C, L).

    Zeros at the start and the end of a file are its silence, not gaps.
    """
    zero = (samples == 0).all(0)
    edges = torch.cat((zero.new_zeros(1), zero, zero.new_zeros(1))).int().diff().nonzero().flatten()
    runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    least, length = max(2, round(seconds * rate)), samples.shape[1]
    return [(a, b) for a, b in runs if b - a >= least and a > 0 and b < length]


def check_gaps(spans: Sequence[Span], length: int, rate: int, longest: float) -> list[Span]:
    """Gaps in the order of time.

    Args:
        spans: of samples.
        length: of the file, in samples.
        rate: in Hz.
        longest: seconds of the longest gap that can be filled.

    Raises:
        ValueError: there is none, or one is empty, outside of the file, overlaps another or is too
            long.
    """
    if not spans:
        raise ValueError("gap: expected at least one, got none")
    spans = sorted(spans)
    for start, end in spans:
        told = f"{start / rate:.4g} to {end / rate:.4g} s"
        if end <= start:
            raise ValueError(f"gap: expected an end after the start, got {told}")
        if end > length:
            raise ValueError(f"gap: {told} lies outside of the file, {length / rate:.4g} s long")
        if (end - start) / rate > longest:
            raise ValueError(
                f"gap: {told} is {(end - start) / rate:.4g} s long; the prior hears "
                f"{2 * longest:g} s at a time and needs half of it to go by: at most {longest:g} s"
            )
    for (start, end), (after, _) in pairwise(spans):
        if after < end:
            raise ValueError(
                f"gap: one from {start / rate:.4g} to {end / rate:.4g} s overlaps the next, from "
                f"{after / rate:.4g} s"
            )
    if sum(end - start for start, end in spans) >= length:
        raise ValueError("gap: the gaps cover the whole file; nothing is left to go by")
    return spans
