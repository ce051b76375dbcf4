r"""Clipped sound, given its peaks back.

A clipped sample says |x| ≥ θ and its sign. Windows that hold some go through the prior with them
hidden; what comes out is taken where it is beyond θ on the right side, elsewhere the sample stays

    out = s max(s x̂, θ),   s the sign of the clipped sample.

Where peaks then pass full scale, the whole file is brought down to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import (
    STRIDE,
    Settings,
    Take,
    audible,
    solve_rows,
    tell,
    to_prior,
    window_of,
    windows,
)
from ctrlgen.domains.audio.splicing import overlap_add
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["declip", "hidden", "threshold_of"]


def threshold_of(recording: Recording, threshold: float | None) -> float:
    """Amplitude at which a file is clipped: that which is named, or its peak.

    Raises:
        ValueError: an amplitude out of range, or a file of which no run of samples lies there.
    """
    x = recording.samples.abs()
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected an amplitude in (0, 1], got {threshold}")
    level = float(x.max()) * (1 - 1e-4) if threshold is None else threshold
    at = x >= level
    if level == 0 or not bool((at[:, 1:] & at[:, :-1]).any()):
        raise ValueError(f"threshold: no two samples in a row lie at or beyond {level:.4g}")
    return level


def hidden(
    prior: Prior,
    recording: Recording,
    known: Tensor,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file of which single samples are hidden, channel by channel, as the prior has it.

    Args:
        prior: on latents of audio.
        recording: the file.
        known: which samples are, bool, shape (C, L).
        settings: of the run.
        observer: of the optimizer.
        stopped: as of `inpainting.inpaint`.

    Returns:
        One take per seed; its samples are those of the prior wherever a window hides something.

    Raises:
        ValueError: the file is silent.
    """
    settings = settings or Settings()
    x, rate = audible(recording), recording.rate
    inner, length = window_of(prior)
    span, starts = round(length * rate / inner), windows(prior, recording)
    more = max(0, span - x.shape[1])
    padded = torch.nn.functional.pad(torch.where(known, x, 0), (0, more))
    there = torch.nn.functional.pad(known, (0, more))
    rows, marks, seeds, owners = [], [], [], []
    for take, seed in enumerate(settings.seeds):
        for w, start in enumerate(starts):
            for channel in range(len(x)):
                mark = there[channel, start : start + span]
                if bool(mark[: x.shape[1] - start].all()) or not bool(mark.any()):
                    continue
                rows.append(padded[channel, start : start + span])
                marks.append(mark)
                seeds.append(seed + STRIDE * (len(x) * w + channel))
                owners.append((take, w, channel))
    takes = [Take(recording, seed) for seed in settings.seeds]
    if not rows:
        return takes
    y, mask = to_prior(torch.stack(rows), torch.stack(marks), rate, inner, length)
    operator = TimeMask(mask)
    done = solve_rows(prior, operator, operator(y.unsqueeze(1)), mask, seeds, settings, observer)
    wide = resample(done.samples[:, 0].double(), inner, rate)[:, :span]
    for take, result in enumerate(takes):
        parts = torch.stack([padded[:, start : start + span] for start in starts])
        for i, owner in enumerate(owners):
            if owner[0] == take:
                parts[owner[1], owner[2], : wide.shape[1]] = wide[i]
                result.rows.append({"window": owner[1], "part": owner[2], **done.rows[i]})
        whole = overlap_add(parts, starts, x.shape[1], coherent=True)
        result.recording = recording.with_samples(whole)
    tell(done, stopped)
    return takes


def declip(
    prior: Prior,
    recording: Recording,
    threshold: float,
    settings: Settings | None = None,
    *,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file with its clipped peaks restored; one take per seed.

    Args:
        prior: on latents of audio.
        recording: the file.
        threshold: θ.
        settings: of the run.
        stopped: as of `inpainting.inpaint`.
    """
    x = recording.samples
    clipped = x.abs() >= threshold
    takes = []
    for take in hidden(prior, recording, ~clipped, settings, stopped=stopped):
        sign = x.sign()
        peaks = sign * torch.maximum(sign * take.recording.samples, x.abs())
        out = torch.where(clipped, peaks, x)
        peak = float(out.abs().max())
        if peak > 1 and recording.subtype not in ("FLOAT", "DOUBLE"):
            out = out / peak
            take.rows.append({"status": "brought down", "gain": round(1 / peak, 4)})
        takes.append(Take(recording.with_samples(out), take.seed, take.rows))
    return takes
