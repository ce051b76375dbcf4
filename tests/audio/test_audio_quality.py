"""Measures of codec, prior and frame rates, and the start that is projected onto a measurement."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrlgen.costs import SquaredError
from ctrlgen.domains.audio import examples, networks, quality
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.metrics import snr
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.quality import codec_rows, interpolated
from ctrlgen.domains.audio.rates import explained, kept
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.starts import Projected
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.storage import load


def test_a_line_across_a_gap() -> None:
    x = torch.arange(20.0).view(1, 1, 20)
    broken = x.clone()
    broken[..., 5:9] = 0
    torch.testing.assert_close(interpolated(broken, 5, 9), x)


def test_clips_are_those_of_scores_as_written_and_none_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = np.concatenate((np.zeros(100_000), np.full(200_000, 1000))).astype(np.int16)
    loud, other = np.full(300_000, 2000, np.int16), np.full(900_000, 3000, np.int16)
    music = Music((half, other, loud), ("00-0", "00-1", "09-0"))
    monkeypatch.setattr(quality, "read", lambda folder, split: music)
    clips = quality.held_out_clips(Path("data"), 4)
    assert clips.shape == (4, 1, quality.LENGTH) and bool((clips != 0).any(2).all())
    # More variations change nothing.
    fewer = Music((half, loud), ("00-0", "09-0"))
    monkeypatch.setattr(quality, "read", lambda folder, split: fewer)
    assert torch.equal(quality.held_out_clips(Path("data"), 4), clips)
    # A silence longer than a clip's share of the music gives way to places elsewhere.
    many = quality.held_out_clips(Path("data"), 12)
    assert bool((many != 0).any(2).all())
    silent = Music((np.zeros(300_000, np.int16),), ("00-0",))
    monkeypatch.setattr(quality, "read", lambda folder, split: silent)
    with pytest.raises(ValueError, match="folder: data holds silence"):
        quality.held_out_clips(Path("data"), 1)


def test_the_embedded_codec_on_clips_of_the_package() -> None:
    x = torch.cat([examples.example(name).samples[None].float() for name in examples.NAMES])
    (row,) = codec_rows("mdct-16k", {"package": x})
    assert row["clips"] == 2 and row["least_dB"] > 100
    with pytest.raises(ValueError, match="name: expected one of"):
        examples.path("../mdct-16k")


def test_the_embedded_prior_works_in_double_precision_too() -> None:
    prior = load("freedoom-music", dtype=torch.float64)
    x = examples.example("freedoom-45").samples[None]
    z = prior.codec.encode(x)
    assert z.dtype == torch.float64 and z.shape == (1, 101, 640)
    torch.testing.assert_close(prior.codec.decode(z), x, atol=1e-5, rtol=0)
    drawn = prior.sample([0], prior.solver(1), dtype=torch.float64)
    assert drawn.dtype == torch.float64 and bool(drawn.isfinite().all())


def test_what_context_explains_of_a_gap() -> None:
    """An autoregression x_t = 0.9 x_{t-1} + e: frames next to a seam are known to 81 % and more."""
    draw = torch.Generator().manual_seed(0)
    x = torch.zeros(3000, 24, 1)
    for t in range(1, 24):
        step = math.sqrt(1 - 0.81) * torch.randn(3000, 1, generator=draw)
        x[:, t] = 0.9 * x[:, t - 1] + step if t > 1 else torch.randn(3000, 1, generator=draw)
    whole, edges = explained(x[:2000], x[2000:], 4, (1e-3, 1e-1))
    assert 0.75 < whole < edges < 0.95
    white = torch.randn(3000, 24, 1, generator=draw)
    assert abs(explained(white[:2000], white[2000:], 4)[0]) < 0.05


def test_what_the_leading_axes_keep() -> None:
    draw = torch.Generator().manual_seed(0)
    c = torch.randn(40, 30, 4, generator=draw) * torch.tensor([1.0, 1.0, 0.1, 0.1])
    ratio, axes = kept(c[:30], c[30:], 2)
    assert ratio == pytest.approx(20, abs=1) and axes.shape == (4, 2)


def test_a_projected_start_is_near_the_measurement() -> None:
    codec = SpecCodec(32, 32, depth=0)
    network = networks.build(features=32, width=16, depth=1, heads=2)
    prior = Prior(
        Flow(network, CondOT(), "velocity"),
        Frames(11, 32),
        LatentCodec(codec, codec.mean, codec.std),
    )
    mask = torch.ones(320, dtype=torch.bool)
    mask[100:160] = False
    operator = TimeMask(mask)
    truth = prior.sample([5], prior.solver(4))
    y = operator(truth)
    z = prior.start([0, 1])
    cost = SquaredError(operator, y.expand(2, 1, 320))
    x0 = Projected(20)(prior, cost.measurement, [0, 1], z)
    x = prior.generate(x0, prior.solver(20)).detach()
    assert float(snr(operator(x), y.expand(2, 1, 320)).min()) > 20
    assert float(snr(operator(prior.generate(z, prior.solver(20)).detach()), operator(x)).max()) < 3
    assert float((x[0] - x[1])[..., 100:160].abs().max()) > 0.1  # what is hidden is each seed's own
    with pytest.raises(ValueError, match="linear operator"):
        Projected().check(prior, None)


def test_clips_that_fall_silent_are_counted() -> None:
    x = torch.full((4, 1, 64000), 0.1)  # −20 dB
    x[0, :, 48000:] = 1e-3  # the last second, −60 dB
    x[1, :, 8000:16000] = 5e-3  # a half second of −46 dB
    x[2, :, 56000:] = 1e-3  # half of the last second
    row = quality.level_row("all", x)
    assert (row["ends_silent"], row["silent_somewhere"]) == (0.25, 0.75)
