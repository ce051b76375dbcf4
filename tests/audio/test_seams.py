"""Seams that are not heard, and files that stay what they are, with any material in the gaps.

No prior is asked: what comes from it is noise of the clip's level or a tone out of phase, the worst
that a seam can meet.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording, read, write
from ctrlgen.domains.audio.inpainting import Gaps
from ctrlgen.domains.audio.posing import Window
from ctrlgen.domains.audio.prediction import Predictor
from ctrlgen.domains.audio.splicing import splice

WINDOW = Window(16000, 6400)
CONTAINERS = {
    "PCM_U8": "WAV", "PCM_S8": "AIFF", "PCM_16": "FLAC", "PCM_24": "WAV", "PCM_32": "AIFF",
    "FLOAT": "WAV", "DOUBLE": "WAV",
}  # fmt: skip


def music(channels: int, length: int, rate: int) -> Tensor:
    """Low tones that dominate and some noise, another in each channel."""
    time = torch.arange(length, dtype=torch.float64) / rate
    rows = [
        0.3 * (2 * math.pi * (110 + 37 * c) * time).sin()
        + 0.1 * (2 * math.pi * (330 + 70 * c) * time + c).sin()
        for c in range(channels)
    ]
    noise = torch.randn(channels, length, generator=torch.Generator().manual_seed(channels))
    return torch.stack(rows) + 0.002 * noise.double()


def invented(posed: Gaps) -> Tensor:
    """Rows at the prior's level: the tones of `music`, at another place in time."""
    other = music(len(posed), WINDOW.length + 37, WINDOW.rate)[:, 37:].float().unsqueeze(1)
    return 0.1 * other / other.square().mean((1, 2), keepdim=True).sqrt()


def filled(recording: Recording, spans: list[tuple[int, int]], fade: float = 0.01) -> Recording:
    posed = Gaps(recording, spans, WINDOW, fade)
    return posed.take(invented(posed), 0, [{} for _ in range(len(posed))]).recording


def jumps(x: Tensor, seam: int, reach: int = 1024) -> tuple[Tensor, Tensor]:
    """The step into a sample, and the 99.9th percentile of the steps around it, by channel."""
    steps = x[:, max(0, seam - reach) : seam + reach].diff().abs()
    at = seam - 1 - max(0, seam - reach)
    others = torch.cat((steps[:, :at], steps[:, at + 1 :]), 1)
    return steps[:, at], others.quantile(0.999, dim=1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_no_seam_is_a_click(channels: int, rate: int) -> None:
    length = round(1.2 * rate)
    spans = [(0, round(0.1 * rate)), (round(0.5 * rate), round(0.65 * rate))]
    spans.append((length - round(0.1 * rate), length))
    recording = Recording(music(channels, length, rate), rate)
    seams = [s for span in spans for s in span if 0 < s < length]
    assert len(seams) == 4
    out, raw = filled(recording, spans).samples, filled(recording, spans, 0.0).samples
    for seam in seams:
        step, limit = jumps(out, seam)
        assert bool((step < limit).all()), (seam, step, limit)
    # Without the fade the same material clicks: the test can fail.
    assert any(bool((step > limit).any()) for step, limit in (jumps(raw, s) for s in seams))


def test_material_that_agrees_beyond_the_seams_does_not_click() -> None:
    """A codec that loses nothing lets a fill paste what is known: no error tells of the step."""
    x = music(2, 20000, 16000)
    known = torch.ones(20000, dtype=torch.bool)
    known[8000:9600] = False
    generated = x.clone()
    generated[:, 8000:9600] = -x[:, 37:1637]
    for fade, quiet in ((0, False), (160, True)):
        out = x.clone()
        out[:, 8000:9600] = splice(x, generated, 8000, 9600, offset=0, fade=fade, known=known)
        steps = [jumps(out, seam) for seam in (8000, 9600)]
        assert all(bool((step < limit).all()) for step, limit in steps) == quiet


def test_a_tone_goes_on() -> None:
    (x,) = music(1, 4000 + 160, 16000).numpy()
    predictor = Predictor(x[:4000])
    assert abs(predictor.continuation(160) - x[4000:]).max() < 0.02
    assert not predictor.surprised(x[4000:]) and predictor.surprised(-x[4000:])
    assert Predictor(np.full(3, 0.5)).continuation(4).tolist() == [0.5] * 4
    assert not Predictor(np.zeros(500)).continuation(4).any()


def test_a_fill_that_goes_on_by_itself_stays_as_it_is() -> None:
    x = music(2, 20000, 16000)
    known = torch.ones(20000, dtype=torch.bool)
    known[8000:9600] = False
    inside = splice(x, x, 8000, 9600, offset=0, fade=160, known=known)
    assert torch.equal(inside, x[:, 8000:9600])


RATES = (22050, 44100, 48000, 96000)
KINDS = [  # every subtype at every rate, every number of channels with each of both
    (subtype, (1, 2, 6)[(i + j) % 3], rate, (i + j) % 2 == 0)
    for i, subtype in enumerate(CONTAINERS)
    for j, rate in enumerate(RATES)
]


@pytest.mark.parametrize(("subtype", "channels", "rate", "short"), KINDS)
def test_a_file_stays_what_it_is(
    tmp_path: Path, subtype: str, channels: int, rate: int, short: bool
) -> None:
    """Length, rate, channels, format, subtype, tags; all samples outside of gaps, bit by bit.

    Short files are shorter than the window of 0.4 s.
    """
    kind = CONTAINERS[subtype]
    length = 2 * round((0.125 if short else 0.25) * rate)
    tags = {"title": "A tone", "artist": "Nobody", "comment": "of the test"}
    file = tmp_path / f"in.{kind.lower()}"
    write(file, Recording(music(channels, length, rate), rate, kind, subtype, tags))
    before = read(file)
    assert before.tags["title"] == "A tone"
    spans = [(0, 300), (length // 2, length // 2 + 700), (length - 500, length)]
    after = read(write(tmp_path / f"out.{kind.lower()}", filled(before, spans)))
    for name in ("rate", "format", "subtype", "tags"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.samples.shape == before.samples.shape == (channels, length)  # an even number
    inside = torch.zeros(length, dtype=torch.bool)
    for start, end in spans:
        inside[start:end] = True
        assert bool((after.samples[:, start:end] != before.samples[:, start:end]).any(1).all())
    assert torch.equal(after.samples[:, ~inside], before.samples[:, ~inside])


def test_a_silent_channel_stays_silent() -> None:
    """The low-frequency channel of 5.1 is often empty; a gap does not wake it."""
    x = music(6, 9600, 16000)
    x[3] = 0
    out = filled(Recording(x, 16000), [(4000, 4400)]).samples
    assert not bool(out[3].any()) and bool((out[:3, 4000:4400] != x[:3, 4000:4400]).any())


def test_a_gap_in_silence_stays_silent_and_one_beside_it_is_filled() -> None:
    x = music(1, 32000, 16000)
    x[:, 16000:] = 0
    spans = [(8000, 8400), (26000, 26400)]
    posed = Gaps(Recording(x, 16000), spans, WINDOW)
    assert posed.owners == [(0, 0)]
    out = filled(Recording(x, 16000), spans).samples
    assert not bool(out[:, 26000:26400].any()) and bool(out[:, 8000:8400].any())
    with pytest.raises(ValueError, match="file: around the gaps it is silent"):
        Gaps(Recording(x, 16000), spans[1:], WINDOW)
