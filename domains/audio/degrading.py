"""Sound files degraded on purpose: what the restoring commands take, where the truth is at hand."""

from __future__ import annotations

from pathlib import Path

from ctrlgen.commands import console
from ctrlgen.domains.audio import files, times
from ctrlgen.domains.audio.operators import Clipping, TimeMask, gaps
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.runs.outputs import check_inputs, hold

__all__ = ["degrade"]


def degrade(
    file: Path,
    out: Path,
    *,
    gap: list[str] | None,
    rate: int | None,
    clip: float | None,
    overwrite: bool,
) -> None:
    """Write a degraded file; see `cli.degrade`.

    Raises:
        ValueError: not exactly one way, one that does not fit the file, or an output that is there.
    """
    if sum((bool(gap), rate is not None, clip is not None)) != 1:
        raise ValueError("gap: expected exactly one of --gap, --rate and --clip")
    if out.suffix.lower() != file.suffix.lower():
        raise ValueError(
            f"out: expected a file that ends in {file.suffix}, the format of {file}, got {out}"
        )
    recording = files.read(file)
    check_inputs([out], [file])
    if out.exists() and not overwrite:
        raise ValueError(f"out: {out} is there; name another file or add --overwrite")
    x = recording.samples[None]
    if gap:
        spans = [times.gap(text, recording.rate) for text in gap]
        seconds = x.shape[2] / recording.rate
        times.check_gaps(spans, x.shape[2], recording.rate, seconds)
        x = TimeMask(gaps(spans, x.shape[2]))(x)
    elif clip is not None:
        x = Clipping(clip)(x)
    else:
        assert rate is not None
        if rate >= recording.rate:
            raise ValueError(f"rate: expected less than the file's {recording.rate}, got {rate}")
        x = resample(x, recording.rate, rate)
    degraded = files.Recording(
        x[0], rate or recording.rate, recording.format, recording.subtype, recording.tags
    )
    with hold(out):
        files.write(out, degraded)
    console.say(out)
