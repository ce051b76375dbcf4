r"""Clipped sound, given its peaks back.

A clipped sample says |x| ≥ θ and its sign. Windows that hold some go through the prior with them
hidden; what comes out is taken where it is beyond θ on the right side, elsewhere the sample stays

    out = s max(s x̂, θ),   s the sign of the clipped sample.

Where peaks then pass full scale, the whole file is brought down to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.posing import (
    Posed,
    Take,
    Window,
    audible,
    to_prior,
    window_of,
    windows,
)
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import Settings, restored
from ctrlgen.domains.audio.splicing import overlap_add
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior

__all__ = ["Peaks", "declip", "threshold_of"]


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


class Peaks(Posed):
    """Rows of the windows of a file in which samples are clipped, channel by channel.

    Args:
        recording: the file.
        threshold: θ.
        window: of the prior.

    Raises:
        ValueError: the file is silent, or nothing but clipped.
    """

    def __init__(self, recording: Recording, threshold: float, window: Window) -> None:
        x, rate = audible(recording), recording.rate
        self.window, self.clipped = window, x.abs() >= threshold
        self.span, self.starts = (
            round(window.length * rate / window.rate),
            windows(window, recording),
        )
        more = max(0, self.span - x.shape[1])
        self.padded = torch.nn.functional.pad(torch.where(self.clipped, 0, x), (0, more))
        there = torch.nn.functional.pad(~self.clipped, (0, more))
        rows, marks, owners = [], [], []
        for w, start in enumerate(self.starts):
            for channel in range(len(x)):
                mark = there[channel, start : start + self.span]
                if bool(mark[: x.shape[1] - start].all()) or not bool(mark.any()):
                    continue
                rows.append(self.padded[channel, start : start + self.span])
                marks.append(mark)
                owners.append((w, channel))
        if not rows:
            raise ValueError(f"threshold: no window is clipped in part at {threshold:.4g}")
        y, mask = to_prior(torch.stack(rows), torch.stack(marks), rate, window)
        super().__init__(recording, torch.where(mask, y, 0).unsqueeze(1), mask, owners)

    def joined(self, signals: Tensor, rows: list[dict[str, Any]]) -> Recording:
        x = self.recording.samples
        wide = resample(signals, self.window.rate, self.recording.rate)[:, : self.span]
        parts = torch.stack([self.padded[:, start : start + self.span] for start in self.starts])
        for i, (w, channel) in enumerate(self.owners):
            parts[w, channel, : wide.shape[1]] = wide[i]
        whole = overlap_add(parts, self.starts, x.shape[1], coherent=True)
        sign = x.sign()
        out = torch.where(self.clipped, sign * torch.maximum(sign * whole, x.abs()), x)
        peak = float(out.abs().max())
        if peak > 1 and self.recording.subtype not in ("FLOAT", "DOUBLE"):
            out = out / peak
            rows.append({"status": "brought down", "gain": round(1 / peak, 4)})
        return self.recording.with_samples(out)


def declip(
    prior: Prior,
    recording: Recording,
    threshold: float,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file with its clipped peaks restored; one take per seed.

    Args:
        prior: on latents of audio.
        recording: the file.
        threshold: θ.
        settings: of the run.
        observer: of the optimizer.
        stopped: as of `inpainting.inpaint`.

    Raises:
        ValueError: the file is silent, or nothing but clipped.
    """
    posed = Peaks(recording, threshold, window_of(prior))
    return restored(prior, posed, settings or Settings(), observer, stopped)
