"""Notes and their F1: events of probabilities in closed form, windows, what is missing is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrlgen.domains.audio import notes
from ctrlgen.domains.audio.notes import BasicPitch, events, load, note_f1

FRAME = 256 / 22050


class Loudness:
    """In the network's place: semitone k sounds where the signal is k + 1, and begins with it."""

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert [name[-1] for name in names] == ["1", "2"]
        (x,) = inputs.values()
        assert x.shape[1:] == (43844, 1) and x.dtype == np.float32
        self.windows.append(x)
        level = np.round(x[:, ::256, 0])[:, :, None]  # (B, 172, 1)
        sounding = (level == np.arange(1, 89)).astype(np.float32)
        rising = np.diff(sounding, axis=1, prepend=0).clip(0)
        return [sounding, rising]


def network() -> BasicPitch:
    made = object.__new__(BasicPitch)
    made._session, made._input = Loudness(), "x"
    return made


def test_events_are_runs_cut_at_onsets_and_long_enough() -> None:
    sounding, beginning = torch.zeros(40, 88), torch.zeros(40, 88)
    sounding[3:20, 48] = 0.4  # A4, struck again at 12
    beginning[3, 48] = beginning[12, 48] = 0.8
    beginning[6, 48] = 0.4  # too faint
    sounding[30:40, 0] = 0.9  # A0, up to the end, no onset
    sounding[8:12, 60] = 0.9  # four frames are too few
    intervals, pitches = events(sounding, beginning)
    order = np.argsort(intervals[:, 0])
    np.testing.assert_allclose(pitches[order], [440.0, 440.0, 27.5])
    np.testing.assert_allclose(intervals[order] / FRAME, [[3, 12], [12, 20], [30, 40]])
    with pytest.raises(ValueError, match="sounding: expected"):
        events(sounding, beginning[:-1])


def test_probabilities_are_those_of_the_span_whatever_the_windows() -> None:
    # At the network's own rate, levels that change every 40 frames; 300 frames need three windows.
    frames = torch.arange(345)
    x = (1 + frames // 40).float().repeat_interleave(256).view(1, 1, -1)
    start, count = 20, 300
    made = network()
    sounding, _ = made.posteriors(x, 22050, (start * 256, (start + count) * 256))
    assert sounding.shape == (1, count, 88) and len(made._session.windows) == 3
    assert torch.equal(sounding[0].argmax(1), (frames // 40)[start : start + count])
    # Before and after the signal there is silence.
    every, _ = made.posteriors(x, 22050, (0, x.shape[2]))
    assert torch.equal(every[0].argmax(1), frames // 40) and bool((every.sum(2) == 1).all())


def test_f1_by_hand() -> None:
    frames = torch.zeros(3, 170)
    frames[0, 40:80], frames[0, 80:120] = 5, 9
    frames[1, 43:80], frames[1, 80:120] = 5, 30  # 35 ms late; another pitch
    frames[2, 46:80] = 5  # 70 ms late, then nothing
    x = frames.repeat_interleave(256, dim=1).unsqueeze(1)
    truth, span = x[:1].expand(3, -1, -1), (30 * 256, 130 * 256)
    assert note_f1(network(), x, truth, 22050, span) == [1.0, 0.5, 0.0]
    # A note that rings on into the span begins with it: nobody is to hear where it was struck.
    assert note_f1(network(), x[1:], truth[1:], 22050, (60 * 256, 80 * 256)) == [1.0, 1.0]
    silence = torch.zeros_like(x[:1])
    assert note_f1(network(), silence, truth[:1], 22050, span) == [0.0]
    assert math.isnan(note_f1(network(), silence, silence, 22050, span)[0])
    with pytest.raises(ValueError, match=r"x: expected \(1, 1, 43520\) as truth"):
        note_f1(network(), x, truth[:1], 22050, span)


def test_bad_signals_spans_and_wheels_are_named(tmp_path: Path) -> None:
    made: Any = network()
    with pytest.raises(ValueError, match="one channel"):
        made.posteriors(torch.zeros(1, 2, 9000), 22050, (0, 10))
    with pytest.raises(ValueError, match=r"span: expected samples within 0\.\.9000"):
        made.posteriors(torch.zeros(1, 1, 9000), 22050, (5, 9001))
    with pytest.raises(FileNotFoundError, match="fetch"):
        load(tmp_path)
    (tmp_path / "basic_pitch-0.4.0-py2.py3-none-any.whl").write_bytes(b"other")
    with pytest.raises(ValueError, match="sha256"):
        load(tmp_path)
    assert notes.PACKAGE == "basic-pitch==0.4.0"
