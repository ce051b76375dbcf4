r"""Training of an EnCodec (Défossez et al. 2022) as a codec of continuous latents.

The loss is that of `trainer`, log₁₀ of noise over signal and a distance of spectra, with no
quantiser and no adversary. The noise on latents is η times the standard deviation σ_d of each
number over the clips of a step, so that it is on standardised latents whatever their scale. Mean
and standard deviation follow the steps, as a moving average of the first two moments.

Weights start so that every convolution has outputs of variance one on music, biases at zero
(layer-sequential unit variance, Mishkin and Matas 2016, without the orthogonal draw), the last
layer with outputs a tenth as loud as clips: noise over signal starts at 0 dB, not above. Weight
normalisation is folded in, so that Muon has plain kernels (O, I k) to turn; the first and the last
layer, of one channel, are left to AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.encodec import EnCodec, build
from ctrlgen.domains.audio.loudness import LEVEL
from ctrlgen.domains.audio.trainer import CodecRecipe, CodecTrainer, levelled

__all__ = ["EnCodecRecipe", "EnCodecTrainer", "normalise"]


@dataclass(frozen=True, kw_only=True)
class EnCodecRecipe(CodecRecipe):
    """A `CodecRecipe` whose config has the keywords of `encodec.build`."""

    factory: ClassVar[str] = "ctrlgen.domains.audio.encodec:build"


@torch.no_grad()
def normalise(codec: EnCodec, x: Tensor) -> None:
    """Scale every convolution to outputs of variance one on signals (B, 1, L), biases at zero.

    The last one has outputs a tenth as loud as `loudness` makes clips.
    """
    parts = [m for m in codec.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    target = {id(parts[-1]): 0.1 * 10 ** (LEVEL / 20)}

    def scale(module: Any, _: Any, output: Tensor) -> Tensor:
        factor = target.get(id(module), 1.0) / output.std().clamp_min(1e-12)
        module.weight.mul_(factor)
        return output * factor

    for part in parts:
        if part.bias is not None:
            part.bias.zero_()
    hooks = [part.register_forward_hook(scale) for part in parts]
    try:
        codec.decode(codec.encode(x))
    finally:
        for hook in hooks:
            hook.remove()


class EnCodecTrainer(CodecTrainer):
    """Training of an `EnCodec`, see `CodecTrainer`."""

    network: EnCodec
    average: EnCodec

    def build(self) -> nn.Module:
        codec = build(**self.recipe.config).requires_grad_(True)
        first, *_, last = (
            name
            for name, part in codec.named_modules()
            if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)
        )
        self.outside = (f"{first}.", f"{last}.")  # type: ignore[misc]
        return codec

    def start(self, music: Music) -> None:
        places = (torch.arange(16) + 0.5) / 16
        normalise(self.network, levelled(music, places, self.recipe.length).to(self.device))
        self.average.load_state_dict(self.network.state_dict())

    def compile(self) -> bool:
        """Nothing: graphs break at LSTMs, and what is between them waits for memory."""
        return False

    def step(self, progress: float) -> tuple[Tensor, Tensor]:
        # Shapes are always the same: the fastest of cuDNN's convolutions is worth a search.
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            return super().step(progress)
        finally:
            torch.backends.cudnn.benchmark = before

    def _reconstruct(self, x: Tensor, noise: Tensor) -> Tensor:
        z = self.network.encode(x).float()
        with torch.no_grad():
            variance, mean = torch.var_mean(z.flatten(0, 1), 0, correction=0)
            spread = variance.sqrt()
            self._follow(mean, variance)
        return self.network.decode(z + noise * spread, x.shape[2])

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics towards those of a step."""
        codec, share = self.average, 1 - min(0.99, (1 + self.steps) / (10 + self.steps))
        second = (codec.std**2 + codec.mean**2).lerp(variance + mean**2, share)
        codec.mean.lerp_(mean, share)
        codec.std.copy_((second - codec.mean**2).clamp_min(1e-12).sqrt())
