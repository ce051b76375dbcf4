r"""A sound file as rows for a prior, and the way back: what gaps, bands and peaks have in common.

Every gap or window of a file, and every part of it (mid and side of two channels), is a row: mono,
of the prior's rate and length, at the level that the prior was trained at,

    y_r = g_r H(resampled part r),      g_r of `loudness`, from what is known of the row.

Rows of all files go through the prior alike (`restoration`); what comes back is divided by g_r and
put where it belongs (`inpainting`, `upsampling`, `clipping`). A part that is as good as silent has
no row: silence is what it gets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.loudness import SILENCE, gain, rms
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.splicing import mid_side, window_starts
from ctrlgen.operators import LinearOperator
from ctrlgen.priors.prior import Prior

__all__ = [
    "STRIDE",
    "Posed",
    "Take",
    "Window",
    "audible",
    "cost_of",
    "lengthened",
    "parts_of",
    "to_prior",
    "window_of",
    "windows",
]

_QUIET_SIDE = 1e-2  # −40 dB: a side below this beside its mid is not worth a row
STRIDE = 1_000_003
"""Between the seeds of takes and those of their windows and parts."""


class Window(NamedTuple):
    """What a prior hears at a time: its rate in Hz, and samples at that rate."""

    rate: int
    length: int


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


class Posed(ABC):
    """Rows of a file.

    Args:
        recording: the file.
        y: rows H x at the file's level, shape (R, 1, M).
        known: samples of the rows that are known, bool, shape (R, M); None with a factor.
        owners: the gap or window of each row, and its part.
        factor: of the low-pass that is H; None where H is a mask.

    Attributes:
        y: rows at the level of the prior.
        level: g, shape (R,).
    """

    place: ClassVar[str] = "window"
    """What a row belongs to, in a word."""

    def __init__(
        self,
        recording: Recording,
        y: Tensor,
        known: Tensor | None,
        owners: Sequence[tuple[int, int]],
        factor: int | None = None,
    ) -> None:
        self.recording, self.owners = recording, list(owners)
        self.known, self.factor = known, factor
        self.level = gain(y, None if known is None else known.unsqueeze(1))
        self.y = y * self.level[:, None, None]

    def __len__(self) -> int:
        return len(self.owners)

    def seeds(self, take: int) -> list[int]:
        """Of the rows of a take, by its own."""
        channels = self.recording.samples.shape[0]
        return [take + STRIDE * (channels * place + part) for place, part in self.owners]

    def trivial(self) -> Tensor:
        """Rows without a prior, at the level of the prior, shape (R, 1, L)."""
        operator = cost_of([(self, torch.arange(len(self)))]).operator
        assert isinstance(operator, LinearOperator)
        return operator.pinv(self.y)

    def take(self, samples: Tensor, seed: int, notes: Sequence[dict[str, Any]]) -> Take:
        """A result.

        Args:
            samples: of the rows, at the level of the prior, shape (R, 1, L).
            seed: of the take.
            notes: what became of each row.
        """
        rows = [
            {self.place: place, "part": part, **note}
            for (place, part), note in zip(self.owners, notes, strict=True)
        ]
        signals = (samples.detach().cpu() / self.level[:, None, None])[:, 0].double()
        return Take(self.joined(signals, rows), seed, rows)

    @abstractmethod
    def joined(self, signals: Tensor, rows: list[dict[str, Any]]) -> Recording:
        """The file with rows of it, shape (R, L), at its level; more may be noted of them."""


def cost_of(parts: Sequence[tuple[Posed, Tensor]]) -> NegativePSNR:
    """−PSNR, peak 1, of rows of files that are measured alike.

    Args:
        parts: files, each with the rows of it that are meant, shape (b,).
    """
    y = torch.cat([posed.y[rows] for posed, rows in parts])
    operator: LinearOperator
    if (factor := parts[0][0].factor) is not None:
        operator = LowPass(factor)
    else:
        masks = [posed.known[rows] for posed, rows in parts if posed.known is not None]
        operator = TimeMask(torch.cat(masks))
    return NegativePSNR(operator, y, peak=1.0)


def window_of(prior: Prior) -> Window:
    """Rate of the prior in Hz, and samples of its window."""
    network: Any = prior.codec.network  # type: ignore[attr-defined]
    return Window(network.rate, network.samples(prior.source.shape[0]))


def parts_of(x: Tensor, window: Tensor) -> list[int]:
    """Parts of a window that get a row: those that are not as good as silent.

    Args:
        x: the file, shape (C, L).
        window: of it, shape (C, n), zero where nothing is known.
    """
    levels = rms(mid_side(window).unsqueeze(1)).tolist()
    if x.shape[0] == 2:
        mid, side = levels
        levels[1] = side if side > _QUIET_SIDE * mid else 0.0
    return [part for part, level in enumerate(levels) if level > SILENCE]


def windows(window: Window, recording: Recording) -> list[int]:
    """First samples, at the file's rate, of the windows that cover it."""
    span = round(window.length * recording.rate / window.rate)
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


def to_prior(x: Tensor, known: Tensor, rate: int, window: Window) -> tuple[Tensor, Tensor]:
    """Rows (R, n) and what is known of them at the prior's rate, float32 and bool (R, length)."""
    inner, length = window
    y = resample(x, rate, inner)[:, :length].float()
    y = torch.nn.functional.pad(y, (0, length - y.shape[1]))
    place = (torch.arange(length) * rate / inner).round().long().clamp_max(known.shape[1] - 1)
    mask = known[:, place]
    if rate != inner:
        # The resampler's filter reaches beyond an edge: what it has touched is left out.
        spread = torch.nn.functional.max_pool1d((~mask).float().unsqueeze(1), 17, 1, 8)
        mask = spread.squeeze(1) == 0
    return y, mask
