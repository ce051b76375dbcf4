r"""Random numbers that belong to a sample: counter-based, the same in any batch and on any device.

A draw is a pure function of (seed, stream, position): the Philox-4x32-10 block cipher of Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3" (SC11), applied to a counter. Row i of a batch
therefore depends on seed i alone, not on its neighbours, its place, the shape of the batch, the
device, or what was drawn before. `stream` keeps apart what one sample draws for different purposes.

Positions count row-major over the sample's shape, so a padded sample draws the same numbers for
its first entries as an unpadded one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ctrlgen.rows.errors import short

__all__ = [
    "SOURCE",
    "Seeds",
    "as_seeds",
    "further",
    "normal",
    "rademacher",
    "uniform",
    "warn_of_twins",
]

Seeds = Sequence[int] | Tensor

SOURCE = 0  # stream of the source sample; methods take their own from 1 on

FURTHER = 2**32
"""Seeds of further draws of a sample lie this far apart."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def as_seeds(seeds: Seeds, device: torch.device | str | None = None) -> Tensor:
    """Seeds as a tensor of shape (B,), int64.

    Raises:
        TypeError: for what is no sequence, such as a number of samples.
        ValueError: for an empty or not one-dimensional list, or a seed that is no integer in
            [0, 2**63).
    """
    if not isinstance(seeds, Tensor):
        if isinstance(seeds, str) or not isinstance(seeds, Iterable):
            hint = f"; range({seeds}) has so many" if type(seeds) is int and seeds > 0 else ""
            raise TypeError(f"seeds: expected integers, one per sample, got {seeds!r}{hint}")
        if getattr(seeds, "ndim", 1) == 0:
            raise ValueError(f"seeds: expected shape (B,), got {seeds!r}")
        seeds = list(seeds)
        wrong = [s for s in seeds if not _is_seed(s)]
        if wrong:
            raise ValueError(f"seeds: expected integers in [0, 2**63), got {short(wrong[0])}")
        seeds = torch.tensor([int(s) for s in seeds], dtype=torch.int64)
    elif bool((seeds < 0).any()):
        raise ValueError(f"seeds: expected integers in [0, 2**63), got {int(seeds.min())}")
    if seeds.ndim != 1 or len(seeds) == 0 or seeds.dtype != torch.int64:
        raise ValueError(
            "seeds: expected at least one integer, shape (B,), "
            f"got shape {tuple(seeds.shape)}, {seeds.dtype}"
        )
    return seeds.to(device)


