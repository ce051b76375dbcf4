"""Recipes of the embedded audio networks; `ctrlgen.training` says how they train.

    train("mdct-16k", data="data/audio", steps=1)              # the codec, in closed form
    train("freedoom-music", data="data/audio", minutes=150)    # the prior on its latents
    train("freedoom-music", data="music.safetensors", minutes=8, device="cuda", out="trained")

The mathematics is in `trainer`.
"""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ctrlgen.domains.audio import data as music_data
from ctrlgen.domains.audio import packed
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.encodec_trainer import EnCodecRecipe, EnCodecTrainer
from ctrlgen.domains.audio.metrics import snr
from ctrlgen.domains.audio.resident import resident
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import WEIGHTS, PretrainedCodec
from ctrlgen.domains.audio.trainer import (
    CodecRecipe,
    CodecTrainer,
    FlowRecipe,
    FlowTrainer,
    Latents,
    covariance,
    levelled,
)
from ctrlgen.priors.cards import Card
from ctrlgen.priors.documents import write_whole
from ctrlgen.runs.json_files import dumps
from ctrlgen.training.training import Training

__all__ = ["RECIPES", "WEIGHTS", "card_of", "pack", "train"]

RECIPES: dict[str, CodecRecipe | FlowRecipe] = {
    # 25 frames a second: `ctrlgen.domains.audio.rates` compares.
    "mdct-16k": CodecRecipe(
        name="mdct-16k", config={"hop": 640, "size": 640, "depth": 0, "knee": 0.2}, length=64000
    ),
    "mdct-16k-compact": CodecRecipe(
        name="mdct-16k-compact",
        config={"hop": 640, "size": 384, "width": 256, "depth": 4},
        batch=16,
        cuda={"batch": 128, "warmup": 0.02, "compiled": True},
    ),
    # 50 frames a second, 10.0 million weights.
    "encodec-16k": EnCodecRecipe(
        name="encodec-16k",
        config={
            "sampling_rate": 16000,
            "hidden_size": 64,
            "num_filters": 32,
            "upsampling_ratios": [8, 5, 4, 2],
            "num_lstm_layers": 1,
        },
        batch=16,
        length=16000,
        lr=2e-3,
        cuda={"batch": 64, "lr": 3e-3, "warmup": 0.02},
    ),
    "freedoom-music": FlowRecipe(
        name="freedoom-music",
        config={"features": 640, "width": 192, "depth": 5, "heads": 6, "curved": True},
        batch=16,
        lr=1.5e-3,
        average=0.995,
        cuda={"batch": 256, "lr": 4e-3, "warmup": 0.02, "average": 0.999, "compiled": True}
        | {"config": {"features": 640, "width": 320, "depth": 8, "heads": 5, "curved": True}},
    ),
}

_DATA = (
    "Freedoom's 94 scores (3-clause BSD; Debian freedoom, freedm) on FluidR3 GM (MIT; Debian "
    "fluid-soundfont-gm) in variations, every ninth score held out; ctrlgen.domains.audio.data"
)


def card_of(trainer: CodecTrainer | FlowTrainer, command: str) -> Card:
    """What is known of a network beside its training."""
    recipe = trainer.recipe
    if isinstance(recipe, CodecRecipe):
        return _codec_card(recipe, command)
    codec, states = PretrainedCodec(recipe.codec), "ctrlgen.domains.audio.states"
    places = codec.network.frames(recipe.length)
    return Card(
        name=recipe.name,
        domain="audio",
        factory="ctrlgen.domains.audio.networks:build",
        config=recipe.config,
        path={"type": "CondOT"},
        prediction="velocity",
        source={"type": f"{states}:Frames", "places": places, "features": codec.network.size},
        codec={"type": f"{states}:PretrainedCodec", **codec.config()},
        conditions={"frames": {"least": 2, "most": places}},
        data=_DATA,
        command=command,
        licence="MIT",
    )


def _codec_card(recipe: CodecRecipe, command: str) -> Card:
    return Card(
        name=recipe.name,
        domain="audio",
        factory=recipe.factory,
        config=recipe.config,
        path={},
        prediction="",
        source={},
        data=_DATA,
        command=command,
        licence="MIT",
    )


def _music(data: str | Path | None) -> tuple[Music, Music]:
    """Both splits of a folder or a packed file, data/audio when none was given."""
    source = Path("data") / "audio" if data is None else Path(data)
    read = packed.load if source.is_file() else music_data.read
    return read(source, "train"), read(source, "held-out")


