r"""Sound files: read as they are, written back as they were.

A recording keeps what a file says beside its samples (rate, format, subtype such as PCM_24, tags),
so that what is written differs from what was read in the samples alone. Samples are float64, shape
(C, L), in [-1, 1) where the file holds integers: of b bits, they are s / 2^(b-1), so reading and
writing the same subtype gives the same bits.

WAV, FLAC, AIFF, OGG and MP3 are read by libsndfile; its own endings and names are used.
"""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.audio.mpeg import count
from ctrlgen.extras import require
from ctrlgen.rows.checks import check_sizes

__all__ = ["Recording", "SoundFile", "read", "write"]

_TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright")
_LOSSY = ("MP3", "OGG")
_FILMS = (".mp4", ".m4v", ".m4a", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg")
"""Containers of films, and of sound that libsndfile does not read."""


@dataclass(frozen=True)
class Recording:
    """A sound file in memory.

    Attributes:
        samples: float64, shape (C, L).
        rate: in Hz.
        format: libsndfile's name of the container, e.g. "WAV".
        subtype: of the samples, e.g. "PCM_16", "PCM_24", "FLOAT".
        tags: title, artist and the like, where the container holds them.
    """

    samples: Tensor
    rate: int
    format: str = "WAV"
    subtype: str = "PCM_16"
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples.shape[1] / self.rate

    def with_samples(self, samples: Tensor) -> Recording:
        """The same file with other samples, shape (C, L)."""
        return replace(self, samples=samples)


@dataclass(frozen=True)
class SoundFile:
    """How a `Command` is given a sound (C, L) in [-1, 1]: as a WAV file of 16 bits.

    Args:
        rate: in Hz.

    Raises:
        ValueError: for a rate that is not positive.
    """

    rate: int
    suffix: ClassVar[str] = ".wav"

    def __post_init__(self) -> None:
        check_sizes(rate=self.rate)

    def __call__(self, file: Path, sound: Tensor) -> None:
        write(file, Recording(sound.double(), self.rate))


def read(file: str | Path) -> Recording:
    """Read a sound file.

    Args:
        file: WAV, FLAC, AIFF, OGG, MP3 or what else libsndfile reads.

    Raises:
        FileNotFoundError: there is no such file.
        MissingExtra: soundfile is not installed.
        ValueError: it is no sound file, is empty or damaged, or holds samples that are no numbers.
    """
    soundfile: Any = require("soundfile", "audio")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"file: {path} is not there")
    try:
        with soundfile.SoundFile(path) as sound:
            announced = sound.frames
            if sound.format == "MP3":
                _check_mp3(path, announced, sound.samplerate)
            samples = sound.read(dtype="float64", always_2d=True)
            rate, kind, subtype = sound.samplerate, sound.format, sound.subtype
            tags = {name: getattr(sound, name) for name in _TAGS if getattr(sound, name, "")}
    except (soundfile.SoundFileError, RuntimeError, TypeError, MemoryError) as error:
        film = path.suffix.lower() in _FILMS
        hint = f"; take the sound out of it: ffmpeg -i {path.name} {path.stem}.wav" if film else ""
        raise ValueError(
            f"file: {path} is no sound file that can be read: {error}{hint}"
        ) from error
    whole, there = _announced(path), path.stat().st_size
    if there < whole - 1:  # a last odd byte may lack its padding
        raise ValueError(f"file: {path} ends after {there} of {whole} bytes")
    if len(samples) == 0:
        raise ValueError(f"file: {path} holds no samples")
    if kind not in _LOSSY and 0 < announced < 2**62 and len(samples) < announced:
        raise ValueError(f"file: {path} ends after {len(samples)} of {announced} samples")
    bad = np.flatnonzero(~np.isfinite(samples).all(axis=1))
    if len(bad):
        raise ValueError(
            f"file: {path} holds {len(bad)} samples that are no numbers, "
            f"the first at {bad[0] / rate:.4f} s"
        )
    return Recording(torch.from_numpy(samples.T.copy()), rate, kind, subtype, tags)


def _check_mp3(path: Path, announced: int, rate: int) -> None:
    """Refuse an MP3 whose header tells another length than its frames have.

    An encoder adds up to three frames of delay and padding, which decoders leave out; without a
    header, libsndfile goes by the length of the first frame, which is right to 0.3 %.

    Raises:
        ValueError: it does; both are named.
    """
    counted = count(path.read_bytes())
    if counted is None:
        return
    most = 1.003 * counted.samples + counted.frame
    if counted.samples - 5 * counted.frame <= announced <= most:
        return
    raise ValueError(
        f"file: {path} says that it is {announced / rate:.4g} s long, and its frames are "
        f"{counted.samples / rate:.4g} s; write it anew, for example as WAV"
    )


def _announced(path: Path) -> int:
    """Bytes that a WAV or AIFF file says it has, 0 where it does not say.

    Libsndfile takes what there is. A header that is written before its end is known says nothing,
    or 2 GiB and more.
    """
    with path.open("rb") as file:
        head = file.read(8)
    order = {b"RIFF": "<I", b"FORM": ">I"}.get(head[:4])
    if order is None:
        return 0
    (count,) = struct.unpack(order, head[4:])
    return count + 8 if count < 2**31 - 2**16 else 0


def write(file: str | Path, recording: Recording) -> Path:
    """Write a sound file, atomically; nothing half-written is left.

    Samples beyond what the subtype holds are held at its ends, never wrapped.

    Args:
        file: where; its ending should be that of the recording's format.
        recording: what.

    Raises:
        MissingExtra: soundfile is not installed.
        ValueError: samples of another shape or that are no numbers, or a format that can't hold
            the subtype.
        OSError: it cannot be written there.
    """
    soundfile: Any = require("soundfile", "audio")
    path, samples = Path(file), recording.samples
    if samples.ndim != 2 or 0 in samples.shape:
        raise ValueError(f"samples: expected shape (C, L), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise ValueError(f"samples: {int((~samples.isfinite()).sum())} of them are no numbers")
    if not soundfile.check_format(recording.format, recording.subtype):
        raise ValueError(
            f"subtype: {recording.format} does not hold {recording.subtype}; "
            f"it holds {', '.join(soundfile.available_subtypes(recording.format))}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        with soundfile.SoundFile(
            partial,
            "w",
            recording.rate,
            len(samples),
            recording.subtype,
            format=recording.format,
        ) as sound:
            for name, value in recording.tags.items():
                setattr(sound, name, value)
            sound.write(samples.detach().cpu().double().numpy().T)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path
