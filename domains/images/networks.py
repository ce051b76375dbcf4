"""Compact velocity networks for small images.

`UNet` is a residual convolutional network with channel-wise RMS norms (the embedded priors use it:
it learns fastest on a CPU, see weights/ablation.log). `Transformer` is a diffusion transformer
(Peebles & Xie 2023) on square patches with one modulation layer shared by all blocks (Chen et al.
2024, PixArt-alpha), a relative position bias, optional long skips (Bao et al. 2023, U-ViT) and two
small convolutions across the patch edges. Preconditioning and signature are in `layers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.images.layers import (
    Block,
    Conditioning,
    RowLinear,
    Velocity,
    modulate,
    normalise,
)
from ctrlgen.rows.checks import check_sizes

__all__ = ["Transformer", "UNet", "build"]


class Transformer(Velocity):
    """Diffusion transformer on square patches.

    Args:
        shape, classes, mean, std: see `Velocity`.
        width: token width, a multiple of heads.
        depth: number of blocks.
        heads: attention heads.
        patch: side of a patch in pixels; divides height and width.
        ratio: hidden width of the MLP over width.
        skips: join block i to block depth - 1 - i by a long skip.
        refine: channels of the convolutions across patch edges; 0 for none.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        mean: float = 0.0,
        std: float = 0.5,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        patch: int = 4,
        ratio: int = 4,
        skips: bool = False,
        refine: int = 16,
    ) -> None:
        super().__init__(shape, classes, mean, std)
        check_sizes(width=width, depth=depth, heads=heads, patch=patch, ratio=ratio)
        check_sizes(0, refine=refine)
        channels, height, breadth = self.shape
        if height % patch or breadth % patch or width % heads:
            raise ValueError(
                f"patch {patch} must divide {height}x{breadth}, heads {heads} must divide {width}"
            )
        self.patch, self.grid = patch, (height // patch, breadth // patch)
        self.stem = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width))
        self.conditioning = Conditioning(width, classes)
        self.modulation = RowLinear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, self.grid, ratio) for _ in range(depth))
        self.joins = nn.ModuleList(
            nn.Linear(2 * width, width) for _ in range(depth // 2 if skips else 0)
        )
        self.final = RowLinear(width, 2 * width)
        self.head = nn.Linear(width, (refine or channels) * patch**2)
        self.smooth = nn.Sequential()
        if refine:
            self.smooth = nn.Sequential(
                nn.Conv2d(refine + channels, refine, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(refine, channels, 3, padding=1),
            )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.final.weight)
        last = self.smooth[-1] if refine else self.head
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def residual(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        condition = self.conditioning(t, label)
        modulation = self.modulation(condition).unflatten(1, (6, -1))
        h = self.stem(F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)) + self.position
        kept: list[Tensor] = []
        depth = len(self.blocks)
        for i, block in enumerate(self.blocks):
            if i >= depth - len(self.joins):
                h = self.joins[depth - 1 - i](torch.cat((h, kept.pop()), dim=-1))
            h = block(h, modulation)
            if i < len(self.joins):
                kept.append(h)
        scale, shift = self.final(condition)[:, None].chunk(2, dim=-1)
        h = self.head(modulate(h, scale, shift))
        h = F.pixel_shuffle(h.transpose(1, 2).unflatten(2, self.grid), self.patch)
        if len(self.smooth):
            h = self.smooth(torch.cat((h, x.to(h.dtype)), dim=1))
        return h


class Residual(nn.Module):
    """Two 3x3 convolutions, modulated by the conditioning."""

    def __init__(self, inner: int, outer: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, padding=1)
        self.second = nn.Conv2d(outer, outer, 3, padding=1)
        self.modulation = RowLinear(width, 2 * outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.first(F.silu(normalise(x)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.skip(x) + self.second(F.silu(normalise(h) * (1 + scale) + shift))
        return out


class UNet(Velocity):
    """Residual U-Net on 2x2 space-to-depth pixels.

    Args:
        shape, classes, mean, std: see `Velocity`.
        widths: channels at each resolution; each halves the one before (odd sides are padded).
        depth: residual blocks per resolution, on the way down and again on the way up.
        attention: transformer blocks between the two ways, at the lowest resolution.
        heads: attention heads.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        mean: float = 0.0,
        std: float = 0.5,
        widths: Sequence[int] = (32, 64, 96),
        depth: int = 1,
        attention: int = 0,
        heads: int = 4,
    ) -> None:
        super().__init__(shape, classes, mean, std)
        check_sizes(widths=widths, depth=depth, heads=heads)
        check_sizes(0, attention=attention)
        channels, width = self.shape[0], 4 * widths[0]
        scale = 2 ** len(widths)
        grid = (-(-self.shape[1] // scale), -(-self.shape[2] // scale))
        self.blocks = nn.ModuleList(Block(widths[-1], heads, grid, 4) for _ in range(attention))
        if attention:
            self.modulation = RowLinear(width, 6 * widths[-1])
            self.position = nn.Parameter(torch.zeros(math.prod(grid), widths[-1]))
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.conditioning = Conditioning(width, classes)
        self.stem = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(widths):
            self.down.append(nn.ModuleList(Residual(size, size, width) for _ in range(depth)))
            self.up.append(
                nn.ModuleList(Residual(size if j else 2 * size, size, width) for j in range(depth))
            )
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(size, widths[i + 1], 2, stride=2))
                self.grow.append(nn.Conv2d(widths[i + 1], 4 * size, 1))
        self.head = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def residual(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        condition = self.conditioning(t, label)
        height, breadth = x.shape[-2:]
        multiple = 2 ** len(self.down)
        x = F.pad(x, (0, -breadth % multiple, 0, -height % multiple))
        # Channels-last convolutions are three times faster on a CPU.
        h = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        h = self.stem(h)
        kept: list[Tensor] = []
        for i, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, condition)
            kept.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        if len(self.blocks):
            modulation = self.modulation(condition).unflatten(1, (6, -1))
            tokens = h.flatten(2).transpose(1, 2) + self.position
            for block in self.blocks:
                tokens = block(tokens, modulation)
            h = tokens.transpose(1, 2).unflatten(2, h.shape[-2:])
        for i in reversed(range(len(self.up))):
            h = torch.cat((h, kept[i]), dim=1)
            for block in self.up[i]:  # type: ignore[attr-defined]
                h = block(h, condition)
            if i > 0:
                h = F.pixel_shuffle(self.grow[i - 1](h), 2)
        h = F.pixel_shuffle(self.head(F.silu(normalise(h))), 2)
        return h[..., :height, :breadth]


def build(network: str, **options: Any) -> Velocity:
    """Construct a network from a plain, JSON-able configuration.

    Args:
        network: "transformer" or "unet".
        **options: keywords of the class.

    Raises:
        ValueError: the kind of network is unknown.
    """
    kinds: dict[str, type[Velocity]] = {"transformer": Transformer, "unet": UNet}
    if network not in kinds:
        raise ValueError(f"network: expected one of {sorted(kinds)}, got {network!r}")
    return kinds[network](**options)
