r"""Training of the audio networks: the spectral codec, and the flow on its latents.

The codec minimises, per clip x and its reconstruction x̂ from latents with noise ε ~ N(0, η² I),

    log₁₀ (Σ (x̂ - x)² / Σ x²)  +  w MRSTFT(x̂, x),

a negative signal-to-noise ratio in units of ten decibels and a distance of spectra (`metrics`); the
noise makes the latents smooth for the flow. The linear part of the codec is fitted first, from the
covariance of the coefficients of the training music (`spectral`).

The flow minimises Σ_d w_d (v(z_t, t) - (z_1 - z_0))_d² over standardised latents (Lipman et al.
2023, eqs. 22-23), t logit-normal. The weights, w ∝ Λ^p of mean one for the variance Λ_d that number
d of a frame has in the signal, move no minimum; they give more of the network to what is loud.

Clips are brought to the level of `loudness` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ctrlgen.domains.audio import networks, spectral
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.loudness import LEVEL, gain
from ctrlgen.domains.audio.mdct import mdct
from ctrlgen.domains.audio.metrics import mrstft, snr
from ctrlgen.domains.audio.resident import Resident, resident
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.trainer import Trainer, generator

__all__ = [
    "CodecRecipe",
    "CodecTrainer",
    "FlowRecipe",
    "FlowTrainer",
    "Latents",
    "covariance",
    "levelled",
]


@dataclass(frozen=True, kw_only=True)
class CodecRecipe(Schedule):
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        length: samples of a training clip.
        noise: η, standard deviation of the noise on latents of unit variance.
        spectra: w, weight of the distance of spectra.
        validation: clips of the held-out music that are validated on.
    """

    factory: ClassVar[str] = "ctrlgen.domains.audio.spectral:build"

    length: int = 32000
    noise: float = 0.05
    spectra: float = 0.3
    validation: int = 128


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(Schedule):
    """What is trained and how; everything a run needs beside the data and the budget.

    Attributes:
        codec: name of the codec, or path of its card, whose latents it flows on.
        length: samples of a training clip.
        emphasis: p, the power of the variances that weighs the numbers of a frame.
        validation: clips of the held-out music that are validated on.
    """

    codec: str = "mdct-16k"
    length: int = 64000
    emphasis: float = 0.25
    validation: int = 128


Latents = Callable[[Tensor], Tensor]
"""Places in [0, 1), shape (B,), to standardised latents (B, T, D) of the clips that begin there."""


def levelled(music: Music | Resident, places: Tensor, length: int) -> Tensor:
    """Clips at the level of `loudness`, shape (B, 1, length); see `Music.clips`."""
    x = music.clips(places, length).unsqueeze(1)
    return x * gain(x)[:, None, None]


def covariance(music: Music, hop: int, length: int = 64000, count: int | None = None) -> Tensor:
    """E[c c^T] of the MDCT coefficients of evenly spread clips, shape (hop, hop), float64.

    Args:
        music: the pieces.
        hop: N.
        length: samples of a clip, all of which are brought to one level.
        count: clips; as many as cover the music once, at most 3000, when None.

    Raises:
        ValueError: no piece is as long.
    """
    count = min(3000, math.ceil(music.seconds * music.rate / length)) if count is None else count
    total, frames = torch.zeros(hop, hop, dtype=torch.float64), 0
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for part in places.split(16):
        c = mdct(levelled(music, part, length).squeeze(1), hop).flatten(0, 1).double()
        total += c.T @ c
        frames += len(c)
    return total / frames


