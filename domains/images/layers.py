r"""Parts of the image networks: preconditioned velocity, time and label embedding, attention block.

The networks approximate the marginal velocity v(x, t) = E[x_1 - x_0 | x_t = x] of the straight path
x_t = t x_1 + (1 - t) x_0 (Lipman et al. 2023, eq. 22). They are preconditioned as in EDM (Karras et
al. 2022, eq. 7), rewritten for that path: with data of mean mu and standard deviation s, and
rho(t)^2 = t^2 s^2 + (1 - t)^2 the variance of x_t, the best linear guess is subtracted and the rest
has unit variance at all times,

    v(x, t) = mu + c(t) (x - t mu) + s / rho(t) * F((x - t mu) / rho(t), t),
    c(t)    = (t s^2 - (1 - t)) / rho(t)^2.

Attention is an explicit softmax and every part is smooth: double backward, forward-mode
differentiation and float64 work. No part mixes samples of a batch, and outside training a sample is
computed to the last bit as it is in any other batch on the CPU: an optimiser magnifies the rounding
of one evaluation ten thousand times within ten iterations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.rows.checks import check_numbers, check_sizes

__all__ = ["Block", "Conditioning", "RowLinear", "Velocity", "modulate", "normalise"]


def normalise(x: Tensor) -> Tensor:
    """RMS norm over the channels of (B, C, H, W)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()


class RowLinear(nn.Linear):
    """A linear map of vectors (B, inner) whose rounding does not depend on the batch size.

    One matrix product of all rows is blocked by their number; outside training, at the price of a
    slower product, every row is multiplied by itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        rows = x if len(x) > 1 else x.expand(2, -1)
        weight = self.weight.T.expand(len(rows), -1, -1)
        out = torch.bmm(rows[:, None], weight)[: len(x), 0]
        return out if self.bias is None else out + self.bias


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
        # Half a turn to 32 turns over the unit interval: smooth enough for second-order solvers.
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 6, bands, base=2.0))
        self.time = nn.Sequential(RowLinear(2 * bands, width), nn.SiLU(), RowLinear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Map t (B,) in [0, 1] and label (B,) in 0..K or None, the null label, to (B, width)."""
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
        check_sizes(shape=shape)
        check_sizes(0, classes=classes)
        check_numbers(mean=mean, std=std)
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
        inner = self._evaluate(centred * variance.rsqrt(), t, label)
        linear = (time * self.std**2 - (1 - time)) / variance
        return self.mean + linear * centred + self.std * variance.rsqrt() * inner

    def _evaluate(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """`residual`; a CPU convolves a single image by another algorithm, so one makes two."""
        if len(x) != 1 or self.training or x.device.type != "cpu":
            return self.residual(x, t, label)
        label = None if label is None else label.expand(2)
        return self.residual(x.expand(2, -1, -1, -1), t.expand(2), label)[:1]

    def residual(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The learned part F: unit-variance input and target, shape (B, C, H, W)."""
        raise NotImplementedError


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
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
        x = x + m[:, 2] * self.attention(modulate(x, m[:, 0], m[:, 1]))
        hidden = F.gelu(self.up(modulate(x, m[:, 3], m[:, 4])))
        return x + m[:, 5] * self.down(hidden)