def _is_seed(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 0 <= int(value) < 2**63


def further(seeds: Tensor, draw: Tensor | int) -> Tensor:
    """Seeds of further draws: a sample's own, which is draw 0, plus 2³² for each, int64.

    A draw that proved best is a sample like any other: its seed gives it again.

    Args:
        seeds: any shape.
        draw: number of the draw, >= 0, to broadcast against the seeds.
    """
    return (seeds + draw * FURTHER) & (2**63 - 1)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Ten rounds of Philox-4x32; words are int64 tensors that hold 32-bit values.

    int64 wraps in a product of two of them, and its bits stay right. What lies above 32 bits is
    cleared where it would reach the next product only. Words and keys broadcast: what all rows or
    all positions share is computed once in the first two rounds.
    """
    c0, c1, c2, c3 = counter
    turns = torch.arange(10, device=c0.device)
    schedule = [
        ((word.unsqueeze(-1) + turns * step) & _MASK).unbind(-1)
        for word, step in zip(key, _WEYL, strict=True)
    ]
    for turn, (k0, k1) in enumerate(zip(*schedule, strict=True)):
        low0, low1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        if turn < 2:
            c0 = ((low1 >> 32) ^ c1 ^ k0) & _MASK
            c2 = ((low0 >> 32) ^ c3 ^ k1) & _MASK
        else:
            c0 = (low1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
            c2 = (low0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        c1, c3 = low1, low0
    return [c0, c1 & _MASK, c2, c3 & _MASK]


class Cipher:
    """Philox as one compiled function on CUDA, where its hundred small kernels would cost most.

    The first call compares its bits with those of the plain function. Where there is no compiler,
    where it fails or gives other bits, and on all other devices, the plain function serves.
    """

    def __init__(self) -> None:
        self._compiled: Callable[..., list[Tensor]] | None = None
        self.failed = False

    def __call__(
        self, counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
    ) -> list[Tensor]:
        """As `philox`."""
        if key[0].device.type != "cuda" or self.failed or torch.compiler.is_compiling():
            return philox(counter, key)
        return self.fused(counter, key)

    def fused(
        self, counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
    ) -> list[Tensor]:
        """By the compiled function, if it can."""
        try:
            if self._compiled is None:
                compiled = torch.compile(philox, dynamic=True, fullgraph=True)
                pairs = zip(compiled(counter, key), philox(counter, key), strict=True)
                if not all(torch.equal(one, other) for one, other in pairs):
                    raise RuntimeError("the compiled cipher gives other bits")
                self._compiled = compiled
            return self._compiled(counter, key)
        except Exception:  # a compiler fails in many ways, and none may cost a draw
            self.failed, self._compiled = True, None
            return philox(counter, key)


_CIPHER = Cipher()


def _words(seeds: Seeds, count: int, stream: int, device: torch.device | str | None) -> Tensor:
    """32-bit words, shape (B, count), int64.

    Seeds that are on a device already were checked on their way there: their values are not read
    at every draw, for which the host would have to wait.
    """
    trusted = isinstance(seeds, Tensor) and seeds.device.type != "cpu" and seeds.ndim == 1
    rows = seeds.to(device) if trusted else as_seeds(seeds, device)  # type: ignore[union-attr]
    block = torch.arange(-(-count // 4), device=rows.device, dtype=torch.int64).unsqueeze(0)
    low, high = (rows.new_full((1, 1), word) for word in (stream & _MASK, stream >> 32))
    words = _CIPHER(
        (block & _MASK, block >> 32, low, high),
        ((rows & _MASK).unsqueeze(1), ((rows >> 32) & _MASK).unsqueeze(1)),
    )
    return torch.stack(words, dim=2).flatten(1)[:, :count]


def uniform(
    seeds: Seeds,
    shape: Sequence[int],
    stream: int = SOURCE,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform draws in (0, 1), shape (B, *shape)."""
    words = _words(seeds, math.prod(shape), stream, device)
    draws = words.double().add_(0.5).mul_(2.0**-32).to(dtype).reshape(len(words), *shape)
    limits = torch.finfo(dtype)  # rounding to a short dtype must reach neither end
    return draws.clamp_(limits.tiny, 1 - limits.eps / 2)


def warn_of_twins(seeds: Tensor) -> None:
    """Say, once for a place in the user's code, that samples will be the same."""
    values, counts = seeds.unique(return_counts=True)
    if len(values) < len(seeds):
        twins = values[counts > 1].tolist()
        warnings.warn(
            f"seeds: {', '.join(map(str, twins[:3]))}{' ...' if len(twins) > 3 else ''} more than "
            "once; samples of one seed are the same wherever their data are",
            stacklevel=3,
        )


def normal(
    seeds: Seeds,
    shape: Sequence[int],
    stream: int = SOURCE,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal draws, shape (B, *shape), by Box and Muller in float64."""
    count = math.prod(shape)
    pairs = uniform(seeds, (-(-count // 2), 2), stream, dtype=torch.float64, device=device)
    radius = pairs[..., 0].log().mul_(-2).sqrt_()
    angle = pairs[..., 1] * (2 * math.pi)
    draws = torch.stack((angle.cos().mul_(radius), angle.sin().mul_(radius)), dim=2)
    return draws.flatten(1)[:, :count].to(dtype).reshape(len(draws), *shape)


def rademacher(
    seeds: Seeds,
    shape: Sequence[int],
    stream: int = SOURCE,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Signs ±1 with equal probability, shape (B, *shape)."""
    words = _words(seeds, math.prod(shape), stream, device)
    return ((words >> 31) * 2 - 1).to(dtype).reshape(len(words), *shape)
