"""Resampling and spectra against torchaudio's: by numbers that it gave, and live where it loads.

The numbers are those of torchaudio 2.11.0 in float64, of a sum of two sines:

    torchaudio.functional.resample(x, old, new, lowpass_filter_width=64, rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser", beta=14.769656459379492)
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.audio.costs import _bands
from ctrlgen.domains.audio.metrics import spectrogram
from ctrlgen.domains.audio.resampling import resample

DOUBLE = torch.float64
RATES = [(16000, 8000), (16000, 2000), (2000, 16000), (44100, 16000), (16000, 48000)]


def sines(length: int) -> Tensor:
    n = torch.arange(length, dtype=DOUBLE)
    return torch.sin(0.3 * n) * 0.6 + 0.4 * torch.cos(2.1 * n)


# fmt: off
GIVEN = {
    (16000, 4000): [0.12360379, 0.54187139, 0.40909454, -0.26137271, -0.61162115, -0.13278206],
    (16000, 12000): [
        0.36602569, -0.10996227, 0.7216602, 0.35731138, 0.6865417, 0.58498737, 0.24431841,
        0.46389188, -0.36779353, 0.09651941, -0.80113235, -0.28144372, -0.79396902, -0.45153516,
        -0.32946823, -0.33883014, 0.34081429, -0.03575237,
    ],
}
# fmt: on


@pytest.mark.parametrize("rates", GIVEN, ids=str)
def test_resampling_gives_the_numbers_of_torchaudio(rates: tuple[int, int]) -> None:
    expected = torch.tensor(GIVEN[rates], dtype=DOUBLE)
    torch.testing.assert_close(resample(sines(24), *rates), expected, rtol=0, atol=1e-7)


def test_an_impulse_keeps_the_share_of_the_band_to_the_last_digit() -> None:
    """h(0) = c: the middle of the window is one, whatever the dtype of its parameters."""
    x = torch.zeros(64, dtype=DOUBLE)
    x[32] = 1
    assert float(resample(x, 2, 1)[16]) == pytest.approx(0.9475937167399596 / 2, rel=1e-15)


@pytest.fixture
def torchaudio() -> ModuleType:
    try:
        return importlib.import_module("torchaudio.functional")
    except (ImportError, OSError) as error:  # its wheels are linked to CUDA
        pytest.skip(f"torchaudio does not load here: {error}")


@pytest.mark.parametrize(("old", "new"), RATES)
def test_resampling_is_that_of_torchaudio(torchaudio: ModuleType, old: int, new: int) -> None:
    x = sines(3000)
    theirs = torchaudio.resample(
        x[None], old, new, lowpass_filter_width=64, rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser", beta=14.769656459379492,
    )[0]  # fmt: skip
    torch.testing.assert_close(resample(x, old, new), theirs, rtol=0, atol=1e-6)


def test_spectra_are_those_of_torchaudio(torchaudio: ModuleType) -> None:
    x = sines(3000)
    window = torch.hann_window(512, dtype=DOUBLE)
    theirs = torchaudio.spectrogram(
        x, 0, window, 512, 128, 512, 2.0, normalized=False, pad_mode="constant"
    )
    ours = spectrogram(x[None, None], 512, 128)[0, 0]
    torch.testing.assert_close(ours, theirs / window.sum().square(), rtol=0, atol=1e-6)
    bank = torchaudio.melscale_fbanks(257, 0.0, 8000.0, 40, 16000, norm=None, mel_scale="htk").T
    mine = _bands(512, 16000, 40, torch.float32, torch.device("cpu"))  # theirs is single precision
    full = bank.sum(1) > 0  # a band between two bins is empty there
    torch.testing.assert_close(mine[full], bank[full], rtol=0, atol=5e-6)
