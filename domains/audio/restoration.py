r"""Sound files with something missing, made whole: gaps filled, a high band added.

The signal of a window goes through the prior as rows of one batch, one for every gap or window,
part (mid and side of two channels) and take:

    resampled to the prior's rate, brought to its level,
    D-Flow on −PSNR of what is known,
    brought back to level and rate, and spliced into what was there (`splicing`).

A run of a row ends at the ceiling of the codec less half a decibel, or at `fit`, whichever is less:
a codec that loses nothing has no ceiling. Of a wider signal only what the low band does not say is
taken, x̂ − H†H x̂, so that the file's own band stays what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.loudness import SILENCE, gain, rms
from ctrlgen.domains.audio.metrics import click
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.splicing import mid_side, overlap_add, splice, window_starts
from ctrlgen.domains.audio.starts import Projected
from ctrlgen.methods.source.dflow import DFlow
from ctrlgen.methods.starts import Blend, Refined
from ctrlgen.operators import LinearOperator
from ctrlgen.optimizers import LBFGS
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import partial_of
from ctrlgen.rows.status import Status

__all__ = [
    "PRESETS",
    "Settings",
    "Take",
    "check_rate",
    "hidden",
    "inpaint",
    "lengthened",
    "method_for",
    "upsample",
    "window_of",
    "windows",
]

PRESETS = ("fast", "paper")
_QUIET_SIDE = 1e-2  # −40 dB: a side below this beside its mid is not worth a row
_STRIDE = 1_000_003  # between the seeds of takes and those of windows and parts


@dataclass(frozen=True)
class Settings:
    """How a file is worked on.

    Attributes:
        preset: "fast": projected and refined starts, then at most 30 iterations; "paper": the
            blend and the 1000 iterations of D-Flow's Table 3.
        seeds: one per take.
        iterations: most of L-BFGS; those of the preset when None.
        fit: PSNR in dB, peak 1, at which what is known counts as met.
        fade: seconds of the fades inside of a gap.
        batch: rows at a time.
    """

    preset: str = "fast"
    seeds: tuple[int, ...] = (0,)
    iterations: int | None = None
    fit: float = 40.0
    fade: float = 0.01
    batch: int = 8

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations: expected a count, got {self.iterations}")
        if not 0 <= self.fade <= 1:
            raise ValueError(f"fade: expected 0 to 1 s, got {self.fade}")
        if not 0 < self.fit < 200:
            raise ValueError(f"fit: expected a PSNR in dB, got {self.fit}")


@dataclass
class Take:
    """One result for a file.

    Attributes:
        recording: the file made whole.
        seed: of the take.
        rows: what happened to each row of it: PSNR of what is known, evaluations, status.
    """

    recording: Recording
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)


def method_for(settings: Settings, target: float) -> DFlow:
    """D-Flow by a preset.

    Args:
        settings: of the run.
        target: PSNR in dB at which a row ends.
    """
    if settings.preset == "paper":
        start: Any = Blend(0.1)
        iterations = 1000 if settings.iterations is None else settings.iterations
    else:
        start = Refined(Projected(20), rounds=3)
        iterations = 30 if settings.iterations is None else settings.iterations
    return DFlow(initializer=start, optimizer=LBFGS(max_iterations=iterations), target=-target)


@dataclass
class _Solved:
    samples: Tensor  # (R, 1, L), at the level of the input
    rows: list[dict[str, Any]]
    stopped: KeyboardInterrupt | None = None


def _solve(
    prior: Prior,
    operator: LinearOperator,
    y: Tensor,
    known: Tensor | None,
    seeds: Sequence[int],
    settings: Settings,
    observer: Observer | None,
) -> _Solved:
    """Rows y (R, 1, M) through the prior, in batches; `known` (R, M) goes for their level."""
    parts, rows = [], []
    stopped = None
    for index in torch.arange(len(y)).split(settings.batch):
        begun = time.monotonic()
        here, local = y[index], operator.take(index)
        level = gain(here, None if known is None else known[index].unsqueeze(1))
        here = here * level[:, None, None]
        with torch.no_grad():
            proxy = local.pinv(here)
            through = prior.codec.decode(prior.codec.encode(proxy))
            ceiling = -NegativePSNR(local, here, peak=1.0)(through)
        target = min(settings.fit, float(ceiling.min()) - 0.5)
        method = method_for(settings, target)
        cost = NegativePSNR(local, here, peak=1.0)
        try:
            result = method(prior, cost, seeds=[seeds[i] for i in index], observer=observer)
        except KeyboardInterrupt as error:
            result = partial_of(error)
            if result is None:
                raise
            stopped = error
        parts.append(result.samples.detach() / level[:, None, None])
        for row in range(len(index)):
            rows.append(
                {
                    "known_psnr_dB": round(-float(result.costs[row]), 2),
                    "target_dB": round(target, 2),
                    "codec_ceiling_dB": round(float(ceiling[row]), 1),
                    "status": Status(int(result.status[row])).label,
                    "evaluations": int(result.evaluations[row]),
                    "backward_passes": int(result.backward_passes[row]),
                    "objective_calls": int(result.objective_calls[row]),
                    "seconds": round((time.monotonic() - begun) / len(index), 2),
                }
            )
        if stopped is not None:
            rest = torch.arange(len(rows), len(y))
            if len(rest):
                parts.append(operator.take(rest).pinv(y[rest]))
                rows += [{"status": "not begun"}] * len(rest)
            break
    return _Solved(torch.cat(parts), rows, stopped)


def window_of(prior: Prior) -> tuple[int, int]:
    """Rate of the prior in Hz, and samples of its window."""
    network: Any = prior.codec.network  # type: ignore[attr-defined]
    return network.rate, network.samples(prior.source.shape[0])


def _parts(x: Tensor, window: Tensor) -> list[int]:
    """Parts of a file that get a row: all, but a side that is as good as silent."""
    if x.shape[0] != 2:
        return list(range(x.shape[0]))
    mid, side = rms(mid_side(window).unsqueeze(1)).tolist()
    return [0, 1] if side > _QUIET_SIDE * mid and side > SILENCE else [0]


def windows(prior: Prior, recording: Recording) -> list[int]:
    """First samples, at the file's rate, of the windows that cover it."""
    inner, length = window_of(prior)
    span = round(length * recording.rate / inner)
    return window_starts(recording.samples.shape[1], span, span // 4)


def lengthened(recording: Recording, seconds: float) -> Recording:
    """A file with silence at its end."""
    more = round(seconds * recording.rate)
    return recording.with_samples(torch.nn.functional.pad(recording.samples, (0, more)))


def check_rate(prior: Prior, recording: Recording, rate: int) -> int:
    """The factor from a file's rate to the prior's.

    Raises:
        ValueError: the file's rate is not a half, a quarter or an eighth of it, or the wanted rate
            is below it.
    """
    inner, _ = window_of(prior)
    factor, rest = divmod(inner, recording.rate)
    if rest or factor not in (2, 4, 8):
        told = ", ".join(str(inner // k) for k in (2, 4, 8))
        raise ValueError(f"file: expected a rate of {told} Hz, got {recording.rate} Hz")
    if rate < inner:
        raise ValueError(f"rate: expected at least {inner} Hz, that of the prior, got {rate}")
    return factor


def _check(recording: Recording) -> Tensor:
    x = recording.samples
    if float(x.abs().max()) < SILENCE:
        raise ValueError("file: it is silent; nothing is there to go by")
    return x


def inpaint(
    prior: Prior,
    recording: Recording,
    gaps: Sequence[tuple[int, int]],
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """Fill gaps of a file, every sample outside of them as it was.

    Args:
        prior: on latents of audio.
        recording: the file; what it holds inside of the gaps is not looked at.
        gaps: first sample of each and the one after the last, checked (`times.check_gaps`).
        settings: of the run.
        observer: of the optimizer.
        stopped: told of an interruption; the takes then hold the best so far. Raised when None.

    Returns:
        One take per seed.

    Raises:
        ValueError: nothing is known but silence.
    """
    settings = settings or Settings()
    x, rate = recording.samples, recording.rate
    inner, length = window_of(prior)
    span = round(length * rate / inner)
    known = torch.ones(x.shape[1], dtype=torch.bool)
    for start, end in gaps:
        known[start:end] = False
    _check(recording.with_samples(torch.where(known, x, 0)))
    offsets, segments, masks = [], [], []
    for start, end in gaps:
        offset = (start + end - span) // 2
        offset = (x.shape[1] - span) // 2 if x.shape[1] < span else offset
        offset = max(0, min(offset, x.shape[1] - span)) if x.shape[1] >= span else offset
        low, high = max(0, offset), min(x.shape[1], offset + span)
        segment, mask = x.new_zeros(x.shape[0], span), torch.zeros(span, dtype=torch.bool)
        segment[:, low - offset : high - offset] = torch.where(known, x, 0)[:, low:high]
        mask[low - offset : high - offset] = known[low:high]
        offsets.append(offset)
        segments.append(segment)
        masks.append(mask)
    rows, marks, seeds, owners = [], [], [], []
    for take, seed in enumerate(settings.seeds):
        for g, segment in enumerate(segments):
            for part in _parts(x, segment):
                rows.append(mid_side(segment)[part])
                marks.append(masks[g])
                seeds.append(seed + _STRIDE * (len(x) * g + part))
                owners.append((take, g, part))
    y, mask = _to_prior(torch.stack(rows), torch.stack(marks), rate, inner, length)
    operator = TimeMask(mask)
    done = _solve(prior, operator, operator(y.unsqueeze(1)), mask, seeds, settings, observer)
    takes = [Take(recording, seed) for seed in settings.seeds]
    wide = resample(done.samples[:, 0].double(), inner, rate)[:, :span]
    for take in range(len(takes)):
        out = x.clone()
        for g, (start, end) in enumerate(gaps):
            pieces = x.new_zeros(x.shape[0], span)
            for i, owner in enumerate(owners):
                if owner[:2] == (take, g):
                    pieces[owner[2], : wide.shape[1]] = wide[i]
                    takes[take].rows.append({"gap": g, "part": owner[2], **done.rows[i]})
            generated = 2 * mid_side(pieces) if x.shape[0] == 2 else pieces
            fade = round(settings.fade * rate)
            inside = splice(x, generated, start, end, offset=offsets[g], fade=fade, known=known)
            out[:, start:end] = inside
            seams = [s for s in (start, end) if 0 < s < x.shape[1]]
            takes[take].rows[-1]["clicks"] = [
                round(float(click(out.unsqueeze(0), s)), 2) for s in seams
            ]
        takes[take].recording = recording.with_samples(out)
    _tell(done, stopped)
    return takes


def _to_prior(
    x: Tensor, known: Tensor, rate: int, inner: int, length: int
) -> tuple[Tensor, Tensor]:
    """Rows (R, n) and what is known of them at the prior's rate, float32 and bool (R, length)."""
    y = resample(x, rate, inner)[:, :length].float()
    y = torch.nn.functional.pad(y, (0, length - y.shape[1]))
    place = (torch.arange(length) * rate / inner).round().long().clamp_max(known.shape[1] - 1)
    mask = known[:, place]
    if (
        rate != inner
    ):  # the resampler's filter reaches beyond an edge: what it has touched is left out
        spread = torch.nn.functional.max_pool1d((~mask).float().unsqueeze(1), 17, 1, 8)
        mask = spread.squeeze(1) == 0
    return y, mask


def _tell(done: _Solved, stopped: Callable[[KeyboardInterrupt], None] | None) -> None:
    if done.stopped is not None:
        if stopped is None:
            raise done.stopped
        stopped(done.stopped)


def upsample(
    prior: Prior,
    recording: Recording,
    rate: int,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file of a lower rate with the band that it lacks, its own band as it was.

    Args:
        prior: on latents of audio, at 2, 4 or 8 times the file's rate.
        recording: the file.
        rate: of the result in Hz, that of the prior or more.
        settings: of the run.
        observer: of the optimizer.
        stopped: told of an interruption; the takes then hold the best so far. Raised when None.

    Returns:
        One take per seed.

    Raises:
        ValueError: a rate that is none of these, or a silent file.
    """
    settings = settings or Settings()
    inner, window = window_of(prior)
    factor = check_rate(prior, recording, rate)
    x = _check(recording).float()
    operator, short = LowPass(factor), window // factor
    starts = window_starts(x.shape[1], short, short // 4)
    padded = torch.nn.functional.pad(x, (0, max(0, short - x.shape[1])))
    rows, seeds, owners = [], [], []
    for take, seed in enumerate(settings.seeds):
        for w, start in enumerate(starts):
            segment = padded[:, start : start + short]
            for part in _parts(x, segment):
                rows.append(mid_side(segment)[part])
                seeds.append(seed + _STRIDE * (len(x) * w + part))
                owners.append((take, w, part))
    y = torch.stack(rows).unsqueeze(1)
    done = _solve(prior, operator, operator(operator.pinv(y)), None, seeds, settings, observer)
    high = (done.samples - operator.project(done.samples))[:, 0].double()
    takes = []
    for take, seed in enumerate(settings.seeds):
        parts = high.new_zeros(len(starts), x.shape[0], window)
        notes = []
        for i, owner in enumerate(owners):
            if owner[0] == take:
                parts[owner[1], owner[2]] = high[i]
                notes.append({"window": owner[1], "part": owner[2], **done.rows[i]})
        if x.shape[0] == 2:
            parts = 2 * mid_side(parts)
        length = x.shape[1] * factor
        added = overlap_add(parts, [start * factor for start in starts], length)
        low = recording.samples.double().unsqueeze(0)
        whole = operator.pinv(low) + (added - operator.project(added.unsqueeze(0))[0])
        out = resample(whole[0], inner, rate)
        wide = Recording(out, rate, recording.format, recording.subtype, dict(recording.tags))
        takes.append(Take(wide, seed, notes))
    _tell(done, stopped)
    return takes


def hidden(
    prior: Prior,
    recording: Recording,
    known: Tensor,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    stopped: Callable[[KeyboardInterrupt], None] | None = None,
) -> list[Take]:
    """A file of which single samples are hidden, channel by channel, as the prior has it.

    Args:
        prior: on latents of audio.
        recording: the file.
        known: which samples are, bool, shape (C, L).
        settings: of the run.
        observer: of the optimizer.
        stopped: as of `inpaint`.

    Returns:
        One take per seed; its samples are those of the prior wherever a window hides something.

    Raises:
        ValueError: the file is silent.
    """
    settings = settings or Settings()
    x, rate = _check(recording), recording.rate
    inner, length = window_of(prior)
    span, starts = round(length * rate / inner), windows(prior, recording)
    more = max(0, span - x.shape[1])
    padded = torch.nn.functional.pad(torch.where(known, x, 0), (0, more))
    there = torch.nn.functional.pad(known, (0, more))
    rows, marks, seeds, owners = [], [], [], []
    for take, seed in enumerate(settings.seeds):
        for w, start in enumerate(starts):
            for channel in range(len(x)):
                mark = there[channel, start : start + span]
                if bool(mark[: x.shape[1] - start].all()) or not bool(mark.any()):
                    continue
                rows.append(padded[channel, start : start + span])
                marks.append(mark)
                seeds.append(seed + _STRIDE * (len(x) * w + channel))
                owners.append((take, w, channel))
    takes = [Take(recording, seed) for seed in settings.seeds]
    if not rows:
        return takes
    y, mask = _to_prior(torch.stack(rows), torch.stack(marks), rate, inner, length)
    operator = TimeMask(mask)
    done = _solve(prior, operator, operator(y.unsqueeze(1)), mask, seeds, settings, observer)
    wide = resample(done.samples[:, 0].double(), inner, rate)[:, :span]
    for take, result in enumerate(takes):
        parts = torch.stack([padded[:, start : start + span] for start in starts])
        for i, owner in enumerate(owners):
            if owner[0] == take:
                parts[owner[1], owner[2], : wide.shape[1]] = wide[i]
                result.rows.append({"window": owner[1], "part": owner[2], **done.rows[i]})
        whole = overlap_add(parts, starts, x.shape[1], coherent=True)
        result.recording = recording.with_samples(whole)
    _tell(done, stopped)
    return takes
