"""Gaps, bands and peaks of files, with a prior that has learned nothing: noise of one level."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio import networks
from ctrlgen.domains.audio.clipping import declip, threshold_of
from ctrlgen.domains.audio.files import Recording, read, write
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.inpainting import inpaint
from ctrlgen.domains.audio.loudness import gain
from ctrlgen.domains.audio.metrics import snr
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import Fill, Settings, lengthened, window_of
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.splicing import mid_side, overlap_add, splice, window_starts
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.domains.audio.times import check_gaps, gap, labels, moment, silent_gaps
from ctrlgen.domains.audio.upsampling import upsample
from ctrlgen.methods.result import Result
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior

QUICK = Settings(iterations=2)


@pytest.fixture(scope="module")
def prior() -> Prior:
    """Windows of 0.4 s at 16 kHz; tones of the test are what its codec expects."""
    codec = SpecCodec(64, 64, depth=0, knee=0.5)
    codec.axes.mul_(0.1), codec.inverse_axes.mul_(10.0)
    latents = LatentCodec(codec, codec.mean, codec.std)
    network = networks.build(features=64, width=16, depth=1, heads=2).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Prior(Flow(network, CondOT(), "velocity"), Frames(101, 64), latents)


def tone(channels: int, length: int, rate: int) -> Tensor:
    time = torch.arange(length, dtype=torch.float64) / rate
    rows = [0.2 * (2 * math.pi * (300 + 170 * c) * time).sin() for c in range(channels)]
    return torch.stack(rows)


def test_only_the_gap_changes(prior: Prior, tmp_path: Path) -> None:
    channels, rate, kind, subtype = 2, 44100, "WAV", "PCM_24"
    length = round(0.7 * rate)
    file = tmp_path / f"in.{kind.lower()}"
    write(file, Recording(tone(channels, length, rate), rate, kind, subtype, {"title": "A tone"}))
    before = read(file)
    start, end = round(0.3 * rate), round(0.34 * rate)
    (take,) = inpaint(prior, before, [(start, end)], QUICK)
    after = read(write(tmp_path / f"out.{kind.lower()}", take.recording))
    assert (after.rate, after.format, after.subtype, after.tags) == (
        before.rate, before.format, before.subtype, before.tags
    )  # fmt: skip
    assert after.samples.shape == before.samples.shape
    changed = (after.samples != before.samples).any(0)
    assert bool(changed[start:end].any())
    assert not bool(changed[:start].any()) and not bool(changed[end:].any())


def test_gaps_at_both_ends_of_a_file_shorter_than_the_window(prior: Prior) -> None:
    recording = Recording(tone(1, 3200, 16000), 16000)
    (take,) = inpaint(prior, recording, [(0, 300), (2900, 3200)], QUICK)
    assert torch.equal(take.recording.samples[:, 300:2900], recording.samples[:, 300:2900])
    assert bool(take.recording.samples.isfinite().all())
    assert len(take.rows) == 2


def lossy(size: int) -> Prior:
    """A codec that keeps the lower coefficients alone: what else a clip holds is its ceiling."""
    codec = SpecCodec(64, size, depth=0, knee=0.5)
    codec.axes.mul_(0.1), codec.inverse_axes.mul_(10.0)
    network = networks.build(features=size, width=16, depth=1, heads=2).eval()
    network.requires_grad_(False)
    latents = LatentCodec(codec, codec.mean, codec.std)
    return Prior(Flow(network, CondOT(), "velocity"), Frames(11, size), latents)


def test_fast_spends_less_than_a_hundred_evaluations_where_its_start_meets_the_goal(
    prior: Prior,
) -> None:
    """20 steps, 20 back, a round of 6 there and 40 back, 6 to see it, and a call of 6."""
    length = prior.codec.decode(prior.start([0])).shape[2]
    operator = TimeMask(torch.arange(length) % 100 < 90)
    y = operator(tone(1, length, 16000)[None].float())
    result = Fill(fit=1.0)(prior, NegativePSNR(operator, y, peak=1.0), seeds=[3])
    assert result.evaluations.tolist() == [98] and result.objective_calls.tolist() == [1]


def test_the_goal_of_a_clip_is_its_own() -> None:
    """A mate that the codec codes badly ends early, and is alone in that."""
    prior = lossy(16)
    time = torch.arange(640) / 16000
    tones = [(2 * math.pi * f * time).sin() for f in (440, 5000)]
    x = torch.stack([tones[0] + 1e-2 * tones[1], tones[0] + 0.8 * tones[1]])[:, None]
    mask = torch.ones(2, 640, dtype=torch.bool)
    mask[:, 300:340] = False
    x = x * gain(x, mask[:, None])[:, None, None]

    def solved(rows: slice) -> Result:
        operator = TimeMask(mask[rows])
        cost = NegativePSNR(operator, operator(x[rows]), peak=1.0)
        return Fill(fit=30.0, iterations=8)(prior, cost, seeds=[7, 8][rows])

    both, alone = solved(slice(0, 2)), solved(slice(0, 1))
    (goals,), (ceilings,) = both.history["goal"].tolist(), both.history["ceiling"].tolist()
    assert goals[0] == 30.0 > goals[1] == pytest.approx(ceilings[1] - 0.5)
    for name in ("objective_calls", "evaluations", "status"):
        assert torch.equal(getattr(both, name)[:1], getattr(alone, name)), name
    torch.testing.assert_close(both.samples[:1], alone.samples, atol=1e-4, rtol=0)


def test_takes_differ_by_seed_and_repeat(prior: Prior) -> None:
    recording = Recording(tone(1, 8000, 16000), 16000)
    one, two = inpaint(prior, recording, [(4000, 4600)], Settings(iterations=1, seeds=(3, 4)))
    (again,) = inpaint(prior, recording, [(4000, 4600)], Settings(iterations=1, seeds=(4,)))
    assert not torch.equal(one.recording.samples, two.recording.samples)
    torch.testing.assert_close(two.recording.samples, again.recording.samples, atol=1e-4, rtol=0)


def test_what_the_gap_holds_is_not_looked_at(prior: Prior) -> None:
    x = tone(1, 8000, 16000)
    dirty = x.clone()
    dirty[:, 4000:4600] = 0.9
    a = inpaint(prior, Recording(x, 16000), [(4000, 4600)], QUICK)[0].recording.samples
    b = inpaint(prior, Recording(dirty, 16000), [(4000, 4600)], QUICK)[0].recording.samples
    assert torch.equal(a, b)


def test_the_level_of_a_file_is_that_of_its_gap(prior: Prior) -> None:
    x = tone(1, 8000, 16000)
    loud = inpaint(prior, Recording(x, 16000), [(4000, 4600)], QUICK)[0].recording.samples
    soft = inpaint(prior, Recording(x / 64, 16000), [(4000, 4600)], QUICK)[0].recording.samples
    torch.testing.assert_close(soft * 64, loud, atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_upsampling_keeps_the_band_of_the_file(prior: Prior, factor: int) -> None:
    rate = 16000 // factor
    recording = Recording(tone(2, round(0.9 * rate), rate), rate)
    (take,) = upsample(prior, recording, 16000, QUICK)
    out = take.recording
    assert out.rate == 16000 and out.samples.shape == (2, recording.samples.shape[1] * factor)
    seen = LowPass(factor)
    y = recording.samples[None]
    again = seen(out.samples[None])
    assert float(snr(again, seen(seen.pinv(y))).min()) > 60
    high = out.samples - seen.project(out.samples[None])[0]
    assert float(high.square().mean().sqrt()) > 1e-4


def test_a_result_may_have_a_higher_rate_than_the_prior(prior: Prior) -> None:
    (take,) = upsample(prior, Recording(tone(1, 4000, 8000), 8000), 44100, QUICK)
    assert take.recording.rate == 44100 and take.recording.samples.shape == (1, 22050)
    with pytest.raises(ValueError, match="rate: expected at least 16000"):
        upsample(prior, Recording(tone(1, 4000, 8000), 8000), 11025, QUICK)
    with pytest.raises(ValueError, match="file: expected a rate of 8000, 4000, 2000"):
        upsample(prior, Recording(tone(1, 4000, 11025), 11025), 16000, QUICK)


def test_declipping_moves_clipped_samples_outwards_alone(prior: Prior) -> None:
    x = tone(1, 8000, 16000).clamp(-0.15, 0.15)
    recording = Recording(x, 16000)
    threshold = threshold_of(recording, None)
    (take,) = declip(prior, recording, threshold, QUICK)
    clipped = x.abs() >= threshold
    assert torch.equal(take.recording.samples[~clipped], x[~clipped])
    assert bool((take.recording.samples.abs()[clipped] >= x.abs()[clipped]).all())
    with pytest.raises(ValueError, match="threshold: no two samples"):
        threshold_of(Recording(tone(1, 8000, 16000), 16000), 0.5)


def test_a_file_goes_on(prior: Prior) -> None:
    recording = lengthened(Recording(tone(1, 8000, 16000), 16000), 0.1)
    (take,) = inpaint(prior, recording, [(8000, 9600)], QUICK)
    assert torch.equal(take.recording.samples[:, :8000], recording.samples[:, :8000])
    assert float(take.recording.samples[:, 8000:].square().mean()) > 0


def test_silence_is_refused(prior: Prior) -> None:
    silent = Recording(torch.zeros(1, 8000, dtype=torch.float64), 16000)
    with pytest.raises(ValueError, match="file: it is silent"):
        inpaint(prior, silent, [(100, 200)], QUICK)
    with pytest.raises(ValueError, match="preset"):
        Settings(preset="slow")


def test_the_seam_of_a_splice_has_no_step() -> None:
    x = tone(1, 1000, 16000)
    known = torch.ones(1000, dtype=torch.bool)
    known[400:600] = False
    generated = x + 0.1  # off by a constant: the fade takes it away at both seams
    inside = splice(x, generated[:, 300:], 400, 600, offset=300, fade=50, known=known)
    assert inside.shape == (1, 200)
    torch.testing.assert_close(inside[:, 0], x[:, 400], atol=1e-3, rtol=0)
    torch.testing.assert_close(inside[:, -1], x[:, 599], atol=1e-3, rtol=0)
    torch.testing.assert_close(inside[:, 100], generated[:, 500])
    whole = splice(x, generated[:, 300:], 400, 600, offset=300, fade=0, known=known)
    assert torch.equal(whole, generated[:, 400:600])


def test_windows_cover_a_signal_and_add_to_it() -> None:
    starts = window_starts(1000, 300, 75)
    assert starts[0] == 0 and starts[-1] == 700
    x = tone(2, 1000, 16000)
    parts = torch.stack([x[:, s : s + 300] for s in starts])
    torch.testing.assert_close(overlap_add(parts, starts, 1000, coherent=True), x)
    noise = torch.randn(len(starts), 1, 300, generator=torch.Generator().manual_seed(0)).double()
    power = overlap_add(noise, starts, 1000).square().mean()
    assert float(power) == pytest.approx(1, abs=0.2)
    assert window_starts(200, 300, 75) == [0]


def test_mid_and_side_go_back() -> None:
    x = tone(2, 100, 16000)
    torch.testing.assert_close(2 * mid_side(mid_side(x)), x)
    assert mid_side(tone(3, 10, 16000)).shape == (3, 10)


def test_moments_and_gaps() -> None:
    assert moment("4.5", 100) == 450 and moment("1:02.25", 100) == 6225
    assert moment("1:00:00", 10) == 36000 and moment("@77", 100) == 77
    assert gap("4.5-5.5", 10) == (45, 55)
    for text in ("", "4.5", "4-5-6", "a-b", "-1-2", "1:2:3:4-5", "inf-1"):
        with pytest.raises(ValueError, match="gap"):
            gap(text, 100)


def test_bad_gaps_are_named() -> None:
    assert check_gaps([(50, 60), (10, 20)], 100, 10, 2.0) == [(10, 20), (50, 60)]
    for spans, said in (
        ([], "at least one"),
        ([(20, 20)], "end after the start"),
        ([(90, 110)], "outside of the file"),
        ([(10, 20), (15, 25)], "overlaps"),
        ([(10, 40)], "at most 2 s"),
        ([(0, 10), (10, 20)], "nothing is left"),
    ):
        with pytest.raises(ValueError, match=said):
            check_gaps(spans, 20 if "nothing" in said else 100, 10, 2.0)


def test_label_files_and_silent_runs(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("1.5\t2.0\tgap\n\\\t100\t200\n3.0\t3.25\t\n")
    assert labels(file, 100) == [(150, 200), (300, 325)]
    file.write_text("1.5 2.0\n")
    with pytest.raises(ValueError, match="line 1"):
        labels(file, 100)
    x = torch.ones(2, 1000)
    x[:, 200:260] = 0
    x[0, 500:600] = 0
    x[:, 990:] = 0
    assert silent_gaps(x, 1000) == [(200, 260)]


def test_the_window_of_a_prior(prior: Prior) -> None:
    assert window_of(prior) == (16000, 6400)
    same = resample(tone(1, 160, 16000), 16000, 16000)
    assert same.shape == (1, 160)
