r"""Sound files with something missing, made whole: what gaps, bands and peaks have in common.

The signal of a window goes through the prior as rows of one batch, one for every gap or window,
part (mid and side of two channels) and take:

    resampled to the prior's rate, brought to its level,
    D-Flow on −PSNR of what is known,
    brought back to level and rate, and spliced into what was there (`splicing`).

A run of a row ends at the ceiling of the codec less half a decibel, or at `fit`, whichever is less:
a codec that loses nothing has no ceiling. `inpainting`, `upsampling` and `clipping` say what is
hidden, and put what comes back into the file.
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
from ctrlgen.domains.audio.loudness import SILENCE, gain, rms
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.splicing import mid_side, window_starts
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
    "STRIDE",
    "Settings",
    "Solved",
    "Take",
    "audible",
    "lengthened",
    "method_for",
    "parts_of",
    "solve_rows",
    "tell",
    "to_prior",
    "window_of",
    "windows",
]

PRESETS = ("fast", "paper")
_QUIET_SIDE = 1e-2  # −40 dB: a side below this beside its mid is not worth a row
STRIDE = 1_000_003
"""Between the seeds of takes and those of their windows and parts."""


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


def method_for(settings: Settings, target: Tensor) -> DFlow:
    """D-Flow by a preset.

    Args:
        settings: of the run.
        target: PSNR in dB at which each row ends, shape (R,).
    """
    if settings.preset == "paper":
        start: Any = Blend(0.1)
        iterations = 1000 if settings.iterations is None else settings.iterations
    else:
        start = Refined(Projected(20), rounds=3)
        iterations = 30 if settings.iterations is None else settings.iterations
    return DFlow(initializer=start, optimizer=LBFGS(max_iterations=iterations), target=-target)


@dataclass
class Solved:
    """Rows after the prior.

    Attributes:
        samples: shape (R, 1, L), at the level of the input.
        rows: what happened to each.
        stopped: what cut them off.
    """

    samples: Tensor
    rows: list[dict[str, Any]]
    stopped: KeyboardInterrupt | None = None


def solve_rows(
    prior: Prior,
    operator: LinearOperator,
    y: Tensor,
    known: Tensor | None,
    seeds: Sequence[int],
    settings: Settings,
    observer: Observer | None,
) -> Solved:
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
        target = (ceiling - 0.5).nan_to_num(settings.fit).clamp_max(settings.fit)
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
                    "target_dB": round(float(target[row]), 2),
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
    return Solved(torch.cat(parts), rows, stopped)


def window_of(prior: Prior) -> tuple[int, int]:
    """Rate of the prior in Hz, and samples of its window."""
    network: Any = prior.codec.network  # type: ignore[attr-defined]
    return network.rate, network.samples(prior.source.shape[0])


def parts_of(x: Tensor, window: Tensor) -> list[int]:
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


def audible(recording: Recording) -> Tensor:
    """The samples of a file.

    Raises:
        ValueError: all of them are as good as zero.
    """
    x = recording.samples
    if float(x.abs().max()) < SILENCE:
        raise ValueError("file: it is silent; nothing is there to go by")
    return x


def to_prior(x: Tensor, known: Tensor, rate: int, inner: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows (R, n) and what is known of them at the prior's rate, float32 and bool (R, length)."""
    y = resample(x, rate, inner)[:, :length].float()
    y = torch.nn.functional.pad(y, (0, length - y.shape[1]))
    place = (torch.arange(length) * rate / inner).round().long().clamp_max(known.shape[1] - 1)
    mask = known[:, place]
    if rate != inner:
        # The resampler's filter reaches beyond an edge: what it has touched is left out.
        spread = torch.nn.functional.max_pool1d((~mask).float().unsqueeze(1), 17, 1, 8)
        mask = spread.squeeze(1) == 0
    return y, mask


def tell(done: Solved, stopped: Callable[[KeyboardInterrupt], None] | None) -> None:
    """Tell of what cut rows off, or raise it where nobody listens."""
    if done.stopped is not None:
        if stopped is None:
            raise done.stopped
        stopped(done.stopped)
