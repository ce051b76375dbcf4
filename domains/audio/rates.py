r"""Which frame rate the latents should have: what a linear codec keeps, what a gap gives away.

    python -m ctrlgen.domains.audio.rates data/audio

For N samples a hop and D numbers a frame, closed forms on music that was held out say

    SNR    of the linear codec of `spectral`, the first D principal axes of N MDCT coefficients;
    gap    the share of the energy inside of a gap that the best linear predictor from the frames on
           both sides explains, and that of the gap's first and last frame alone: what a Gaussian
           model of the music knows of how tones go on.

The predictor is W = C_gc (C_cc + λ I)^{-1} from the covariances of gap g and context c over windows
of the training music; λ is chosen on windows that they leave out. Longer frames separate partials
better, and a gap holds fewer of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ctrlgen.domains.audio.data import RATE, Music, read
from ctrlgen.domains.audio.mdct import mdct
from ctrlgen.domains.audio.spectral import principal_axes

__all__ = ["explained", "kept"]


def _places(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def _frames(music: Music, hop: int, seconds: float, count: int) -> Tensor:
    """MDCT frames of evenly spread clips, the two at the ends left out, shape (count, T, hop)."""
    length = round(seconds * RATE) + 2 * hop
    length -= length % hop
    rows = [mdct(part, hop)[:, 1:-1] for part in music.clips(_places(count), length).split(64)]
    return torch.cat(rows)


def kept(c: Tensor, held: Tensor, size: int) -> tuple[float, Tensor]:
    """Mean SNR in dB of clips in the leading axes, and the axes, orthonormal, shape (N, D).

    Args:
        c: frames to fit on, shape (B, T, N).
        held: frames to measure on.
        size: D.
    """
    flat = c.flatten(0, 1).double()
    _, axes = principal_axes(flat.T @ flat / len(flat), size)
    rest = held.double() - held.double() @ axes @ axes.T
    ratio = 10 * (held.double().square().sum((1, 2)) / rest.square().sum((1, 2))).log10()
    return float(ratio[ratio.isfinite()].mean()), axes


def explained(
    z: Tensor, held: Tensor, gap: int, ridges: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
) -> tuple[float, float]:
    """Share of the energy in a gap of so many frames that its context explains.

    Args:
        z: coordinates to fit on, shape (B, T, D), the gap in their middle.
        held: coordinates to measure on.
        gap: frames.
        ridges: choices of λ over the mean variance; the best on the last quarter of z is taken.

    Returns:
        Over the whole gap, and over its first and last frame alone.
    """
    start = (z.shape[1] - gap) // 2
    inside = torch.zeros(z.shape[1], dtype=torch.bool)
    inside[start : start + gap] = True
    first = len(z) * 3 // 4

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, ~inside].flatten(1), z[:, inside].flatten(1)

    def left(weights: Tensor, part: Tensor) -> Tensor:
        context, missing = parts(part)
        error = (missing - context @ weights).square().view(len(part), gap, -1).sum((0, 2))
        return torch.stack((error, missing.square().view(len(part), gap, -1).sum((0, 2))))

    context, missing = parts(z[:first])
    gram, cross = context.T @ context / first, context.T @ missing / first
    mean = float(gram.diagonal().mean())
    best, least = gram, torch.inf
    for ridge in ridges:
        weights = torch.linalg.solve(gram + ridge * mean * torch.eye(len(gram)), cross)
        error, _ = left(weights, z[first:]).sum(1).tolist()
        if error < least:
            best, least = weights, error
    error, total = left(best, held)
    edges = torch.tensor([0, gap - 1])
    return (
        1 - float(error.sum() / total.sum()),
        1 - float(error[edges].sum() / total[edges].sum()),
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, default=6000, help="of the training music")
    parser.add_argument("--gap", type=float, default=0.4, help="seconds")
    options = parser.parse_args()
    music, held_out = read(options.folder), read(options.folder, "held-out")
    print("| hop | frames/s | numbers | SNR (dB) | gap explained | its edges |\n|-|-|-|-|-|-|")
    # The first of each has as many numbers a second as the others; more of them take long to fit.
    for hop, sizes in ((320, (64, 192)), (640, (128, 384))):
        c = _frames(music, hop, 3 * options.gap, options.windows)
        held = _frames(held_out, hop, 3 * options.gap, options.windows // 8)
        gap = round(options.gap * RATE / hop)
        for size in sizes:
            ratio, axes = kept(c, held, size)
            shares = ["", ""]
            if size == sizes[0]:
                parts = explained(c @ axes.float(), held @ axes.float(), gap)
                shares = [f"{part:.4f}" for part in parts]
            row = (str(hop), f"{RATE / hop:g}", str(size), f"{ratio:.2f}", *shares)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    _main()
