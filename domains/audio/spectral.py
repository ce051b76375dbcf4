r"""`SpecCodec`: continuous latents of audio at frame rate, by a linear map and a network.

A signal of L samples has T + 1 frames of N MDCT coefficients c_t (`mdct`, orthogonal). With the
leading D eigenvectors V and eigenvalues Λ of E[c c^T] on the training music, the linear codec

    z = Λ^{-1/2} V^T c,      ĉ = V Λ^{1/2} z

keeps most energy of all linear ones and has unit variance. A ConvNeXt over time (Liu et al. 2022,
in one dimension; Siuzdak 2023 for audio) adds what a linear map can't,

    z = Λ^{-1/2} V^T c + E(c),      ĉ = V Λ^{1/2} z + S ∘ D(z),

S the root mean square of each coefficient; E and D start at zero. Everything works on frames: no
layer runs at the rate of samples, decoding is differentiable and its reach is finite, R frames to
either side, so decoding in chunks that overlap by R frames is exact. With depth zero there is no
network, and with D = N the linear codec alone is invertible.

Coefficients of music have heavy tails (whitened, a kurtosis of 60). With a knee a latent is

    z' = asinh(z / a),      z = a sinh(z'),

linear below the knee a, logarithmic above; at a = 0.2 the kurtosis is that of a Gaussian, 3.

Frames beyond a clip's own length are zero before every convolution, and so are samples beyond the
n - 1 hops of a clip of n frames: a clip is coded as it would be alone, whatever it is batched with.
A latent has D numbers a frame, shape (B, T + 1, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.audio.mdct import frame_count, mdct, mdct_inverse
from ctrlgen.rows.constants import follow

__all__ = ["SpecCodec", "build", "frame_mask", "principal_axes"]


def frame_mask(frames: Tensor | None, x: Tensor) -> Tensor:
    """Frames that exist, bool, shape (B, T), for frames x (B, T, *); None means all.

    Raises:
        ValueError: frames has another shape than (B,).
    """
    if frames is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if frames.shape != x.shape[:1]:
        raise ValueError(f"frames: expected shape ({len(x)},), got {tuple(frames.shape)}")
    return torch.arange(x.shape[1], device=x.device) < follow(frames, x).unsqueeze(1)


def principal_axes(covariance: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues, shape (size,), and eigenvectors, shape (N, size), of E[c c^T] (N, N).

    Raises:
        ValueError: more axes asked for than there are coefficients.
    """
    if not 0 < size <= len(covariance):
        raise ValueError(f"size: expected 1 to {len(covariance)} axes, got {size}")
    values, vectors = torch.linalg.eigh(covariance.double())
    values, vectors = values.flip(0)[:size], vectors.flip(1)[:, :size]
    # The sign of an eigenvector is free; the largest entry is made positive.
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values.clamp_min(1e-12), vectors * peak.sign()


