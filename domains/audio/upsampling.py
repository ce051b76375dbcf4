r"""A sound file of a lower rate with the band that it lacks.

Of the wider signal only what the low band does not say is taken, x̂ − H†H x̂, so that the file's own
band stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.posing import Posed, Take, Window, audible, parts_of, window_of
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import Settings, restored
from ctrlgen.domains.audio.splicing import mid_side, overlap_add, window_starts
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["Band", "check_rate", "upsample"]


def check_rate(window: Window, recording: Recording, rate: int) -> int:
    """The factor from a file's rate to the prior's.

    Raises:
        ValueError: the file's rate is not a half, a quarter or an eighth of it, or the wanted rate
            is below it.
    """
    factor, rest = divmod(window.rate, recording.rate)
    if rest or factor not in (2, 4, 8):
        told = ", ".join(str(window.rate // k) for k in (2, 4, 8))
        raise ValueError(f"file: expected a rate of {told} Hz, got {recording.rate} Hz")
    if rate < window.rate:
        raise ValueError(f"rate: expected at least {window.rate} Hz, that of the prior, got {rate}")
    return factor


class Band(Posed):
    """Rows of the windows that cover a file of a lower rate.

    Args:
        recording: the file, at a half, a quarter or an eighth of the prior's rate.
        rate: of the result in Hz, that of the prior or more.
        window: of the prior.

    Raises:
        ValueError: a rate that is none of these, or a silent file.
    """

    def __init__(self, recording: Recording, rate: int, window: Window) -> None:
        factor = check_rate(window, recording, rate)
        x = audible(recording).float()
        self.rate, self.window, self.operator = rate, window, LowPass(factor)
        short = window.length // factor
        self.starts = window_starts(x.shape[1], short, short // 4)
        padded = torch.nn.functional.pad(x, (0, max(0, short - x.shape[1])))
        rows, owners = [], []
        for w, start in enumerate(self.starts):
            segment = padded[:, start : start + short]
            for part in parts_of(x, segment):
                rows.append(mid_side(segment)[part])
                owners.append((w, part))
        if not rows:
            raise ValueError("file: it is silent; nothing is there to go by")
        y = self.operator(self.operator.pinv(torch.stack(rows).unsqueeze(1)))
        super().__init__(recording, y, None, owners, factor)

    def joined(self, signals: Tensor, rows: list[dict[str, Any]]) -> Recording:
        file, operator, factor = self.recording, self.operator, self.operator.factor
        channels, length = file.samples.shape
        wide = signals.unsqueeze(1)
        high = (wide - operator.project(wide))[:, 0]
        parts = high.new_zeros(len(self.starts), channels, self.window.length)
        for i, (w, part) in enumerate(self.owners):
            parts[w, part] = high[i]
        if channels == 2:
            parts = 2 * mid_side(parts)
        added = overlap_add(parts, [start * factor for start in self.starts], length * factor)
        low = file.samples.double().unsqueeze(0)
        whole = operator.pinv(low) + (added - operator.project(added.unsqueeze(0))[0])
        out = resample(whole[0], self.window.rate, self.rate)
        return Recording(out, self.rate, file.format, file.subtype, dict(file.tags))


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
    posed = Band(recording, rate, window_of(prior))
    return restored(prior, posed, settings or Settings(), observer, stopped)
