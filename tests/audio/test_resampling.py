"""Resampling against tones, scipy's bank of filters and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from ctrlgen.domains.audio.resampling import resample, resampled_length


def tone(frequency: float, rate: int, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * frequency * time)


@pytest.mark.parametrize(
    ("old", "new"), [(16000, 8000), (8000, 16000), (16000, 44100), (48000, 2000)]
)
def test_a_tone_in_the_band_of_both_is_the_tone_at_the_new_rate(old: int, new: int) -> None:
    frequency = 0.3 * min(old, new)
    y = resample(tone(frequency, old), old, new)
    error = (y - tone(frequency, new))[len(y) // 4 : -len(y) // 4]
    assert 10 * math.log10(0.5 / float(error.square().mean())) > 80


@pytest.mark.parametrize("new", [8000, 4000, 2000])
def test_what_lies_beyond_the_new_band_is_gone(new: int) -> None:
    y = resample(tone(0.6 * new, 16000), 16000, new)[new // 4 : -new // 4]
    assert 10 * math.log10(float(y.square().mean()) / 0.5) < -80


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_round_trip_of_what_is_in_the_band(factor: int) -> None:
    low = 16000 // factor
    x = sum(tone(share * low / 2, 16000) for share in (0.11, 0.37, 0.62, 0.8))
    back = resample(resample(x, 16000, low), low, 16000)
    inside = slice(4000, -4000)
    error = (back - x)[inside].square().mean()
    assert 10 * math.log10(float(x[inside].square().mean() / error)) > 80


def test_agrees_with_the_polyphase_filter_of_scipy() -> None:
    x = tone(700, 16000) + 0.5 * tone(2900, 16000)
    ours = resample(x, 16000, 12000).numpy()
    theirs = resample_poly(x.numpy(), 3, 4, window=("kaiser", 14.77))
    inside = slice(2000, -2000)
    assert np.abs(ours - theirs)[inside].max() < 2e-3  # another width of the transition


def test_gradients_and_shapes() -> None:
    x = torch.randn(2, 1, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: resample(v, 3, 2, crossings=6), (x,))
    assert resample(x, 3, 2).shape == (2, 1, resampled_length(40, 3, 2)) == (2, 1, 27)
    assert resample(x, 8, 8) is x


def test_rows_do_not_meet() -> None:
    x = torch.randn(3, 1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = resample(x, 16000, 8000)
    torch.testing.assert_close(together[1:2], resample(x[1:2], 16000, 8000), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 8000), "old"), ((8000, -1), "new"), ((8000, 4000.0), "new")],
)
def test_bad_rates_are_named(arguments: tuple[int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        resample(torch.zeros(8), *arguments)


@pytest.mark.parametrize("rolloff", [0.0, 1.5])
def test_bad_rolloff_is_named(rolloff: float) -> None:
    with pytest.raises(ValueError, match="rolloff"):
        resample(torch.zeros(8), 8000, 4000, rolloff=rolloff)
