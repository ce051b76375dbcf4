r"""musicnn (Pons & Serra, arXiv 1909.06654): embeddings and tags of music, and FAD-musicnn.

A convolutional network over 96 mel bands, log₁₀(1 + 10⁴ M), of 3 s of 16 kHz mono: filters of
timbre (7 frames by 38 and 67 bands) and of time (128, 64, 32 frames), maximum over the bands, three
convolutions over time whose outputs are all kept, maximum and mean over time, a dense layer of 200
numbers, the embedding, and 50 tags. Weights trained on MagnaTagATune are in the wheel of musicnn
0.1.0 (ISC licence) as a TensorFlow checkpoint (`tensor_bundle`); it is fetched by name, 29 MB, and
no TensorFlow is needed.

    fetch("data")
    network = load("data")
    network.tags(x)                             # (B, 1, L) at 16 kHz to (B, 50), in the order TAGS
    frechet(network.embed(x), network.embed(music))               # FAD-musicnn

The Fréchet distance of two sets of embeddings depends on the embedder and on the size of the sets:
it is "FAD-musicnn", with n, and compares with no FAD of VGGish.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.audio.filters import check_signals
from ctrlgen.domains.audio.tensor_bundle import read_bundle
from ctrlgen.rows.frechet import frechet_distance
from ctrlgen.training.wheels import needed, wheel

__all__ = ["PACKAGE", "RATE", "TAGS", "Musicnn", "fetch", "frechet", "load", "mel_bands"]

RATE = 16000
"""Hz."""

TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast",
    "piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male",
    "singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman",
    "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
    "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice", "weird",
    "country", "metal", "female voice", "choral",
)  # fmt: skip

PACKAGE = "musicnn==0.1.0"
"""Whose wheel has the weights."""

_FOLDER = "musicnn/MTT_musicnn/"
_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
_SIZE, _HOP, _MELS = 512, 256, 96
_LENGTHS = (128, 64, 32)
_FRAMES, _STRIDE = 187, 31  # windows of 3 s, one every half a second


def mel_bands(bands: int = _MELS, size: int = _SIZE, rate: int = RATE) -> Tensor:
    """Triangles of unit area on Slaney's mel scale, shape (bands, size/2 + 1), float32.

    Linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 mels for a factor of 6.4).
    """
    step = torch.tensor(6.4, dtype=torch.float64).log() / 27
    top = 15 + torch.tensor(rate / 2000, dtype=torch.float64).log() / step
    mels = torch.linspace(0, float(top), bands + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * (step * (mels - 15)).exp())
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    return (torch.minimum(rising, falling).clamp_min(0) * 2 / (high - low)).float()


class _Convolution(nn.Module):
    """Convolution, ReLU and normalisation with fixed statistics, in this order."""

    def __init__(self, outputs: int, inputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.convolution(x).relu())
        return out


class Musicnn(nn.Module):
    """The network above, frozen.

    Args:
        weights: tensors of the checkpoint by name; random ones when None.

    Raises:
        ValueError: a tensor is missing or of another shape.
    """

    mel: Tensor
    window: Tensor

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.register_buffer("mel", mel_bands(), persistent=False)
        self.register_buffer("window", torch.hann_window(_SIZE), persistent=False)
        self.first = nn.BatchNorm2d(1, eps=1e-3)
        self.timbre = nn.ModuleList(_Convolution(204, 1, (7, width)) for width in (38, 67))
        self.time = nn.ModuleList(_Convolution(51, 1, (length, 1)) for length in _LENGTHS)
        self.middle = nn.ModuleList(_Convolution(64, 1, (7, width)) for width in (561, 64, 64))
        self.pooled = nn.BatchNorm1d(1506, eps=1e-3)
        self.dense = nn.Linear(1506, 200)
        self.last = nn.BatchNorm1d(200, eps=1e-3)
        self.tagger = nn.Linear(200, len(TAGS))
        if weights is not None:
            self._take(weights)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def _take(self, weights: Mapping[str, Tensor]) -> None:
        blocks = [*self.timbre, *self.time, *self.middle]
        norms = [self.first, *(block.norm for block in blocks), self.pooled, self.last]
        targets: dict[str, Tensor] = {}
        for i, block in enumerate(blocks):
            name = "conv2d" + (f"_{i}" if i else "")
            targets[f"{name}/kernel"] = block.convolution.weight.permute(2, 3, 1, 0)
            targets[f"{name}/bias"] = block.convolution.bias
        for i, norm in enumerate(norms):
            name = "batch_normalization" + (f"_{i}" if i else "")
            targets[f"{name}/gamma"], targets[f"{name}/beta"] = norm.weight, norm.bias
            targets[f"{name}/moving_mean"] = norm.running_mean
            targets[f"{name}/moving_variance"] = norm.running_var
        for name, layer in (("dense", self.dense), ("dense_1", self.tagger)):
            targets[f"{name}/kernel"], targets[f"{name}/bias"] = layer.weight.T, layer.bias
        for name, target in targets.items():
            if name not in weights or weights[name].shape != target.shape:
                got = tuple(weights[name].shape) if name in weights else None
                raise ValueError(f"weights: expected {name} {tuple(target.shape)}, got {got}")
            target.copy_(weights[name])

    def spectra(self, x: Tensor) -> Tensor:
        """log₁₀(1 + 10⁴ M) of signals (B, 1, L), shape (B, L / 256 + 1, 96)."""
        check_signals(x)
        if x.shape[1] != 1:
            raise ValueError(f"x: expected one channel, got {x.shape[1]}")
        c = torch.stft(
            x[:, 0].float(), _SIZE, _HOP, window=self.window, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        power = c.real.square() + c.imag.square()
        return (1 + 1e4 * (self.mel @ power)).log10().mT

    def forward(self, patches: Tensor) -> Tensor:
        """Embeddings (B, 200) of spectra (B, T, 96)."""
        x = self.first(patches.unsqueeze(1))
        padded = F.pad(x, (0, 0, 3, 3))
        parts = [block(padded).amax(3) for block in self.timbre]
        for length, block in zip(_LENGTHS, self.time, strict=True):
            around = F.pad(x, (0, 0, (length - 1) // 2, length // 2))
            parts.append(block(around).amax(3))
        front = torch.cat(parts, dim=1)  # (B, 561, T)
        layers, h = [front], front
        for i, block in enumerate(self.middle):
            made = block(F.pad(h.mT.unsqueeze(1), (0, 0, 3, 3))).squeeze(3)
            h = made + h if i else made
            layers.append(h)
        whole = torch.cat(layers, dim=1)
        pooled = torch.stack((whole.amax(2), whole.mean(2)), dim=2).flatten(1)
        out: Tensor = self.last(self.dense(self.pooled(pooled)).relu())
        return out

    @torch.no_grad()
    def embed(self, x: Tensor, batch: int = 32) -> Tensor:
        """Embeddings of all windows of 3 s of signals, one every half a second.

        Args:
            x: shape (B, 1, L) at 16 kHz, at least 2.98 s.
            batch: windows at a time.

        Returns:
            Shape (N, 200), those of a signal beside one another.

        Raises:
            ValueError: another shape, or shorter signals.
        """
        windows = self._windows(x)
        return torch.cat([self(part) for part in windows.flatten(0, 1).split(batch)])

    @torch.no_grad()
    def tags(self, x: Tensor) -> Tensor:
        """Mean probabilities of the tags of signals (B, 1, L) at 16 kHz, shape (B, 50)."""
        shares = self.tagger(self.embed(x)).sigmoid()
        return shares.unflatten(0, (len(x), -1)).mean(1)

    def _windows(self, x: Tensor) -> Tensor:
        spectra = self.spectra(x)
        if spectra.shape[1] < _FRAMES:
            least = (_FRAMES - 1) * _HOP
            raise ValueError(f"x: expected at least {least} samples, got {x.shape[2]}")
        return spectra.unfold(1, _FRAMES, _STRIDE).mT


def fetch(into: str | Path) -> Path:
    """Download the wheel of musicnn (29 MB, ISC) by name with pip into a folder; returns its path.

    Raises:
        RuntimeError: pip is missing or cannot download it.
    """
    return wheel(PACKAGE, into, sha256=_SHA256)


def load(folder: str | Path) -> Musicnn:
    """The network with the weights of the wheel in a folder.

    Raises:
        FileNotFoundError: the wheel is not there; the call that fetches it is named.
        ValueError: the file is another one.
    """
    file = needed(PACKAGE, folder, f"{__name__}.fetch", _SHA256)
    with zipfile.ZipFile(file) as archive:
        index, data = (archive.read(_FOLDER + name) for name in (".index", ".data-00000-of-00001"))
    return Musicnn(read_bundle(index, data))


def frechet(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of two sets of embeddings (n, d), in float64.

    Warns where a set has fewer than 10 d rows: its covariance, and so the distance, is biased.

    Raises:
        ValueError: a set has fewer than two rows, or the dimensions differ.
    """
    value = float(frechet_distance(first, second))
    least = min(len(first), len(second))
    if least < 10 * first.shape[1]:
        warnings.warn(
            f"frechet: {least} embeddings of {first.shape[1]} numbers; below ten a number the "
            "distance is biased upwards and compares only between sets of this size",
            stacklevel=2,
        )
    return value
