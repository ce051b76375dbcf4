r"""Variations of a score: the same notes by other instruments, in another key, at another speed.

A Standard MIDI File has sixteen channels; a program change gives a channel one of the 128 sounds of
General MIDI, which come in sixteen families of eight (pianos, chromatic percussion, organs, ...).
Channel 10 (9 from zero) is percussion: it is never transposed and keeps its sounds. A variation

    transposes by −5 to +6 semitones,          stretches time by 0.8 to 1.25 (log-uniform),
    moves each program within its family,      mutes each channel with probability 0.15,
    changes the volume by −6 to +3 dB,         turns reverberation and chorus on or off.

Variation zero is the score as it was written.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ctrlgen.extras import require
from ctrlgen.rows.seeds import uniform

__all__ = ["Variation", "arrange", "variation"]

_PERCUSSION, _CHANNELS, _STREAM = 9, 16, 40


@dataclass(frozen=True)
class Variation:
    """What is changed of a score.

    Attributes:
        semitones: of transposition.
        tempo: speed over that of the score.
        programs: of each channel, added within its family of eight.
        muted: channels that are silent.
        decibels: of the volume.
        reverb, chorus: effects of the synthesiser.
    """

    semitones: int = 0
    tempo: float = 1.0
    programs: tuple[int, ...] = (0,) * _CHANNELS
    muted: tuple[int, ...] = ()
    decibels: float = 0.0
    reverb: bool = True
    chorus: bool = True

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def variation(seed: int, track: int, number: int) -> Variation:
    """Variation `number` of score `track`, a pure function of the three; zero changes nothing.

    Args:
        seed: of the data set.
        track: of the score.
        number: of the variation, from 0.
    """
    if number == 0:
        return Variation()
    draws = uniform([seed], (5 + 2 * _CHANNELS,), _STREAM + 4096 * track + number)[0]
    place = [float(draw) for draw in draws.to(torch.float64)]
    muted = tuple(c for c in range(_CHANNELS) if place[5 + c] < 0.15)
    return Variation(
        semitones=math.floor(place[0] * 12) - 5,
        tempo=round(0.8 * (1.25 / 0.8) ** place[1], 4),
        programs=tuple(math.floor(8 * draw) for draw in place[5 + _CHANNELS :]),
        muted=muted if len(muted) < _CHANNELS else (),
        decibels=round(-6 + 9 * place[2], 2),
        reverb=place[3] < 0.7,
        chorus=place[4] < 0.5,
    )


def arrange(score: bytes, change: Variation) -> bytes:
    """A score with the variation's key, tempo, programs and mutes; its effects are the renderer's.

    Args:
        score: a Standard MIDI File.
        change: the variation.

    Raises:
        MissingExtra: mido is not installed.
        ValueError: the bytes are no MIDI file.
    """
    require("mido", "audio")
    import mido

    try:
        file = mido.MidiFile(file=io.BytesIO(score))
    except (OSError, EOFError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"score: expected a Standard MIDI File: {error}") from error
    for track in file.tracks:
        for event in track:
            channel = getattr(event, "channel", -1)
            if event.type == "set_tempo":
                event.tempo = min(2**24 - 1, max(1, round(event.tempo / change.tempo)))
            elif event.type in ("note_on", "note_off"):
                if channel in change.muted and event.type == "note_on":
                    event.velocity = 0
                if channel != _PERCUSSION:
                    event.note = _folded(event.note + change.semitones)
            elif event.type == "program_change" and channel != _PERCUSSION:
                family, member = divmod(event.program, 8)
                event.program = 8 * family + (member + change.programs[channel]) % 8
    if not _tempo_at_start(file) and change.tempo != 1:
        # A score without a tempo plays at 500,000 microseconds a beat.
        start = mido.MetaMessage("set_tempo", tempo=round(500_000 / change.tempo), time=0)
        file.tracks[0].insert(0, start)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _folded(note: int) -> int:
    """A note outside of MIDI's 0..127 moved by an octave."""
    return note + 12 if note < 0 else note - 12 if note > 127 else note


def _tempo_at_start(file: Any) -> bool:
    """Whether some track sets the tempo before time passes."""
    for track in file.tracks:
        elapsed = 0
        for event in track:
            elapsed += event.time
            if elapsed > 0:
                break
            if event.type == "set_tempo":
                return True
    return False
