r"""Compact velocity networks for small images.

Both networks approximate the marginal velocity v(x, t) = E[x_1 - x_0 | x_t = x] of the
straight path x_t = t x_1 + (1 - t) x_0 (Lipman et al. 2023, eq. 22). They are preconditioned as in
EDM (Karras et al. 2022, eq. 7), rewritten for that path: with data of mean mu and standard
deviation s, and rho(t)^2 = t^2 s^2 + (1 - t)^2 the variance of x_t, the best linear guess is
subtracted and the rest has unit variance at all times,

    v(x, t) = mu + c(t) (x - t mu) + s / rho(t) * F((x - t mu) / rho(t), t),
    c(t)    = (t s^2 - (1 - t)) / rho(t)^2.

`Transformer` is a diffusion transformer (Peebles & Xie 2023) with one modulation layer shared by
all blocks (PixArt-alpha, Chen et al. 2024), a relative position bias, normalised queries and keys,
optional long skips (U-ViT, Bao et al. 2023) and two small convolutions across the patch edges.
`UNet` is a residual convolutional network with channel-wise normalisation.

Both use explicit softmax attention and differentiable normalisation only, hence support double
backward, forward-mode differentiation and float64; no operation mixes samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Transformer", "UNet", "build"]


class Conditioning(nn.Module):
    """Embed the flow time and an optional class label into one vector.

    Args:
        width: size of the embedding.
        classes: number of classes K; index K is the null label.
    """

    frequencies: Tensor

    def __init__(self, width: int, classes: int, bands: int = 32) -> None:
        super().__init__()
        self.classes = classes
        # From half a turn to 32 turns over the unit interval: smooth enough for second-order solvers.
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 6, bands, base=2.0))
        self.time = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Map t (B,) in [0, 1] and label (B,) in 0..K, or None for the null label, to (B, width)."""
        angle = t[:, None] * self.frequencies.to(t.dtype)
        if label is None:
            label = torch.full(t.shape, self.classes, dtype=torch.long, device=t.device)
        embedded: Tensor = self.time(torch.cat((angle.cos(), angle.sin()), dim=1))
        return F.silu(embedded + self.label(label))


class Velocity(nn.Module):
    """The preconditioning, the checks and the signature shared by the networks.

    Args:
        shape: (channels, height, width) of one image.
        classes: number of classes K; label K is the null label.
        mean: scalar mean of the training data.
        std: scalar standard deviation of the training data.
    """

    def __init__(self, shape: Sequence[int], classes: int, mean: float, std: float) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.classes, self.mean, self.std = classes, mean, std

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity of the flow.

        Args:
            x: states, shape (B, C, H, W).
            t: flow times in [0, 1], shape (B,).
            label: class indices, shape (B,), long; K, like None, means unconditional.

        Returns:
            Velocities, shape (B, C, H, W).

        Raises:
            ValueError: a shape is wrong.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x: expected shape (B, {self.shape}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: expected shape ({x.shape[0]},), got {tuple(t.shape)}")
        if label is not None and label.shape != t.shape:
            raise ValueError(f"label: expected shape ({x.shape[0]},), got {tuple(label.shape)}")
        time = t[:, None, None, None]
        centred = x - time * self.mean
        variance = time.square() * self.std**2 + (1 - time).square()
        inner = self.residual(centred * variance.rsqrt(), t, label)
        linear = (time * self.std**2 - (1 - time)) / variance
        return self.mean + linear * centred + self.std * variance.rsqrt() * inner

    def residual(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The learned part F: unit-variance input and target, shape (B, C, H, W)."""
        raise NotImplementedError


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """Pre-norm attention and MLP; scale, shift and gate come from the shared modulation."""

    index: Tensor

    def __init__(self, width: int, heads: int, grid: tuple[int, int], ratio: int) -> None:
        super().__init__()
        self.heads = heads
        rows, columns = grid
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), (width // heads) ** -0.5))
        self.bias = nn.Parameter(torch.zeros(heads, (2 * rows - 1) * (2 * columns - 1)))
        row, column = (
            torch.arange(rows).repeat_interleave(columns),
            torch.arange(columns).repeat(rows),
        )
        index = (row[:, None] - row + rows - 1) * (2 * columns - 1)
        index = index + column[:, None] - column + columns - 1
        self.register_buffer("index", index, persistent=False)

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        scores = (q * self.temperature) @ k.transpose(-1, -2) + self.bias[:, self.index]
        mixed: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        m = (modulation + self.offset)[:, :, None]
        x = x + m[:, 2] * self.attention(_modulate(x, m[:, 0], m[:, 1]))
        hidden = F.gelu(self.up(_modulate(x, m[:, 3], m[:, 4])))
        return x + m[:, 5] * self.down(hidden)


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
        channels, height, breadth = self.shape
        if height % patch or breadth % patch or width % heads:
            raise ValueError(
                f"patch {patch} must divide {height}x{breadth}, heads {heads} must divide {width}"
            )
        self.patch, self.grid = patch, (height // patch, breadth // patch)
        self.stem = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width))
        self.conditioning = Conditioning(width, classes)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, self.grid, ratio) for _ in range(depth))
        self.joins = nn.ModuleList(
            nn.Linear(2 * width, width) for _ in range(depth // 2 if skips else 0)
        )
        self.final = nn.Linear(width, 2 * width)
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
        h = self.head(_modulate(h, scale, shift))
        h = F.pixel_shuffle(h.transpose(1, 2).unflatten(2, self.grid), self.patch)
        if len(self.smooth):
            h = self.smooth(torch.cat((h, x.to(h.dtype)), dim=1))
        return h


def _normalise(x: Tensor) -> Tensor:
    """RMS norm over the channels of (B, C, H, W)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()


class Residual(nn.Module):
    """Two 3x3 convolutions, modulated by the conditioning."""

    def __init__(self, inner: int, outer: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, padding=1)
        self.second = nn.Conv2d(outer, outer, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.first(F.silu(_normalise(x)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.skip(x) + self.second(F.silu(_normalise(h) * (1 + scale) + shift))
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
        channels, width = self.shape[0], 4 * widths[0]
        scale = 2 ** len(widths)
        grid = (-(-self.shape[1] // scale), -(-self.shape[2] // scale))
        self.blocks = nn.ModuleList(Block(widths[-1], heads, grid, 4) for _ in range(attention))
        if attention:
            self.modulation = nn.Linear(width, 6 * widths[-1])
            self.position = nn.Parameter(0.02 * torch.randn(math.prod(grid), widths[-1]))
            nn.init.zeros_(self.modulation.weight)
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
        h = F.pixel_shuffle(self.head(F.silu(_normalise(h))), 2)
        return h[..., :height, :breadth]


def build(config: Mapping[str, Any]) -> nn.Module:
    """Construct a network from a plain, JSON-able configuration.

    Args:
        config: {"network": "transformer" or "unet", ...}; the rest are the keywords of the class.

    Raises:
        ValueError: the kind of network is unknown.
    """
    kinds: dict[str, type[Velocity]] = {"transformer": Transformer, "unet": UNet}
    options = dict(config)
    kind = options.pop("network", None)
    if kind not in kinds:
        raise ValueError(f"network: expected one of {sorted(kinds)}, got {kind!r}")
    return kinds[kind](**options)
