r"""A sound file of a lower rate with the band that it lacks.

Of the wider signal only what the low band does not say is taken, x̂ − H†H x̂, so that the file's own
band stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import (
    STRIDE,
    Settings,
    Take,
    audible,
    parts_of,
    solve_rows,
    tell,
    window_of,
)
from ctrlgen.domains.audio.splicing import mid_side, overlap_add, window_starts
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["check_rate", "upsample"]


def check_rate(prior: Prior, recording: Recording, rate: int) -> int:
    """The factor from a file's rate to the prior's.

    Raises:
        ValueError: the file's rate is not a half, a quarter or an eighth of it, or the wanted rate
            is below it.
    """
    inner, _ = window_of(prior)
    factor, rest = divmod(inner, recording.rate)
    if rest or factor not in (2, 4, 8):
        told = ", ".join(str(inner // k) for k in (2, 4, 8))
        raise ValueError(f"file: expected a rate of {told} Hz, got {recording.rate} Hz")
    if rate < inner:
        raise ValueError(f"rate: expected at least {inner} Hz, that of the prior, got {rate}")
    return factor


def upsample(
    prior: Prior,
    recording: Recording,
    rate: int,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file of a lower rate with the band that it lacks, its own band as it was.

    Args:
        prior: on latents of audio, at 2, 4 or 8 times the file's rate.
        recording: the file.
        rate: of the result in Hz, that of the prior or more.
        settings: of the run.
        observer: of the optimizer.
        stopped: told of an interruption; the takes then hold the best so far. Raised when None.

    Returns:
        One take per seed.

    Raises:
        ValueError: a rate that is none of these, or a silent file.
    """
    settings = settings or Settings()
    inner, window = window_of(prior)
    factor = check_rate(prior, recording, rate)
    x = audible(recording).float()
    operator, short = LowPass(factor), window // factor
    starts = window_starts(x.shape[1], short, short // 4)
    padded = torch.nn.functional.pad(x, (0, max(0, short - x.shape[1])))
    rows, seeds, owners = [], [], []
    for take, seed in enumerate(settings.seeds):
        for w, start in enumerate(starts):
            segment = padded[:, start : start + short]
            for part in parts_of(x, segment):
                rows.append(mid_side(segment)[part])
                seeds.append(seed + STRIDE * (len(x) * w + part))
                owners.append((take, w, part))
    y = torch.stack(rows).unsqueeze(1)
    done = solve_rows(prior, operator, operator(operator.pinv(y)), None, seeds, settings, observer)
    high = (done.samples - operator.project(done.samples))[:, 0].double()
    takes = []
    for take, seed in enumerate(settings.seeds):
        parts = high.new_zeros(len(starts), x.shape[0], window)
        notes = []
        for i, owner in enumerate(owners):
            if owner[0] == take:
                parts[owner[1], owner[2]] = high[i]
                notes.append({"window": owner[1], "part": owner[2], **done.rows[i]})
        if x.shape[0] == 2:
            parts = 2 * mid_side(parts)
        length = x.shape[1] * factor
        added = overlap_add(parts, [start * factor for start in starts], length)
        low = recording.samples.double().unsqueeze(0)
        whole = operator.pinv(low) + (added - operator.project(added.unsqueeze(0))[0])
        out = resample(whole[0], inner, rate)
        wide = Recording(out, rate, recording.format, recording.subtype, dict(recording.tags))
        takes.append(Take(wide, seed, notes))
    tell(done, stopped)
    return takes
