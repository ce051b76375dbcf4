"""Training of an EnCodec on small music, its card, and music that lies on a device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrlgen.domains.audio import encodec, packed, training
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.encodec_trainer import EnCodecRecipe, EnCodecTrainer
from ctrlgen.domains.audio.resident import Resident, resident
from ctrlgen.domains.audio.states import PretrainedCodec
from ctrlgen.domains.audio.trainer import FlowRecipe, levelled
from ctrlgen.priors.prior import load
from ctrlgen.rows.errors import MissingExtra
from ctrlgen.solvers import Midpoint

pytest.importorskip("transformers")

CONFIG = {"hidden_size": 8, "num_filters": 4, "upsampling_ratios": [4, 2], "num_lstm_layers": 1}


def music(seed: int, length: int = 20_000) -> Music:
    """A chord with some noise, in two pieces."""
    draw = np.random.default_rng(seed)
    time = np.arange(length) / 16000
    wave = sum(0.1 * np.sin(2 * math.pi * f * time) for f in draw.uniform(200, 1000, 3))
    samples = ((wave + 0.01 * draw.standard_normal(length)) * 32767).astype(np.int16)
    return Music((samples[: length // 3], samples[length // 3 :]), ("00-0", "00-1"))


def recipe(**options: Any) -> EnCodecRecipe:
    plain = {"length": 1600, "batch": 4, "validation": 4, "autocast": False, "warmup": 0.01}
    return EnCodecRecipe(name="tiny", config=CONFIG, **{**plain, **options})


def test_it_starts_at_the_level_of_silence_and_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"batch": 2, "noise": 0.0, "spectra": 0.0, "average": 0.5}
    trainer = EnCodecTrainer(recipe(**options), music(0), music(1))
    clips = levelled(trainer.music, torch.tensor([0.1, 0.6]), 1600)
    monkeypatch.setattr(type(trainer.music), "clips", lambda *_: clips.squeeze(1))
    trainer.held = clips
    assert abs(trainer.validate()) < 0.05
    for _ in range(20):
        trainer.step(0.3)
    assert trainer.validate() < -0.2 and trainer.quality()["snr"] > 2
    assert trainer.read().skipped == 0


def test_every_matrix_but_those_of_one_channel_is_turned() -> None:
    trainer = EnCodecTrainer(recipe(), music(0), music(1))
    adamw, muon = ({id(p) for g in o.param_groups for p in g["params"]} for o in trainer.optimizers)
    for name, parameter in trainer.network.named_parameters():
        single = parameter.ndim == 3 and 1 in parameter.shape[:2]
        assert (id(parameter) in muon) == (parameter.ndim >= 2 and not single), name
        assert (id(parameter) in adamw) != (id(parameter) in muon) and parameter.requires_grad


def test_statistics_are_those_of_the_latents() -> None:
    trainer = EnCodecTrainer(recipe(lr=0.0, batch=16, length=400), music(0), music(1))
    for _ in range(20):
        trainer.step(0.5)
    z = trainer.average.encode(levelled(trainer.music, torch.rand(64), 400)).flatten(0, 1)
    torch.testing.assert_close(trainer.average.mean, z.mean(0), atol=0.1, rtol=0.1)
    torch.testing.assert_close(trainer.average.std, z.std(0), atol=0.05, rtol=0.1)


def test_a_codec_of_ones_own_has_a_card_and_carries_a_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.RECIPES, "tiny", recipe())
    piece = music(0, 3 * packed.LENGTH)
    file = packed.save(piece, piece, tmp_path / "m.safetensors")
    card = training.train("tiny", data=file, steps=2, out=tmp_path / "out")
    codec = PretrainedCodec(str(card))
    assert codec.config()["card"] == str(card) and not codec.network.mean.requires_grad
    again = PretrainedCodec(**codec.config())
    x = levelled(piece, torch.tensor([0.2, 0.6]), 1600)
    z = codec.encode(x)
    assert z.shape == (2, 200, 8)
    torch.testing.assert_close(again.encode(x), z, rtol=0, atol=0)
    torch.testing.assert_close(again.decode(z), codec.decode(z), rtol=0, atol=0)

    flow = FlowRecipe(
        name="flow", config={"features": 8, "width": 16, "depth": 1, "heads": 2}, batch=2,
        length=1600, validation=2, autocast=False, codec=str(card),
    )  # fmt: skip
    monkeypatch.setitem(training.RECIPES, "flow", flow)
    prior = load(training.train("flow", data=file, steps=1, out=tmp_path / "flow"))
    assert prior.source.shape == (200, 8)
    assert prior.sample(seeds=[0], solver=Midpoint(1)).shape == (1, 1, 1600)


def test_music_on_a_device_is_cut_as_on_disk() -> None:
    pieces = music(0)
    held, places = Resident(pieces, "cpu"), torch.cat((torch.rand(50), torch.tensor([0.0, 1.0])))
    for length in (1, 1600, 7000):
        torch.testing.assert_close(
            held.clips(places, length), pieces.clips(places, length), rtol=0, atol=0
        )
    with pytest.raises(ValueError, match="length: no piece has 20001 samples"):
        held.clips(places, 20_001)
    assert resident(pieces, "cpu") is pieces


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtra(module, extra)

    monkeypatch.setattr(encodec, "require", missing)
    with pytest.raises(MissingExtra, match="hub"):
        encodec.build(**CONFIG)
