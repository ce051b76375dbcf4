r"""Versions of one sound for a player that keeps its place: spectrograms, levels, seams of a gap.

    sample.panel = audio_panel({"original": x, "degraded": y, "linear": z, "take 1": a}, 16000,
                               ranges=[(1.8, 2.2)], numbers={"take 1": {"LSD (dB)": 2.1}})

Tracks are heard at one level: of each the level outside the ranges (of all of it, where there are
none) is that of the first. Spectrograms show 10 log10 |STFT|^2 from -80 to 0 dB of the loudest
point of the first track, on a logarithmic axis of frequency.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.extras import require
from ctrlgen.report.media import data_uri, picture_uri

__all__ = ["audio_panel", "matching_gains", "spectrogram"]

_ROWS, _COLUMNS = 160, 800
_LOWEST = 50.0  # Hz
_RANGE = 80.0  # dB
_SEAM = 0.008  # seconds on either side
_CONTEXT = 3.0  # seconds around the ranges that an excerpt holds
_LARGEST_GAIN = 12.0  # dB

Numbers = Mapping[str, Mapping[str, float | str | None]]


def audio_panel(
    tracks: Mapping[str, Tensor],
    rate: int,
    *,
    ranges: Sequence[tuple[float, float]] = (),
    cutoff: float | None = None,
    numbers: Numbers | None = None,
    budget: float = 2e6,
) -> dict[str, Any]:
    """What the page's script needs of some versions of one sound.

    Args:
        tracks: by name, each (channels, time) or (time,) in [-1, 1]; the first is what others are
            matched to. Samples that are not finite are silent.
        rate: samples per second.
        ranges: what was filled in, seconds from start to end.
        cutoff: above which nothing was measured, Hz.
        numbers: metrics of tracks, by track and by name.
        budget: bytes of the sounds and pictures together; where they are more, an excerpt around
            the ranges is there.

    Returns:
        JSON.

    Raises:
        ValueError: without a track, for tracks of another length than the first, or ranges outside.
    """
    if not tracks:
        raise ValueError("tracks: expected at least one, got none")
    waves = {name: _wave(name, value) for name, value in tracks.items()}
    length = next(iter(waves.values())).shape[1]
    for name, wave in waves.items():
        if wave.shape[1] != length:
            raise ValueError(
                f"tracks: expected {length} samples as in the first, {name} has {wave.shape[1]}"
            )
    for start, end in ranges:
        if not 0 <= start < end <= length / rate:
            raise ValueError(
                f"ranges: expected 0 <= start < end <= {length / rate:g} s, got {(start, end)}"
            )
    gains = matching_gains(waves, rate, ranges)
    share = budget / len(waves)
    first, last = _excerpt(length, rate, ranges, 0.8 * share)
    whole = {name: wave[:, first:last] for name, wave in waves.items()}
    shift = first / rate
    inner = [(start - shift, end - shift) for start, end in ranges]
    top = max(float(_power(next(iter(whole.values())), rate).max()), 1e-12)
    made = []
    for name, wave in whole.items():
        picture, _ = picture_uri(_painted(spectrogram(wave, rate, top)), 0.2 * share)
        made.append(
            {
                "name": name,
                "audio": _flac(wave, rate),
                "gain": round(gains[name], 2),
                "spectrogram": picture,
                "seams": [_seam(wave, rate, at) for each in inner for at in each],
                "numbers": dict((numbers or {}).get(name, {})),
            }
        )
    return {
        "rate": rate,
        "seconds": (last - first) / rate,
        "shift": shift,
        "excerpt": last - first < length,
        "ranges": [list(each) for each in inner],
        "cutoff": cutoff,
        "lowest": _LOWEST,
        "seam": _SEAM,
        "tracks": made,
    }


def matching_gains(
    waves: Mapping[str, Tensor], rate: int, ranges: Sequence[tuple[float, float]] = ()
) -> dict[str, float]:
    """Decibels by which each track (channels, time) is to be raised to be as loud as the first.

    The level is the RMS outside the ranges; a silent track stays as it is, and no gain is above
    12 dB.
    """
    length = next(iter(waves.values())).shape[1]
    outside = torch.ones(length, dtype=torch.bool)
    for start, end in ranges:
        outside[round(start * rate) : round(end * rate)] = False
    if not bool(outside.any()):
        outside[:] = True
    levels = {name: _level(wave[:, outside]) for name, wave in waves.items()}
    wanted = next(iter(levels.values()))
    gains = {}
    for name, level in levels.items():
        gain = wanted - level if math.isfinite(level) and math.isfinite(wanted) else 0.0
        gains[name] = max(-_LARGEST_GAIN, min(_LARGEST_GAIN, gain))
    return gains


def spectrogram(wave: Tensor, rate: int, top: float) -> Tensor:
    """Decibels below `top`, from -80 to 0, (rows, columns): frequencies rise from row to row.

    Args:
        wave: (channels, time).
        rate: samples per second.
        top: the power of 0 dB.
    """
    power = _power(wave, rate)
    places = _frequencies(rate) / (rate / 2) * (power.shape[0] - 1)
    edges = torch.cat((places, places[-1:] * (places[-1] / places[-2])))
    rows = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if math.ceil(high) - math.floor(low) <= 2:  # between two bins
            below, part = min(math.floor(low), len(power) - 1), low - math.floor(low)
            above = min(below + 1, len(power) - 1)
            rows.append((1 - part) * power[below] + part * power[above])
        else:
            rows.append(power[math.floor(low) : min(math.ceil(high), len(power))].mean(0))
    decibels = 10 * (torch.stack(rows) / top).clamp_min(1e-12).log10()
    return decibels.clamp(-_RANGE, 0)


def _frequencies(rate: int) -> Tensor:
    return torch.logspace(math.log10(_LOWEST), math.log10(rate / 2), _ROWS)


def _power(wave: Tensor, rate: int) -> Tensor:
    """|STFT|^2 of the mean of the channels, windows of 64 ms, at most `_COLUMNS` columns."""
    size = 2 ** round(math.log2(0.064 * rate))
    hop = max(size // 8, -(-wave.shape[1] // _COLUMNS))
    mono = wave.mean(0)
    if len(mono) < size:
        mono = torch.nn.functional.pad(mono, (0, size - len(mono)))
    window = torch.hann_window(size)
    spectrum = torch.stft(mono, size, hop, window=window, center=True, return_complex=True)
    return spectrum.abs().square()


def _painted(decibels: Tensor) -> np.ndarray:
    """Colours (rows, columns, 3), low frequencies at the bottom."""
    colours = require("matplotlib", "audio").colormaps["magma"]
    levels = (decibels / _RANGE + 1).flip(0).numpy()
    return np.ascontiguousarray(colours(levels, bytes=True)[..., :3])


def _wave(name: str, value: Tensor) -> Tensor:
    wave = torch.as_tensor(value).detach().cpu().float()
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not wave.shape[1]:
        raise ValueError(f"tracks: expected (channels, time), {name} has shape {tuple(wave.shape)}")
    return wave.nan_to_num(0.0, 0.0, 0.0)


def _level(wave: Tensor) -> float:
    power = float(wave.double().square().mean())
    return 10 * math.log10(power) if power > 1e-12 else -math.inf


def _excerpt(
    length: int, rate: int, ranges: Sequence[tuple[float, float]], share: float
) -> tuple[int, int]:
    """First and last sample: all where it fits at a byte and a half each, or what is around."""
    most = int(share / 1.5)
    if length <= most:
        return 0, length
    start = max(0, round((min(a for a, _ in ranges) - _CONTEXT) * rate)) if ranges else 0
    end = round((max(b for _, b in ranges) + _CONTEXT) * rate) if ranges else length
    return start, min(length, max(min(end, start + most), start + rate))


def _flac(wave: Tensor, rate: int) -> str:
    """Sixteen bits, lossless, clipped at full scale."""
    payload = io.BytesIO()
    samples = wave.clamp(-1, 1).T.numpy()
    require("soundfile", "audio").write(payload, samples, rate, format="FLAC", subtype="PCM_16")
    return data_uri(payload.getvalue(), "audio/flac")


def _seam(wave: Tensor, rate: int, at: float) -> list[int]:
    """The mean of the channels around a place, in 1e-4 of full scale; silent outside the sound."""
    middle, half = round(at * rate), round(_SEAM * rate)
    mono = torch.nn.functional.pad(wave.mean(0), (half, half + 1))
    part = mono[middle : middle + 2 * half + 1]
    return (part * 1e4).round().int().tolist()
