"""The level that the networks work at."""

from __future__ import annotations

import pytest
import torch

from ctrlgen.domains.audio.loudness import gain, rms


def test_the_gain_goes_by_what_is_kept() -> None:
    x = torch.ones(2, 1, 100)
    x[0, 0, 50:] = 5.0
    mask = torch.arange(100) < 50
    torch.testing.assert_close(rms(x, mask), torch.ones(2))
    torch.testing.assert_close(gain(x, mask), torch.full((2,), 0.1))
    assert float(gain(x)[0]) == pytest.approx(0.1 / 13**0.5)
    assert float(gain(x, mask, level=-40.0)[0]) == pytest.approx(0.01)


def test_silence_and_nothing_kept_have_a_gain_of_one() -> None:
    assert gain(torch.zeros(1, 1, 10)).tolist() == [1.0]
    assert gain(torch.ones(1, 1, 10), torch.zeros(10, dtype=torch.bool)).tolist() == [1.0]
