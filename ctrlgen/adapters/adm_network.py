r"""The U-Net "ADM" (Dhariwal & Nichol, arXiv 2105.05233), with the names of its published weights.

Residual blocks with group norms, into which the time (and the label) enters as a shift or as scale
and shift; attention over all places at some sizes; skips from every stage on the way down to one on
the way up. The time is embedded by cos and sin of time · 10000^{−i/(w/2)}, i < w/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.rows.checks import check_sizes

__all__ = ["ADM"]


class _Resample(nn.Module):
    """Twice or half the size, by a convolution where it learns."""

    def __init__(self, channels: int, up: bool, learned: bool) -> None:
        super().__init__()
        self.up = up
        if learned and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif learned:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return self.conv(x) if hasattr(self, "conv") else x
        return self.op(x) if hasattr(self, "op") else F.avg_pool2d(x, 2)


class _Residual(nn.Module):
    """Two convolutions with the time between them; may change the size on the way."""

    def __init__(
        self, channels: int, out: int, emb: int, scale_shift: bool, up: bool | None = None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.resample = None if up is None else _Resample(channels, up, learned=False)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        same = channels == out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        shift = self.emb_layers(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


class _Attention(nn.Module):
    """Self-attention over all places; `new` says how heads lie in the channels."""

    def __init__(self, channels: int, heads: int, new: bool) -> None:
        super().__init__()
        self.heads, self.new = heads, new
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.new:
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        else:
            q, k, v = qkv.unflatten(1, (self.heads, 3, -1)).unbind(2)
        scale = q.shape[2] ** -0.25  # on both sides: products stay small
        weight = torch.softmax(torch.einsum("bhct,bhcs->bhts", q * scale, k * scale), dim=-1)
        mixed = torch.einsum("bhts,bhcs->bhct", weight, v).flatten(1, 2)
        return (flat + self.proj_out(mixed)).reshape(x.shape)


class _Stage(nn.ModuleList):
    """Modules one after the other, those that want it with the time."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for module in self:
            x = module(x) if isinstance(module, nn.Conv2d) else module(x, emb)
        return x


class ADM(nn.Module):
    """The U-Net, called on the flow's clock: `network(x, t, label=...)`.

    Args:
        size: height and width in pixels.
        width: channels of the first stage.
        widths: multiples of it, stage by stage.
        blocks: residual blocks of a stage.
        attention: sizes in pixels at which there is attention.
        heads: of the attention, where `head_channels` is None.
        head_channels: channels of a head.
        channels: of images.
        classes: number of labels, or None.
        scale_shift: time scales and shifts the normalised features; else it is added.
        residual_resampling: residual blocks change the size; else convolutions do.
        new_attention: the order of heads and (q, k, v) in the channels.
        variance: whether the network predicts a variance as well.
        clock: "diffusion" or "flow", see the module.
        steps: T.
        schedule: of the diffusion, "linear" or "cosine"; for `from_adm`.
    """

    def __init__(
        self,
        size: int,
        width: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        *,
        heads: int = 1,
        head_channels: int | None = None,
        channels: int = 3,
        classes: int | None = None,
        scale_shift: bool = False,
        residual_resampling: bool = False,
        new_attention: bool = False,
        variance: bool = True,
        clock: Literal["diffusion", "flow"] = "diffusion",
        steps: int = 1000,
        schedule: Literal["linear", "cosine"] = "linear",
    ) -> None:
        super().__init__()
        check_sizes(size=size, width=width, widths=widths, blocks=blocks, heads=heads)
        check_sizes(channels=channels, steps=steps, classes=1 if classes is None else classes)
        if clock not in ("diffusion", "flow"):
            raise ValueError(f"clock: expected 'diffusion' or 'flow', got {clock!r}")
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule: expected 'linear' or 'cosine', got {schedule!r}")
        if not widths or size % 2 ** (len(widths) - 1):
            raise ValueError(f"size: expected a multiple of {2 ** (len(widths) - 1)}, got {size}")
        self.width, self.channels, self.classes = width, channels, classes
        self.factor = None if clock == "flow" else steps - 1
        emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes is not None:
            self.label_emb = nn.Embedding(classes, emb)

        def residual(before: int, after: int, up: bool | None = None) -> _Residual:
            return _Residual(before, after, emb, scale_shift, up)

        def attend(at: int) -> _Attention:
            return _Attention(at, at // head_channels if head_channels else heads, new_attention)

        def stage(before: int, after: int, pixels: int) -> list[nn.Module]:
            parts: list[nn.Module] = [residual(before, after)]
            return [*parts, attend(after)] if pixels in attention else parts

        def resample(at: int, up: bool) -> nn.Module:
            return residual(at, at, up) if residual_resampling else _Resample(at, up, True)

        now = first = int(widths[0] * width)
        self.input_blocks = nn.ModuleList([_Stage([nn.Conv2d(channels, now, 3, padding=1)])])
        kept, pixels = [now], size
        for level, multiple in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(_Stage(stage(now, int(multiple * width), pixels)))
                now = int(multiple * width)
                kept.append(now)
            if level + 1 < len(widths):
                self.input_blocks.append(_Stage([resample(now, up=False)]))
                kept.append(now)
                pixels //= 2
        self.middle_block = _Stage([residual(now, now), attend(now), residual(now, now)])
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(widths))):
            for block in range(blocks + 1):
                parts = stage(now + kept.pop(), int(multiple * width), pixels)
                now = int(multiple * width)
                if level and block == blocks:
                    parts.append(resample(now, up=True))
                    pixels *= 2
                self.output_blocks.append(_Stage(parts))
        out = channels * (2 if variance else 1)
        self.out = nn.Sequential(
            nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(first, out, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction at states x (B, C, H, W), times t (B,), labels (B,).

        Raises:
            ValueError: for a label that is missing, or that the network does not take.
        """
        if (label is None) != (self.classes is None):
            got = "none" if label is None else "some"
            wanted = "no labels" if self.classes is None else "labels"
            raise ValueError(f"label: this network takes {wanted}, got {got}")
        time = t if self.factor is None else (1 - t) * self.factor
        emb = self.time_embed(_waves(time, self.width).to(x.dtype))
        if label is not None:
            emb = emb + self.label_emb(label)
        h, passed = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            passed.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat((h, passed.pop()), dim=1), emb)
        return self.out(h)[:, : self.channels]


def _waves(time: Tensor, width: int) -> Tensor:
    """Cosines and sines of the time, shape (B, width)."""
    half = width // 2
    steps = torch.arange(half, dtype=time.dtype, device=time.device)
    angle = time.unsqueeze(1) * torch.exp(-math.log(10_000) * steps / half)
    return F.pad(torch.cat((angle.cos(), angle.sin()), dim=1), (0, width % 2))
