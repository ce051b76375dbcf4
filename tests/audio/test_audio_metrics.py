"""Metrics of audio against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.audio.metrics import click, lsd, mrstft, psnr, si_sdr, snr, spectrogram

RATE = 16000


def tone(frequency: float, amplitude: float = 0.5, length: int = RATE) -> torch.Tensor:
    time = torch.arange(length, dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * math.pi * frequency * time)).view(1, 1, -1)


def white(rows: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 1, RATE, dtype=torch.float64, generator=draw)


def noisy(level: float) -> tuple[torch.Tensor, torch.Tensor]:
    reference = tone(440)
    return reference + level * (-1.0) ** torch.arange(RATE, dtype=torch.float64), reference


def test_psnr_snr_and_si_sdr_of_a_known_error() -> None:
    x, reference = noisy(0.01)
    assert float(psnr(x, reference)) == pytest.approx(40)
    assert float(psnr(x, reference, peak=2)) == pytest.approx(40 + 20 * math.log10(2))
    assert float(snr(x, reference)) == pytest.approx(10 * math.log10(0.125 / 1e-4))
    louder = si_sdr(3 * x, reference)
    torch.testing.assert_close(louder, si_sdr(x, reference))
    assert float(louder) == pytest.approx(10 * math.log10(0.125 / 1e-4), abs=1e-3)


def test_psnr_counts_what_the_mask_says() -> None:
    x, reference = noisy(0.1)
    x[..., : RATE // 2] = reference[..., : RATE // 2]
    later = torch.arange(RATE) >= RATE // 2
    assert float(psnr(x, reference, mask=later)) == pytest.approx(20)
    assert float(psnr(x, reference)) == pytest.approx(20 + 10 * math.log10(2))
    assert math.isinf(float(psnr(x, reference, mask=~later)))


def test_a_sine_has_a_quarter_of_its_squared_amplitude_in_its_bin() -> None:
    power = spectrogram(tone(1000, 0.8), 1024, 256)[0, 0]
    assert float(power[64, 20:40].mean()) == pytest.approx(0.16, rel=1e-6)


def test_lsd_of_a_gain_is_its_decades_and_of_silence_counts_the_floor() -> None:
    reference = white(1, 0)
    assert float(lsd(10 * reference, reference)) == pytest.approx(2, abs=1e-6)
    assert float(mrstft(reference, reference)) == 0


def test_lsd_looks_at_the_band_and_the_span_alone() -> None:
    reference = white(1, 1)
    x = reference.clone()
    x[..., 8000:] *= 10
    assert float(lsd(x, reference, span=(0, 6000))) == pytest.approx(0, abs=1e-9)
    assert float(lsd(x, reference, span=(10000, 14000))) == pytest.approx(2, abs=1e-6)
    high = reference + tone(6000, 10)
    inner = (2048, 14000)  # no frame that reaches over an end, where the tone breaks off
    assert float(lsd(high, reference, rate=RATE, band=(0, 3000), span=inner)) < 1e-3
    assert float(lsd(high, reference, rate=RATE, band=(5990, 6010))) > 2


def test_mrstft_of_a_gain() -> None:
    reference = white(2, 2)
    expected = torch.full((2,), 1 + math.log(2), dtype=torch.float64)
    torch.testing.assert_close(mrstft(2 * reference, reference), expected, rtol=1e-6, atol=0)


def test_click_is_one_in_noise_and_large_at_a_jump() -> None:
    x = 0.01 * white(1, 3)[..., :4000]
    assert float(click(x, 2000)) < 4
    x[..., 2000:] += 0.5
    assert float(click(x, 2000)) == pytest.approx(0.5 / (0.01 * math.sqrt(2)), rel=0.1)


@pytest.mark.parametrize("metric", [psnr, snr, si_sdr, lsd, mrstft])
def test_one_value_per_sample_whatever_the_batch(metric: object) -> None:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, 5000, dtype=torch.float64, generator=draw)
    reference = torch.randn(3, 2, 5000, dtype=torch.float64, generator=draw)
    together = metric(x, reference)  # type: ignore[operator]
    assert together.shape == (3,)
    torch.testing.assert_close(together[1:2], metric(x[1:2], reference[1:2]))  # type: ignore[operator]
    with pytest.raises(ValueError, match="reference"):
        metric(x, reference[:2])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: lsd(x, x, band=(0, 100)), "rate"),
        (lambda x: lsd(x, x, span=(100, 100)), "span"),
        (lambda x: click(x, 0), "seam"),
        (lambda x: click(x, 4000), "seam"),
        (lambda x: click(x[..., :2], 1), "x"),
    ],
)
def test_bad_input_is_named(call: object, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        call(torch.zeros(1, 1, 4000))  # type: ignore[operator]
