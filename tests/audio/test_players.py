"""Versions of a sound on a page: their levels, spectrograms, seams and files."""

from __future__ import annotations

import base64
import io
import math

import pytest
import soundfile
import torch
from torch import Tensor

from ctrlgen.domains.audio.players import audio_panel, matching_gains, spectrogram

RATE = 16000


def tone(hertz: float, seconds: float = 1.0, level: float = 0.5) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return level * torch.sin(2 * math.pi * hertz * time)[None]


def test_tracks_are_as_loud_as_the_first_outside_the_ranges() -> None:
    x = tone(440)
    gap = x.clone()
    gap[:, 4000:12000] = 0
    waves = {"a": x, "b": 0.5 * x, "gap": gap, "loud": 100 * x, "silent": 0 * x}
    gains = matching_gains(waves, RATE, [(0.25, 0.75)])
    assert gains["b"] == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert gains["gap"] == pytest.approx(0, abs=1e-4)
    assert (gains["loud"], gains["silent"]) == (-12.0, 0.0)
    assert matching_gains(waves, RATE)["gap"] == pytest.approx(10 * math.log10(2), abs=0.01)


@pytest.mark.parametrize("hertz", [100.0, 440.0, 3000.0])
def test_a_tone_lies_in_the_row_of_its_frequency(hertz: float) -> None:
    decibels = spectrogram(tone(hertz), RATE, 2e4)
    row = int(decibels.mean(1).argmax())
    rows = len(decibels)
    at = 50 * (RATE / 2 / 50) ** (row / (rows - 1))
    assert at == pytest.approx(hertz, rel=0.12)
    assert float(decibels.min()) >= -80 and float(decibels.max()) <= 0
    quieter = spectrogram(0.1 * tone(hertz), RATE, 1e5)
    louder = spectrogram(tone(hertz), RATE, 1e5)
    assert float(louder.max() - quieter.max()) == pytest.approx(20, abs=0.01)


def test_a_panel_holds_sounds_that_decode_and_seams() -> None:
    x = tone(440)
    made = audio_panel({"original": x, "take": 0.5 * x}, RATE, ranges=[(0.4, 0.6)], cutoff=4000)
    take = made["tracks"][1]
    payload = base64.b64decode(take["audio"].partition(",")[2])
    back, rate = soundfile.read(io.BytesIO(payload))
    assert rate == RATE and len(back) == RATE
    assert abs(back - 0.5 * x[0].numpy()).max() < 1e-4
    assert take["gain"] == 6.02 and made["cutoff"] == 4000 and not made["excerpt"]
    seam = take["seams"][0]
    assert len(seam) == 2 * 128 + 1  # 8 ms on either side
    assert seam[128] == round(5000 * float(x[0, 6400]))


def test_a_long_sound_is_an_excerpt_around_its_ranges() -> None:
    x = torch.rand(2, 60 * RATE) - 0.5
    made = audio_panel({"x": x}, RATE, ranges=[(30.0, 30.5)], budget=2e5)
    assert made["excerpt"] and made["shift"] == 27.0 and made["ranges"] == [[3.0, 3.5]]
    assert 1.0 <= made["seconds"] <= 6.5


def test_what_is_not_finite_is_silent_and_bad_input_is_named() -> None:
    x = tone(440)
    x[:, 5] = math.nan
    assert audio_panel({"x": x}, RATE)["tracks"][0]["gain"] == 0
    with pytest.raises(ValueError, match="tracks: expected at least one"):
        audio_panel({}, RATE)
    with pytest.raises(ValueError, match="tracks: expected 16000 samples as in the first, b has 8"):
        audio_panel({"a": x, "b": x[:, :8]}, RATE)
    with pytest.raises(ValueError, match="ranges: expected 0 <= start < end"):
        audio_panel({"a": x}, RATE, ranges=[(0.5, 2.0)])