class ConvNeXt(nn.Module):
    """One block: depthwise convolution over frames, norm, MLP; starts as the identity."""

    def __init__(self, width: int, kernel: int, ratio: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Frames h (B, T, C) and which of them exist (B, T, 1); what does not is ignored."""
        mixed = self.depthwise(torch.where(mask, h, 0).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.down(F.gelu(self.up(F.layer_norm(mixed, mixed.shape[2:]))))
        return h + out


class Tower(nn.Module):
    """Frames (B, T, inner) to frames (B, T, outer) through ConvNeXt blocks; starts at zero."""

    def __init__(self, inner: int, outer: int, width: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inner, width)
        self.blocks = nn.ModuleList(ConvNeXt(width, kernel, 4) for _ in range(depth))
        self.head = nn.Linear(width, outer)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, mask)
        out: Tensor = self.head(F.layer_norm(h, h.shape[2:]))
        return out


class SpecCodec(nn.Module):
    """The codec above.

    Args:
        hop: N, samples of a frame.
        size: D, numbers of a latent frame.
        width: channels of the network.
        depth: blocks of the encoder, and of the decoder; with 0 the codec is linear.
        kernel: frames that a block's convolution sees, odd.
        rate: of the signals in Hz.
        knee: a, in standard deviations of a latent; None leaves latents as they are.

    Attributes:
        axes: V Λ^{1/2}, shape (N, D).
        inverse_axes: V Λ^{-1/2}, shape (N, D).
        spread: S, shape (N,).
        mean, std: of each number of a latent over the training music, shape (D,).
    """

    axes: Tensor
    inverse_axes: Tensor
    spread: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        hop: int = 320,
        size: int = 64,
        width: int = 256,
        depth: int = 4,
        kernel: int = 7,
        rate: int = 16000,
        knee: float | None = None,
    ) -> None:
        super().__init__()
        if knee is not None and not knee > 0:
            raise ValueError(f"knee: expected a positive number or None, got {knee}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number of frames, got {kernel}")
        if not 0 < size <= hop:
            raise ValueError(f"size: expected 1 to {hop}, the coefficients of a frame, got {size}")
        self.hop, self.size, self.rate, self.knee = hop, size, rate, knee
        self.reach = depth * (kernel // 2)
        self.register_buffer("axes", torch.eye(hop, size))
        self.register_buffer("inverse_axes", torch.eye(hop, size))
        self.register_buffer("spread", torch.ones(hop))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.encoder = Tower(2 * hop, size, width, depth, kernel) if depth else None
        self.decoder = Tower(size, hop, width, depth, kernel) if depth else None

    @torch.no_grad()
    def fit(self, covariance: Tensor) -> None:
        """Set the linear part from E[c c^T] of the training music, shape (N, N)."""
        values, vectors = principal_axes(covariance, self.size)
        self.axes.copy_(vectors * values.sqrt())
        self.inverse_axes.copy_(vectors * values.rsqrt())
        self.spread.copy_(covariance.diagonal().clamp_min(1e-12).sqrt())

    def frames(self, length: int) -> int:
        """Latent frames of a signal of so many samples."""
        return frame_count(length, self.hop)

    def samples(self, frames: int) -> int:
        """The longest signal of so many frames."""
        return (frames - 1) * self.hop

    def encode(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """Latents of signals.

        Args:
            x: signals, shape (B, 1, L); the padding may hold anything.
            frames: of each signal, shape (B,); None where all are as long as the tensor.

        Returns:
            Shape (B, ⌈L / hop⌉ + 1, D), zero at the padding.

        Raises:
            ValueError: another shape.
        """
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] == 0:
            raise ValueError(f"x: expected signals of shape (B, 1, L), got {tuple(x.shape)}")
        c = mdct(self._own(x, frames).squeeze(1), self.hop)
        mask = frame_mask(frames, c).unsqueeze(2)
        c = torch.where(mask, c, 0)
        z = c @ self.inverse_axes.to(c)
        if self.encoder is not None:
            scaled = c / self.spread
            # Loud and soft parts differ by orders of magnitude: the network sees both scales.
            features = torch.cat((scaled, scaled.sign() * scaled.abs().log1p()), dim=2)
            z = z + self.encoder(features, mask)
        if self.knee is not None:
            z = (z / self.knee).asinh()
        return torch.where(mask, z, 0)

    def _coefficients(self, z: Tensor, mask: Tensor) -> Tensor:
        """MDCT coefficients (B, T + 1, N) of latents whose padding is zero."""
        if self.knee is not None:
            # Beyond e^10 knees, where no music is, a line: a wild guess stays finite.
            near = z.clamp(-10, 10)
            z = self.knee * (near.sinh() + near.cosh() * (z - near))
        c = z @ self.axes.to(z).T
        return c if self.decoder is None else c + self.spread * self.decoder(z, mask)

    def decode(self, z: Tensor, length: int | None = None, frames: Tensor | None = None) -> Tensor:
        """Signals of latents, differentiable in z.

        Args:
            z: shape (B, T + 1, D); the padding may hold anything.
            length: samples that are returned; T times the hop when None.
            frames: of each signal, shape (B,).

        Returns:
            Shape (B, 1, length), zero beyond the n - 1 hops of a signal of n frames.

        Raises:
            ValueError: another shape, or more samples than the frames hold.
        """
        if z.ndim != 3 or z.shape[2] != self.size:
            raise ValueError(f"z: expected latents of shape (B, T, {self.size}), got {z.shape}")
        mask = frame_mask(frames, z).unsqueeze(2)
        z = torch.where(mask, z, 0)
        c = self._coefficients(z, mask)
        return self._own(mdct_inverse(torch.where(mask, c, 0), length).unsqueeze(1), frames)

    def _own(self, x: Tensor, frames: Tensor | None) -> Tensor:
        """Signals x (B, 1, L) without what lies beyond their own frames."""
        if frames is None:
            return x
        hops = torch.arange(x.shape[2], device=x.device) // self.hop
        return torch.where((hops < follow(frames, x)[:, None] - 1).unsqueeze(1), x, 0)

    def decode_chunked(self, z: Tensor, chunk: int, length: int | None = None) -> Tensor:
        """`decode` in parts of `chunk` frames, equal to the whole: memory does not grow with time.

        Args:
            z: shape (B, T + 1, D), no padding.
            chunk: frames decoded at a time beside the overlap of `reach` on either side.
            length: as of `decode`.
        """
        coefficients = []
        for start in range(0, z.shape[1], chunk):
            low, high = max(0, start - self.reach), min(z.shape[1], start + chunk + self.reach)
            part = z[:, low:high]
            mask = frame_mask(None, part).unsqueeze(2)
            c = self._coefficients(part, mask)
            coefficients.append(c[:, start - low : start - low + chunk])
        return mdct_inverse(torch.cat(coefficients, dim=1), length).unsqueeze(1)


def build(**options: Any) -> SpecCodec:
    """Construct a codec from a plain, JSON-able configuration: keywords of `SpecCodec`."""
    return SpecCodec(**options)
