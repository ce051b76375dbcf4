"""Gaps of a sound file filled, every sample outside of them as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.metrics import click
from ctrlgen.domains.audio.posing import (
    Posed,
    Take,
    Window,
    audible,
    parts_of,
    to_prior,
    window_of,
)
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import Settings, restored
from ctrlgen.domains.audio.splicing import mid_side, splice
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["Gaps", "inpaint"]


class Gaps(Posed):
    """Rows of the gaps of a file, each in the middle of its window where the file allows.

    Args:
        recording: the file; what it holds inside of the gaps is not looked at.
        gaps: first sample of each and the one after the last, checked (`times.check_gaps`).
        window: of the prior.
        fade: seconds of the fades inside of a gap.

    Raises:
        ValueError: nothing is known but silence.
    """

    place: ClassVar[str] = "gap"

    def __init__(
        self,
        recording: Recording,
        gaps: Sequence[tuple[int, int]],
        window: Window,
        fade: float = 0.01,
    ) -> None:
        x, rate = recording.samples, recording.rate
        self.gaps, self.window, self.fade = list(gaps), window, round(fade * rate)
        self.span = span = round(window.length * rate / window.rate)
        self.known_samples = known = torch.ones(x.shape[1], dtype=torch.bool)
        for start, end in gaps:
            known[start:end] = False
        audible(recording.with_samples(torch.where(known, x, 0)))
        self.offsets = [_offset(start, end, span, x.shape[1]) for start, end in gaps]
        rows, marks, owners = [], [], []
        for g, offset in enumerate(self.offsets):
            low, high = max(0, offset), min(x.shape[1], offset + span)
            segment, mask = x.new_zeros(x.shape[0], span), torch.zeros(span, dtype=torch.bool)
            segment[:, low - offset : high - offset] = torch.where(known, x, 0)[:, low:high]
            mask[low - offset : high - offset] = known[low:high]
            for part in parts_of(x, segment):
                rows.append(mid_side(segment)[part])
                marks.append(mask)
                owners.append((g, part))
        if not rows:
            raise ValueError("file: around the gaps it is silent; nothing is there to go by")
        y, mask = to_prior(torch.stack(rows), torch.stack(marks), rate, window)
        super().__init__(recording, torch.where(mask, y, 0).unsqueeze(1), mask, owners)

    def joined(self, signals: Tensor, rows: list[dict[str, Any]]) -> Recording:
        x, rate = self.recording.samples, self.recording.rate
        wide = resample(signals, self.window.rate, rate)[:, : self.span]
        out = x.clone()
        for g, (start, end) in enumerate(self.gaps):
            mine = [i for i, owner in enumerate(self.owners) if owner[0] == g]
            pieces = x.new_zeros(x.shape[0], self.span)
            for i in mine:
                pieces[self.owners[i][1], : wide.shape[1]] = wide[i]
            generated = 2 * mid_side(pieces) if x.shape[0] == 2 else pieces
            out[:, start:end] = splice(
                x, generated, start, end,
                offset=self.offsets[g], fade=self.fade, known=self.known_samples,
            )  # fmt: skip
            seams = [s for s in (start, end) if 0 < s < x.shape[1]]
            for i in mine[-1:]:
                rows[i]["clicks"] = [round(float(click(out.unsqueeze(0), s)), 2) for s in seams]
        return self.recording.with_samples(out)


def _offset(start: int, end: int, span: int, length: int) -> int:
    """First sample of a gap's window, which may lie before that of a short file."""
    if length < span:
        return (length - span) // 2
    return max(0, min((start + end - span) // 2, length - span))


def inpaint(
    prior: Prior,
    recording: Recording,
    gaps: Sequence[tuple[int, int]],
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """Fill gaps of a file, every sample outside of them as it was.

    Args:
        prior: on latents of audio.
        recording: the file; what it holds inside of the gaps is not looked at.
        gaps: first sample of each and the one after the last, checked (`times.check_gaps`).
        settings: of the run.
        observer: of the optimizer.
        stopped: told of an interruption; the takes then hold the best so far. Raised when None.

    Returns:
        One take per seed.

    Raises:
        ValueError: nothing is known but silence.
    """
    settings = settings or Settings()
    posed = Gaps(recording, gaps, window_of(prior), settings.fade)
    return restored(prior, posed, settings, observer, stopped)
