"""What a command asks of a sound file, posed: the file's rows, and what is said of it.

    inpaint    gaps, of words, labels or runs of zeros       extend    a gap at the end
    upsample   a band                                        declip    peaks

Everything that can be wrong with a file or an option shows here, before any compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctrlgen.domains.audio import files, times
from ctrlgen.domains.audio.clipping import Peaks, threshold_of
from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.inpainting import Gaps
from ctrlgen.domains.audio.posing import Posed, Window, lengthened
from ctrlgen.domains.audio.upsampling import Band

__all__ = ["SUFFIXES", "pose", "posed", "sounds_in"]

SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".ogg")
"""Files that a folder is searched for."""


def sounds_in(folder: Path) -> list[Path]:
    """The sound files of a folder by name.

    Raises:
        ValueError: there is none.
    """
    sounds = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    if not sounds:
        raise ValueError(f"file: {folder} holds no sound file ({', '.join(SUFFIXES)})")
    return sounds


def pose(
    task: str, recording: Recording, way: Mapping[str, Any], window: Window
) -> tuple[Posed, dict[str, Any]]:
    """Rows of a file, and what is said of them: gaps in seconds, rate or threshold.

    Args:
        task: "inpaint", "upsample", "declip" or "extend".
        recording: the file.
        way: options of the task; see `ctrlgen.domains.audio.cli`.
        window: of the prior.

    Raises:
        ValueError: whatever does not fit.
    """
    if task == "upsample":
        return Band(recording, way["rate"], window), {"rate": way["rate"]}
    if task == "declip":
        threshold = threshold_of(recording, way["threshold"])
        return Peaks(recording, threshold, window), {"threshold": threshold}
    longest = window.length / window.rate / 2
    if task == "extend":
        seconds = way["seconds"]
        if not 0 < seconds <= longest:
            raise ValueError(
                f"seconds: expected up to {longest:g} s, half of what the prior hears, "
                f"got {seconds:g}"
            )
        recording = lengthened(recording, seconds)
        length = recording.samples.shape[1]
        spans = [(length - round(seconds * recording.rate), length)]
    elif way["labels"] is not None:
        spans = times.labels(way["labels"], recording.rate)
    elif way["auto_gaps"]:
        spans = times.silent_gaps(recording.samples, recording.rate)
        if not spans:
            raise ValueError("gap: no run of zeros of 5 ms or more lies inside of the file")
    else:
        spans = [times.gap(text, recording.rate) for text in way["gap"]]
    spans = times.check_gaps(spans, recording.samples.shape[1], recording.rate, longest)
    said = {"gaps_s": [[start / recording.rate, end / recording.rate] for start, end in spans]}
    return Gaps(recording, spans, window, way["fade"]), said


@lru_cache(maxsize=2)
def posed(
    task: str, file: Path, way: tuple[tuple[str, Any], ...], window: Window
) -> tuple[Posed, dict[str, Any]]:
    """`pose` of a file, which is read once for all of its rows that are asked for in a row.

    Args:
        task: as of `pose`.
        file: of the sound.
        way: items of the options, hashable.
        window: of the prior.
    """
    return pose(task, files.read(file), dict(way), window)
