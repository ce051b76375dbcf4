r"""Clipped sound, given its peaks back.

A clipped sample says |x| ≥ θ and its sign. Windows that hold some go through the prior with them
hidden; what comes out is taken where it is beyond θ on the right side, elsewhere the sample stays

    out = s max(s x̂, θ),   s the sign of the clipped sample.

Where peaks then pass full scale, the whole file is brought down to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.restoration import Settings, Take, hidden
from ctrlgen.priors.prior import Prior

__all__ = ["declip", "threshold_of"]


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
        stopped: as of `restoration.inpaint`.
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