class CodecTrainer(Trainer):
    """Training of a `SpecCodec`; another codec says how it is built, started and evaluated.

    Args:
        recipe: what to train.
        music: to train on; it moves to a card as a whole.
        held: to validate on.
        seed: of the weights and of every draw.
        device: where to train.
    """

    outside: ClassVar[tuple[str, ...]] = ("stem", "head", "depthwise")

    def __init__(
        self,
        recipe: CodecRecipe,
        music: Music,
        held: Music,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.music = recipe, resident(music, device)
        super().__init__(recipe, seed, device)
        self.start(music)
        places = (torch.arange(recipe.validation) + 0.5) / recipe.validation
        self.held = levelled(held, places, recipe.length).to(device)
        self.evaluate: Callable[[Tensor, Tensor], Tensor] = self._reconstruct

    def build(self) -> nn.Module:
        return spectral.build(**self.recipe.config)

    def start(self, music: Music) -> None:
        """Set what the training music decides of the fresh weights."""
        for codec in (self.network, self.average):
            assert isinstance(codec, spectral.SpecCodec)
            codec.fit(covariance(music, codec.hop))

    def compile(self) -> bool:
        self.evaluate = torch.compile(self._reconstruct)
        return True

    def _reconstruct(self, x: Tensor, noise: Tensor) -> Tensor:
        z = self.network.encode(x)  # type: ignore[operator]
        decoded: Tensor = self.network.decode(z + noise.to(z), x.shape[2])  # type: ignore[operator]
        return decoded

    def loss(self, draw: torch.Generator) -> Tensor:
        recipe = self.recipe
        # Where clips begin is drawn where the music lies: on the card, or on the host's disk.
        where = self.device if isinstance(self.music, Resident) else torch.device("cpu")
        key = generator(self.seed, 4, self.steps, device=where)
        places = torch.rand(recipe.batch, generator=key, device=where)
        x = levelled(self.music, places, recipe.length).to(self.device)
        frames = self.network.frames(recipe.length)  # type: ignore[operator]
        size: Any = self.network.size
        shape = (recipe.batch, frames, size)
        noise = recipe.noise * torch.randn(shape, generator=draw, device=self.device)
        with self.autocast():
            y = self.evaluate(x, noise).float()
        return self._distance(y, x).mean()

    def _distance(self, y: Tensor, x: Tensor) -> Tensor:
        """The loss of each clip, shape (B,); of silence, noise over the signal that others have.

        Relative to what is there, silence had ten times the gradient of a clip of music.
        """
        energy, error = x.square().mean((1, 2)), (y - x).square().mean((1, 2))
        silent = energy == 0
        audible = x + 1e-3 * silent[:, None, None]
        ratio = (error / energy.clamp_min(1e-6)).log10()
        relative = ratio + self.recipe.spectra * mrstft(y, audible)
        return torch.where(silent, error / 10 ** (LEVEL / 10), relative)

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        """Loss of the averaged weights without noise on the latents."""
        held, total = self.held[:count], torch.zeros((), device=self.device)
        for x in held.split(32):
            total += self._distance(self._average(x), x).sum()
        return float(total) / len(held)

    @torch.no_grad()
    def quality(self) -> dict[str, float]:
        """Signal-to-noise ratio on held-out music by the averaged weights, in dB."""
        ratio = torch.cat([snr(self._average(x), x) for x in self.held.split(32)])
        ratio = ratio[ratio.isfinite()]
        return {"snr": round(float(ratio.mean()), 3), "median": round(float(ratio.median()), 3)}

    def _average(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.average.decode(self.average.encode(x), x.shape[2])  # type: ignore[operator]
        return decoded


class FlowTrainer(Trainer):
    """Training of a flow on latents.

    Args:
        recipe: what to train.
        latents: of the training clips, by their places.
        held: latents to validate on, standardised, shape (N, T, D).
        weights: w, positive, shape (D,); ones when None.
        seed: of the weights and of every draw.
        device: where to train.
    """

    outside = ("stem", "head", "gain", "level", "conditioning", "modulation", "final", "offset")

    def __init__(
        self,
        recipe: FlowRecipe,
        latents: Latents,
        held: Tensor,
        weights: Tensor | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe = recipe
        super().__init__(recipe, seed, device)
        self.latents, self.held = latents, held.to(device)
        ones = torch.ones(held.shape[2])
        self.weights = (ones if weights is None else weights / weights.mean()).to(device)

    def build(self) -> nn.Module:
        return networks.build(**self.recipe.config)

    def loss(self, draw: torch.Generator) -> Tensor:
        options: dict[str, Any] = {"generator": draw, "device": self.device}
        places = torch.rand(self.recipe.batch, generator=generator(self.seed, 4, self.steps))
        data = self.latents(places).to(self.device).float()
        noise = torch.randn(data.shape, **options)
        t = torch.randn(len(data), **options).sigmoid()
        with self.autocast():
            return self._distance(self.network, data, noise, t).mean()

    def _distance(
        self, network: Callable[..., Tensor], z1: Tensor, z0: Tensor, t: Tensor
    ) -> Tensor:
        time = t[:, None, None]
        error = network(time * z1 + (1 - time) * z0, t) - (z1 - z0)
        return (self.weights * error.square()).mean((1, 2))

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        """Loss of the averaged weights, with fixed noise and evenly spread times."""
        options: dict[str, Any] = {
            "generator": generator(0, 3, device=self.device), "device": self.device
        }  # fmt: skip
        held = self.held[:count].float()
        t = (torch.randperm(len(held), **options) + 0.5) / len(held)
        noise = torch.randn(held.shape, **options)
        total = torch.zeros((), device=self.device)
        for rows in torch.arange(len(held), device=self.device).split(64):
            total += self._distance(self.average, held[rows], noise[rows], t[rows]).sum()
        return float(total) / len(held)
