r"""The velocity of a flow on latent frames: a transformer over time.

A state is z (B, T, D), T frames of D numbers of unit variance each. On the straight path
z_t = t z_1 + (1 - t) z_0 the network F is preconditioned (Karras et al. 2022, eq. 7, on this path),

    v(z, t) = ((2t - 1) z + s F(z / s, t)) / s²,      s² = t² + (1 - t)²,

so its input and its target have unit variance at all times. F is a diffusion transformer (Peebles &
Xie 2023): pre-norm attention and MLP under scale, shift and gate from the time and the conditions,
one shared modulation (Chen et al. 2024), rotary positions (Su et al. 2021), so a clip may be of any
length. A frame has more numbers than the transformer is wide; its tokens h give each number a value
and a gain on what is there,

    F(x) = A h + (G h) ⊙ x + (G₁ h) ⊙ tanh x + (G₂ h) ⊙ tanh 3x,

so the numbers of a band that sounds like noise need no more than the band's level. The last two
are there with `curved`: given their level, companded coefficients have lighter tails than a
Gaussian, so the best guess of one bends in what is there, and a gain alone draws tails that come
out ten decibels too loud. The tokens are then made of x and of √(1 + x²) - 1, for the level of a
band lies in the sizes of its numbers. Attention is an explicit softmax: double backward, forward
mode and float64 work.

Frames that do not exist (`frames` says how many do) are zero, are attended by none, and their
velocity is zero: padding changes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.audio.spectral import frame_mask

__all__ = ["FrameVelocity", "build"]


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs of features (*, T, C) turned by angles of cosines and sines (T, C/2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = (part.to(x.dtype) for part in turn)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


class Conditioning(nn.Module):
    """Flow time t (B,) in [0, 1] and an optional label (B,) in 0..K as one vector (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int, classes: int, bands: int = 32) -> None:
        super().__init__()
        # Half a turn to 32 turns over the unit interval: smooth enough for second-order solvers.
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 6, bands, base=2.0))
        self.time = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        angle = t[:, None] * self.frequencies.to(t.dtype)
        embedded: Tensor = self.time(torch.cat((angle.cos(), angle.sin()), dim=1))
        if self.label is not None:
            null = self.label.num_embeddings - 1
            index = torch.full(t.shape, null, device=t.device) if label is None else label
            embedded = embedded + self.label(index)
        return F.silu(embedded)


class Block(nn.Module):
    """Attention over frames and an MLP, modulated."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        self.offset = nn.Parameter(torch.zeros(6, width))

    def attention(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        batch, frames, width = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(F.layer_norm(qkv[:2], qkv.shape[-1:]), turn)
        v = qkv[2]
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -math.inf)
        share = scores.softmax(-1).to(v.dtype)
        mixed: Tensor = (share @ v).transpose(1, 2).reshape(batch, frames, width)
        out: Tensor = self.out(mixed)
        return out

    def forward(
        self, x: Tensor, modulation: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        m = (modulation + self.offset)[:, :, None]
        normed = F.layer_norm(x, x.shape[-1:]) * (1 + m[:, 0]) + m[:, 1]
        x = x + m[:, 2] * self.attention(normed, turn, mask)
        normed = F.layer_norm(x, x.shape[-1:]) * (1 + m[:, 3]) + m[:, 4]
        return x + m[:, 5] * self.down(F.gelu(self.up(normed)))


class FrameVelocity(nn.Module):
    """The transformer above as a velocity.

    Args:
        features: D, numbers of a frame.
        width: of the tokens, a multiple of twice the heads.
        depth: number of blocks.
        heads: attention heads.
        ratio: hidden width of the MLP over width.
        classes: number of labels K of an optional condition; label K is the null label.
        curved: whether sizes enter the tokens and the velocity bends in each number.
    """

    turns: Tensor

    def __init__(
        self,
        features: int,
        width: int = 256,
        depth: int = 8,
        heads: int = 4,
        ratio: int = 4,
        classes: int = 0,
        curved: bool = False,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width: expected a multiple of {2 * heads}, got {width}")
        self.features = features
        pairs = width // heads // 2
        # From a radian a frame to one in a thousand frames.
        turns = torch.logspace(0, -3, pairs, base=10.0, dtype=torch.float64)
        self.register_buffer("turns", turns.float(), persistent=False)
        self.conditioning = Conditioning(width, classes)
        self.modulation = nn.Linear(width, 6 * width)
        self.final = nn.Linear(width, 2 * width)
        self.stem = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.head = nn.Linear(width, features)
        self.gain = nn.Linear(width, features)
        zero = [self.modulation, self.final, self.head, self.gain]
        self.level: nn.Linear | None = None
        if curved:
            self.level = nn.Linear(features, width)
            self.gain_wide, self.gain_steep = (nn.Linear(width, features) for _ in range(2))
            zero += [self.level, self.gain_wide, self.gain_steep]
        for layer in zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, t: Tensor, frames: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Velocity of the flow.

        Args:
            x: states, shape (B, T, D); the padding may hold anything.
            t: flow times in [0, 1], shape (B,).
            frames: of each clip, shape (B,), long; they come first. None means T.
            label: class indices, shape (B,), long; K, like None, means unconditional.

        Returns:
            Velocities, shape (B, T, D), zero at the padding.

        Raises:
            ValueError: a shape is wrong.
        """
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ValueError(f"x: expected shape (B, T, {self.features}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: expected shape ({len(x)},), got {tuple(t.shape)}")
        if label is not None and label.shape != t.shape:
            raise ValueError(f"label: expected shape ({len(x)},), got {tuple(label.shape)}")
        mask = None if frames is None else frame_mask(frames, x)
        if mask is not None:
            x = torch.where(mask.unsqueeze(2), x, 0)
        time = t[:, None, None]
        variance = time.square() + (1 - time).square()
        scale = variance.sqrt()
        inner = self.residual(x / scale, t, mask, label).to(x.dtype)
        velocity = ((2 * time - 1) * x + scale * inner) / variance
        return velocity if mask is None else torch.where(mask.unsqueeze(2), velocity, 0)

    def residual(self, x: Tensor, t: Tensor, mask: Tensor | None, label: Tensor | None) -> Tensor:
        """The learned part F: unit-variance input and target, shape (B, T, D)."""
        condition = self.conditioning(t, label)
        modulation = self.modulation(condition).unflatten(1, (6, -1))
        place = torch.arange(x.shape[1], device=x.device, dtype=self.turns.dtype)
        angle = place[:, None] * self.turns
        turn = angle.cos(), angle.sin()
        h = self.stem(x)
        if self.level is not None:
            h = h + self.level((1 + x.square()).sqrt() - 1)
        for block in self.blocks:
            h = block(h, modulation, turn, mask)
        scale, shift = self.final(condition)[:, None].chunk(2, dim=2)
        h = F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift
        out: Tensor = self.head(h) + self.gain(h) * x
        if self.level is not None:
            out = out + self.gain_wide(h) * x.tanh() + self.gain_steep(h) * (3 * x).tanh()
        return out


def build(**options: Any) -> FrameVelocity:
    """Construct a network from a plain, JSON-able configuration: keywords of `FrameVelocity`."""
    return FrameVelocity(**options)