def pack(
    name: str, path: str | Path, *, data: str | Path | None = None, samples: int | None = None
) -> Path:
    """Write music to one file that `train` takes as data, whatever the recipe.

    Args:
        name: a key of `RECIPES`.
        path: file to write.
        data: folder of the music; data/audio when None.
        samples: pieces of twelve seconds to train on; all of them when None.

    Raises:
        ValueError: an unknown name, or more pieces than there are.
    """
    train.recipe(name)
    return packed.save(*_music(data), path, samples)


def latents_of(codec: PretrainedCodec, music: Music, length: int, device: torch.device) -> Latents:
    """Standardised latents of the clips of music that begin at given places."""

    pieces = resident(music, device)

    def latents(places: Tensor) -> Tensor:
        with torch.no_grad():
            return codec.encode(levelled(pieces, places, length).to(device))

    return latents


def _flow_trainer(
    recipe: FlowRecipe, music: Music, held: Music, seed: int, device: torch.device | str
) -> FlowTrainer:
    codec, device = PretrainedCodec(recipe.codec), torch.device(device)
    network: Any = codec.network
    network.to(device)
    latents = latents_of(codec, music, recipe.length, device)
    places = (torch.arange(recipe.validation) + 0.5) / recipe.validation
    standing = torch.cat(
        [latents_of(codec, held, recipe.length, device)(part) for part in places.split(16)]
    )
    weights = None
    if isinstance(network, SpecCodec):
        weights = network.axes.square().sum(0) ** recipe.emphasis
    return FlowTrainer(recipe, latents, standing, weights, seed, device)


@torch.no_grad()
def fit(recipe: CodecRecipe, music: Music, held: Music, out: Path, command: str) -> Path:
    """Set a codec without a network in closed form; write weights in float32, card and log.

    Returns:
        The path of the card.
    """
    started = time.monotonic()
    codec = SpecCodec(**recipe.config)
    codec.fit(covariance(music, codec.hop))
    count = min(512, math.ceil(music.seconds * music.rate / recipe.length))
    places = (torch.arange(count) + 0.5) / count
    parts = [codec.encode(levelled(music, part, recipe.length)) for part in places.split(16)]
    z = torch.cat(parts).flatten(0, 1)
    codec.mean.copy_(z.mean(0))
    codec.std.copy_(z.std(0))
    places = (torch.arange(recipe.validation) + 0.5) / recipe.validation
    ratio = torch.cat(
        [
            snr(codec.decode(codec.encode(x), x.shape[2]), x)
            for x in levelled(held, places, recipe.length).split(16)
        ]
    )
    ratio = ratio[ratio.isfinite()]
    card = _codec_card(recipe, command)
    payload = save_tensors({k: v.contiguous() for k, v in codec.state_dict().items()})
    card.weights, card.sha256 = f"{recipe.name}.safetensors", hashlib.sha256(payload).hexdigest()
    card.recipe = {"closed_form": "principal axes", "hours": round(music.seconds / 3600, 2)}
    entry: dict[str, Any] = {
        "step": 0,
        "seconds": round(time.monotonic() - started, 1),
        "pieces": len(music.pieces),
        "snr": round(float(ratio.mean()), 2),
        "median": round(float(ratio.median()), 2),
        "least": round(float(ratio.min()), 2),
        "final": round(-float(ratio.mean()) / 10, 5),
    }
    card.quality = {"snr_held_out_dB": entry["snr"], "command": command}
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / card.weights, payload)
    write_whole(out / f"{recipe.name}.log.jsonl", (dumps(entry, indent=None) + "\n").encode())
    card.write(out / f"{recipe.name}.json")
    return out / f"{recipe.name}.json"


def _trainer(
    recipe: CodecRecipe | FlowRecipe,
    data: str | Path | None,
    seed: int,
    device: torch.device | str,
) -> CodecTrainer | FlowTrainer:
    music, held = _music(data)
    if isinstance(recipe, EnCodecRecipe):
        return EnCodecTrainer(recipe, music, held, seed, device)
    if isinstance(recipe, CodecRecipe):
        return CodecTrainer(recipe, music, held, seed, device)
    return _flow_trainer(recipe, music, held, seed, device)


def _closed(
    recipe: CodecRecipe | FlowRecipe, data: str | Path | None, folder: Path, command: str
) -> Path | None:
    """A codec without a network, which takes a minute or two."""
    if isinstance(recipe, CodecRecipe) and recipe.config.get("depth") == 0:
        return fit(recipe, *_music(data), folder, command)
    return None


train = Training(
    "audio", RECIPES, trainer=_trainer, card_of=card_of, weights=WEIGHTS, closed=_closed
)
