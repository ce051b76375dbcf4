r"""Codecs of continuous latents made of transformers' convolutional encoders and decoders.

Latents are those before quantisation, z = encoder(x), x ≈ decoder(z), D numbers for every `hop`
samples; both ways are differentiable. Weight normalisation is folded into the weights, and nothing
is trained. Signals are padded with zeros to whole hops; what comes back is cut to its length.

Layers have biases, so the padding of a clip would sound into it: clips of different lengths share
no batch. Decoding in parts is close to decoding the whole only where parts overlap by enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from ctrlgen.extras import require
from ctrlgen.priors.weights import content_hash

__all__ = ["ConvolutionalCodec"]

_LENGTHS = {"stride", "kernel_size", "padding_total"}


class ConvolutionalCodec(nn.Module):
    """Encoder and decoder of a model of transformers; a base, see `EnCodec` and `DAC`.

    Args:
        model: of one channel; its encoder and decoder are taken over.

    Attributes:
        kind: the model's class in transformers.
        rate: in Hz.
        hop: samples of a frame.
        size: D, numbers of a frame.
        mean, std: of each number over music, zero and one until `estimate`.

    Raises:
        TypeError: the model has no encoder, decoder and configuration.
        ValueError: it is not of one channel.
    """

    kind: ClassVar[str]
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts = [getattr(model, name, None) for name in ("encoder", "decoder", "config")]
        if not all(isinstance(part, nn.Module) for part in parts[:2]) or parts[2] is None:
            raise TypeError(f"model: expected {self.kind}, got {type(model).__name__}")
        config: Any = parts[2]
        channels = getattr(config, "audio_channels", 1)
        if channels != 1:
            raise ValueError(f"model: expected one channel, got {channels}")
        self.encoder: nn.Module = model.get_submodule("encoder")
        self.decoder: nn.Module = model.get_submodule("decoder")
        self.rate, self.size = int(config.sampling_rate), int(config.hidden_size)
        self.hop = math.prod(int(ratio) for ratio in config.upsampling_ratios)
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
            elif any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
                remove_weight_norm(module)
            # Lengths that transformers keeps as buffers: on a card each would be waited for.
            for name, length in list(module.named_buffers(recurse=False)):
                if name in _LENGTHS:
                    delattr(module, name)
                    setattr(module, name, torch.tensor(int(length)))
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("std", torch.ones(self.size))
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Self:
        """The codec of a local folder or a hub's id; options are transformers' own.

        Raises:
            MissingExtra: transformers is not installed.
            OSError: there is no such model.
        """
        transformers: Any = require("transformers", "hub")
        return cls(getattr(transformers, cls.kind).from_pretrained(name, **options))

    def frames(self, length: int) -> int:
        """Latent frames of a signal of so many samples."""
        return -(-length // self.hop)

    def samples(self, frames: int) -> int:
        """The longest signal of so many frames."""
        return frames * self.hop

    def encode(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """Latents (B, T, D) of signals (B, 1, L), differentiable.

        Raises:
            ValueError: another shape, or clips of different lengths.
        """
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] == 0:
            raise ValueError(f"x: expected signals of shape (B, 1, L), got {tuple(x.shape)}")
        count = self.frames(x.shape[2])
        self._check(frames, count)
        x = nn.functional.pad(x, (0, count * self.hop - x.shape[2]))
        latents: Tensor = self.encoder(x)
        return latents.transpose(1, 2)

    def decode(self, z: Tensor, length: int | None = None, frames: Tensor | None = None) -> Tensor:
        """Signals (B, 1, length) of latents (B, T, D), differentiable.

        Args:
            z: latents.
            length: samples that are returned; T times the hop when None.
            frames: of each clip; all of them T.

        Raises:
            ValueError: another shape, clips of different lengths, or more samples than there are.
        """
        if z.ndim != 3 or z.shape[2] != self.size:
            raise ValueError(f"z: expected shape (B, T, {self.size}), got {tuple(z.shape)}")
        self._check(frames, z.shape[1])
        most = self.samples(z.shape[1])
        length = most if length is None else length
        if not 0 < length <= most:
            raise ValueError(f"length: expected 1 to {most} samples, got {length}")
        x: Tensor = self.decoder(z.transpose(1, 2))
        # Upsampling by an odd factor leaves a sample out at the end.
        x = nn.functional.pad(x, (0, max(0, length - x.shape[2])))
        return x[..., :length]

    def decode_chunked(
        self, z: Tensor, chunk: int, overlap: int, length: int | None = None
    ) -> Tensor:
        """`decode` in parts of `chunk` frames that share `overlap` frames on either side.

        Near the whole where the overlap is a second or more; memory does not grow with time.
        """
        parts = []
        for start in range(0, z.shape[1], chunk):
            low, high = max(0, start - overlap), min(z.shape[1], start + chunk + overlap)
            x = self.decode(z[:, low:high])
            first = (start - low) * self.hop
            parts.append(x[..., first : first + chunk * self.hop])
        return torch.cat(parts, dim=2)[..., :length]

    @torch.no_grad()
    def estimate(self, clips: Iterable[Tensor]) -> None:
        """Set mean and standard deviation from latents of signals (B, 1, L).

        Raises:
            ValueError: there is none.
        """
        total = torch.zeros(self.size, dtype=torch.float64, device=self.mean.device)
        square, count = torch.zeros_like(total), 0
        for x in clips:
            z = self.encode(x).flatten(0, 1).double()
            total, square, count = total + z.sum(0), square + z.square().sum(0), count + len(z)
        if count == 0:
            raise ValueError("clips: expected at least one, got none")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((square / count - mean**2).clamp_min(1e-12).sqrt())

    def fingerprint(self) -> str:
        """sha256 of the weights."""
        return content_hash(self.state_dict())

    def _check(self, frames: Tensor | None, count: int) -> None:
        if frames is not None and not bool((frames == count).all()):
            raise ValueError(
                f"frames: {type(self).__name__} hears whole clips; expected {count} in every one, "
                f"got {frames.tolist()}"
            )
