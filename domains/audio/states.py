r"""States and noise of audio: the codec and the source of a prior on latent frames.

A signal is a waveform (B, 1, L) in [-1, 1], the state of the flow its latents, each of D numbers
of a frame over its own standard deviation,

    z = (E(x) - μ) / σ,      x = D(σ z + μ),      shape (B, T, D).

The source is a standard Gaussian on the frames that exist, nD degrees of freedom for n frames. The
condition `frames` says how many of a padded state exist, as a molecule's number of atoms does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ctrlgen.domains.audio.convolutional import ConvolutionalCodec
from ctrlgen.domains.audio.spectral import SpecCodec, frame_mask
from ctrlgen.priors.cards import Card
from ctrlgen.priors.codecs import Codec
from ctrlgen.priors.documents import plain_name
from ctrlgen.priors.factories import network_of
from ctrlgen.priors.sources import Counted
from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import CardError, short

__all__ = ["WEIGHTS", "FrameNetwork", "Frames", "LatentCodec", "PretrainedCodec"]

WEIGHTS = Path(__file__).parent / "weights"
"""Cards and weights that the package brings."""


class FrameNetwork(Protocol):
    """What a codec of frames has: `SpecCodec`, `EnCodec`, or a user's own.

    Attributes:
        rate: in Hz.
        size: D, numbers of a frame.
    """

    rate: int
    size: int

    def frames(self, length: int) -> int:
        """Frames of a signal of so many samples."""

    def samples(self, frames: int) -> int:
        """The longest signal of so many frames."""

    def encode(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """Latents (B, T, D) of signals (B, 1, L)."""

    def decode(self, z: Tensor, length: int | None = None, frames: Tensor | None = None) -> Tensor:
        """Signals of latents, differentiable."""


class LatentCodec(Codec):
    """Between waveforms and standardised latents.

    Args:
        network: of encoder and decoder, frozen.
        mean: μ of each number of a frame, shape (D,).
        std: σ of each number of a frame, positive, shape (D,).
        length: samples of the decoded signal; a whole number of hops when None.
        frames: of each sample of the batch, shape (B,), long; None where all exist. Set by
            `Prior.bind(frames=...)`.

    Raises:
        ValueError: statistics of another length than the latents, or not positive.
    """

    per_sample = ("frames",)

    def __init__(
        self,
        network: FrameNetwork,
        mean: Tensor,
        std: Tensor,
        length: int | None = None,
        frames: Tensor | None = None,
    ) -> None:
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (network.size,):
                expected = (network.size,)
                raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")
        if not bool((std > 0).all()):
            raise ValueError("std: expected positive numbers")
        self.network, self.mean, self.std = network, mean, std
        self.length, self.frames = length, frames

    def given(self, conditions: Mapping[str, Tensor]) -> LatentCodec:
        clone = copy.copy(self)
        clone.frames = conditions.get("frames", self.frames)
        return clone

    def encode(self, x: Tensor) -> Tensor:
        z = self.network.encode(x, self.frames)
        standard = (z - follow(self.mean, z)) / follow(self.std, z)
        return torch.where(frame_mask(self.frames, z).unsqueeze(2), standard, 0)

    def decode(self, z: Tensor) -> Tensor:
        latents = z * follow(self.std, z) + follow(self.mean, z)
        return self.network.decode(latents, self.length, self.frames)

    def present(self, x: Tensor, state: Tensor) -> Tensor:
        if self.frames is None:
            return super().present(x, state)
        lengths = [self.network.samples(count) for count in self.frames.tolist()]
        places = torch.arange(x.shape[2], device=x.device)
        own = places < torch.tensor(lengths, device=x.device).unsqueeze(1)
        return own.unsqueeze(1).expand(x.shape)


class PretrainedCodec(LatentCodec):
    """The latent codec of a card, with the statistics that lie in its weights.

    Args:
        card: its name in this package, e.g. "mdct-16k", or the path of one's own, a .json file with
            its weights beside it.
        sha256: of its weights, where a prior insists on those that it was trained on.
        length: samples of the decoded signal; a whole number of hops when None.

    Raises:
        CardError: no such card, or it has other weights.
    """

    named = True

    def __init__(
        self, card: str | Path, sha256: str | None = None, length: int | None = None
    ) -> None:
        card = str(card)
        file = Path(card) if card.endswith(".json") else WEIGHTS / f"{card}.json"
        if not (plain_name(card) or card.endswith(".json")) or not file.is_file():
            raise CardError(
                f"card: expected a codec of this package, or its .json, got {short(card)}"
            )
        described = Card.read(file)
        if sha256 is not None and described.sha256 != sha256:
            raise CardError(f"sha256: codec {card} has other weights, {described.sha256}")
        network = network_of(described, file.parent)
        if not isinstance(network, SpecCodec | ConvolutionalCodec):
            raise CardError(f"card: expected a codec, {card} is none")
        network.eval().requires_grad_(False)
        super().__init__(network, network.mean, network.std, length)
        self.card, self.sha256 = card, described.sha256

    def config(self) -> dict[str, Any]:
        return {"card": self.card, "sha256": self.sha256, "length": self.length}


class Frames(Counted):
    """Gaussian noise on the frames of clips.

    Args:
        places: T, the most frames of a clip.
        features: D.
        frames: of each clip, shape (B,), long; None means T in every one. Set by
            `Prior.bind(frames=...)`.
    """

    per_sample = ("frames",)
    frames: Tensor | None

    def __init__(self, places: int, features: int, frames: Tensor | None = None) -> None:
        if places < 2 or features < 1:
            raise ValueError(
                f"places, features: expected at least 2 and 1, got {places} and {features}"
            )
        super().__init__(places, features, frames)

    def __repr__(self) -> str:
        bound = "" if self.frames is None else f", {len(self.frames)} clips"
        return f"Frames({self.places}, {self.features}{bound})"
