"""Gaps of a sound file filled, every sample outside of them as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.metrics import click
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import (
    STRIDE,
    Settings,
    Take,
    audible,
    parts_of,
    solve_rows,
    tell,
    to_prior,
    window_of,
)
from ctrlgen.domains.audio.splicing import mid_side, splice
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["inpaint"]


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
    x, rate = recording.samples, recording.rate
    inner, length = window_of(prior)
    span = round(length * rate / inner)
    known = torch.ones(x.shape[1], dtype=torch.bool)
    for start, end in gaps:
        known[start:end] = False
    audible(recording.with_samples(torch.where(known, x, 0)))
    offsets, segments, masks = [], [], []
    for start, end in gaps:
        offset = (start + end - span) // 2
        offset = (x.shape[1] - span) // 2 if x.shape[1] < span else offset
        offset = max(0, min(offset, x.shape[1] - span)) if x.shape[1] >= span else offset
        low, high = max(0, offset), min(x.shape[1], offset + span)
        segment, mask = x.new_zeros(x.shape[0], span), torch.zeros(span, dtype=torch.bool)
        segment[:, low - offset : high - offset] = torch.where(known, x, 0)[:, low:high]
        mask[low - offset : high - offset] = known[low:high]
        offsets.append(offset)
        segments.append(segment)
        masks.append(mask)
    rows, marks, seeds, owners = [], [], [], []
    for take, seed in enumerate(settings.seeds):
        for g, segment in enumerate(segments):
            for part in parts_of(x, segment):
                rows.append(mid_side(segment)[part])
                marks.append(masks[g])
                seeds.append(seed + STRIDE * (len(x) * g + part))
                owners.append((take, g, part))
    y, mask = to_prior(torch.stack(rows), torch.stack(marks), rate, inner, length)
    operator = TimeMask(mask)
    done = solve_rows(prior, operator, operator(y.unsqueeze(1)), mask, seeds, settings, observer)
    takes = [Take(recording, seed) for seed in settings.seeds]
    wide = resample(done.samples[:, 0].double(), inner, rate)[:, :span]
    for take in range(len(takes)):
        out = x.clone()
        for g, (start, end) in enumerate(gaps):
            pieces = x.new_zeros(x.shape[0], span)
            for i, owner in enumerate(owners):
                if owner[:2] == (take, g):
                    pieces[owner[2], : wide.shape[1]] = wide[i]
                    takes[take].rows.append({"gap": g, "part": owner[2], **done.rows[i]})
            generated = 2 * mid_side(pieces) if x.shape[0] == 2 else pieces
            fade = round(settings.fade * rate)
            inside = splice(x, generated, start, end, offset=offsets[g], fade=fade, known=known)
            out[:, start:end] = inside
            seams = [s for s in (start, end) if 0 < s < x.shape[1]]
            takes[take].rows[-1]["clicks"] = [
                round(float(click(out.unsqueeze(0), s)), 2) for s in seams
            ]
        takes[take].recording = recording.with_samples(out)
    tell(done, stopped)
    return takes
