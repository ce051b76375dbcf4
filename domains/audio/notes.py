"""Notes that Basic Pitch hears (Bittner et al., arXiv 2203.09893), and their F1 in gaps.

A network of 17 thousand weights reads 2 s of 22.05 kHz mono and gives, 86 times a second, the
probability that each of 88 semitones from A0 (27.5 Hz) sounds, and that it begins. Here a note is a
run of frames of one semitone whose probability is at least 0.3, cut where an onset peaks at 0.5 or
more, of at least 58 ms. Notes of a gap are clipped to it: one that rings on into the gap begins
with it.

    F1 = 2 n / (notes of the one + notes of the other)

where n notes are paired, each once, whose pitches agree and whose onsets differ by at most 50 ms:
`mir_eval`'s measure without offsets. It is 0 where one of the two is silent, and not a number where
both are. Two takes that are equally good music share few notes: it says how much of *this* music
came back.

    fetch("data")                                                    # the wheel, 0.8 MB, Apache 2.0
    network = load("data")                                           # needs ctrlgen[notes]
    note_f1(network, x, truth, 16000, span)                          # one number a clip
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.audio.filters import check_signals
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.extras import require
from ctrlgen.training.wheels import needed, wheel

__all__ = ["PACKAGE", "BasicPitch", "events", "fetch", "load", "note_f1"]

PACKAGE = "basic-pitch==0.4.0"
"""Whose wheel has the weights."""

_SHA256 = "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"
_MODEL = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
_RATE, _HOP, _WINDOW = 22050, 256, 43844
_CONTEXT = 26  # frames at both ends of a window that only inform those between
_KEPT = _WINDOW // _HOP + 1 - 2 * _CONTEXT
_LOWEST = 27.5  # Hz
_SOUNDS, _BEGINS, _LEAST = 0.3, 0.5, 5
_TOLERANCE = 0.05  # s


class BasicPitch:
    """The network, run by onnxruntime on the CPU.

    Args:
        model: bytes of `nmp.onnx`.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, model: bytes) -> None:
        runtime: Any = require("onnxruntime", "notes")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (self._input,) = (each.name for each in self._session.get_inputs())

    def posteriors(self, x: Tensor, rate: int, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Probabilities that semitones sound and that they begin, over a span of signals.

        Args:
            x: shape (B, 1, L).
            rate: of x, in Hz.
            span: first sample and the one after the last.

        Returns:
            Two tensors (B, T, 88), one frame every 256/22050 s from the span's first sample on.

        Raises:
            ValueError: another shape, more channels, or a span outside the signals.
        """
        check_signals(x)
        if x.shape[1] != 1:
            raise ValueError(f"x: expected one channel, got {x.shape[1]}")
        if not 0 <= span[0] < span[1] <= x.shape[2]:
            raise ValueError(f"span: expected samples within 0..{x.shape[2]}, got {span}")
        heard = resample(x[:, 0].detach().cpu().float(), rate, _RATE).numpy()
        first = round(span[0] / rate * _RATE) - _CONTEXT * _HOP
        frames = -(-(span[1] - span[0]) * _RATE // (rate * _HOP))  # rounded up, exactly
        windows = -(-frames // _KEPT)
        after = max(0, first + (windows - 1) * _KEPT * _HOP + _WINDOW - heard.shape[1])
        padded = np.pad(heard, ((0, 0), (max(0, -first), after)))
        start = max(0, first)
        sounding, beginning = [], []
        for k in range(windows):
            at = start + k * _KEPT * _HOP
            part = padded[:, at : at + _WINDOW, None]
            names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
            note, onset = self._session.run(names, {self._input: part})
            sounding.append(note[:, _CONTEXT:-_CONTEXT])
            beginning.append(onset[:, _CONTEXT:-_CONTEXT])
        together = [np.concatenate(part, axis=1)[:, :frames] for part in (sounding, beginning)]
        return torch.from_numpy(together[0]), torch.from_numpy(together[1])


def events(sounding: Tensor, beginning: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Notes of one clip.

    Args:
        sounding: probabilities (T, 88).
        beginning: of onsets, as many.

    Returns:
        Intervals (N, 2) in s from the first frame on, and pitches (N,) in Hz.

    Raises:
        ValueError: shapes that are not equal, or not two-dimensional.
    """
    if sounding.ndim != 2 or sounding.shape != beginning.shape:
        raise ValueError(
            f"sounding: expected (T, 88) twice, got {tuple(sounding.shape)} and "
            f"{tuple(beginning.shape)}"
        )
    on = torch.nn.functional.pad(sounding.T >= _SOUNDS, (1, 1)).int()
    peak = torch.nn.functional.pad(beginning.T, (1, 1))
    inner = peak[:, 1:-1]
    cut = (inner >= _BEGINS) & (inner > peak[:, :-2]) & (inner >= peak[:, 2:])
    starts = (on[:, 1:-1] > 0) & ((on[:, :-2] == 0) | cut)
    intervals, pitches = [], []
    for pitch in starts.any(1).nonzero()[:, 0].tolist():
        begins = starts[pitch].nonzero()[:, 0].tolist()
        silent = (on[pitch, 1:] == 0).nonzero()[:, 0].tolist()  # the last frame's successor is one
        for begin, following in zip(begins, [*begins[1:], len(sounding)], strict=True):
            end = min(following, next(each for each in silent if each >= begin))
            if end - begin >= _LEAST:
                intervals.append((begin * _HOP / _RATE, end * _HOP / _RATE))
                pitches.append(_LOWEST * 2 ** (pitch / 12))
    return np.array(intervals, float).reshape(-1, 2), np.array(pitches, float)


def note_f1(
    network: BasicPitch, x: Tensor, truth: Tensor, rate: int, span: tuple[int, int]
) -> list[float]:
    """F1 of the notes within a span, one number a clip; NaN where neither has a note.

    Args:
        network: that hears them.
        x: signals, shape (B, 1, L).
        truth: what they are to be, as many.
        rate: of both, in Hz.
        span: first sample of the gap and the one after the last.

    Raises:
        ValueError: shapes that differ, or as in `BasicPitch.posteriors`.
        MissingExtra: mir_eval is not installed.
    """
    if x.shape != truth.shape:
        raise ValueError(f"x: expected {tuple(truth.shape)} as truth, got {tuple(x.shape)}")
    measure: Any = require("mir_eval.transcription", "notes")
    sounding, beginning = network.posteriors(torch.cat((truth, x)), rate, span)
    every = [events(*pair) for pair in zip(sounding, beginning, strict=True)]
    values = []
    for (were, pitches), (are, heard) in zip(every[: len(x)], every[len(x) :], strict=True):
        if len(were) and len(are):
            value = measure.precision_recall_f1_overlap(
                were, pitches, are, heard, onset_tolerance=_TOLERANCE, offset_ratio=None
            )[2]
        else:
            value = 0.0 if len(were) or len(are) else math.nan
        values.append(float(value))
    return values


def fetch(into: str | Path) -> Path:
    """Download the wheel of Basic Pitch (0.8 MB, Apache 2.0) by name into a folder; its path.

    Raises:
        RuntimeError: pip is missing or cannot download it.
    """
    return wheel(PACKAGE, into, sha256=_SHA256)


def load(folder: str | Path) -> BasicPitch:
    """The network with the weights of the wheel in a folder.

    Raises:
        FileNotFoundError: the wheel is not there; the call that fetches it is named.
        ValueError: the file is another one.
        MissingExtra: onnxruntime is not installed.
    """
    file = needed(PACKAGE, folder, f"{__name__}.fetch", _SHA256)
    with zipfile.ZipFile(file) as archive:
        return BasicPitch(archive.read(_MODEL))
