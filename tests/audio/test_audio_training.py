"""Training of the codec and of the flow on small music and small networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrlgen.domains.audio import packed, training
from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.metrics import snr
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import PretrainedCodec
from ctrlgen.domains.audio.trainer import (
    CodecRecipe,
    CodecTrainer,
    FlowRecipe,
    FlowTrainer,
    levelled,
)
from ctrlgen.domains.audio.training import fit
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.priors.prior import load
from ctrlgen.rows.errors import CardError
from ctrlgen.solvers import Midpoint

CONFIG = {"hop": 32, "size": 8, "width": 16, "depth": 1, "kernel": 3}


def music(seed: int, length: int = 200_000) -> Music:
    """Chords of a few partials with some noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(length) / 16000
    wave = sum(draw.uniform(0.05, 0.2) * np.sin(2 * math.pi * f * time) for f in (220, 331, 997))
    wave = wave + 0.01 * draw.standard_normal(length)
    return Music(((wave * 32767).astype(np.int16),), ("00-0",))


def codec_trainer(size: int = 8, **options: Any) -> CodecTrainer:
    config = {**CONFIG, "size": size}
    recipe = CodecRecipe(
        name="tiny", config=config, length=4096, batch=4, validation=8, **options
    )  # fmt: skip
    return CodecTrainer(recipe, music(0), music(1))


def test_the_codec_begins_as_the_linear_one_and_gets_better() -> None:
    trainer = codec_trainer(4, lr=1e-3, noise=0.0, spectra=0.0)
    trainer.held = levelled(trainer.music, torch.rand(8), 4096)  # it is fitted to these
    before, linear = trainer.validate(), trainer.quality()["snr"]
    assert linear > 3
    for step in range(30):
        trainer.step(step / 60)
    assert trainer.validate() < before
    assert trainer.quality()["snr"] > linear


def test_a_step_is_of_its_seed_and_number_alone(tmp_path: Path) -> None:
    one, two = codec_trainer(), codec_trainer()
    for step in range(3):
        one.step(step / 10)
    one.save(tmp_path / "checkpoint.safetensors")
    two.load(tmp_path / "checkpoint.safetensors")
    for step in range(3, 5):
        torch.testing.assert_close(one.step(step / 10)[0], two.step(step / 10)[0], rtol=0, atol=0)


def test_silence_has_a_loss_and_no_more_gradient_than_music() -> None:
    trainer = codec_trainer()
    x = torch.cat((torch.zeros(1, 1, 4096), levelled(music(0), torch.tensor([0.5]), 4096)))
    y = (x + 0.01).requires_grad_()
    loss = trainer._distance(y, x)
    (gradient,) = torch.autograd.grad(loss.sum(), y)
    assert float(loss[0].detach()) == pytest.approx(0.01)  # 20 dB below the level of clips
    silence, heard = gradient.square().sum((1, 2)).tolist()
    assert 0 < silence < heard


def flow_trainer(**options: torch.Tensor) -> FlowTrainer:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(64, 1, 4, generator=draw)
    latents = (base + 0.1 * torch.randn(64, 10, 4, generator=draw)).half()
    recipe = FlowRecipe(
        name="tiny",
        config={"features": 4, "width": 32, "depth": 1, "heads": 2},
        batch=16,
        lr=4e-3,
        autocast=False,
    )

    def drawn(places: torch.Tensor) -> torch.Tensor:
        return latents[(48 * places).long()]

    return FlowTrainer(recipe, drawn, latents[48:], **options)


def test_the_flow_learns_that_frames_agree() -> None:
    trainer = flow_trainer()
    before = trainer.validate()
    for step in range(90):
        trainer.step(step / 90)
    assert trainer.validate() < 0.8 * before


def test_the_flow_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    one, two = flow_trainer(), flow_trainer()
    for step in range(2):
        one.step(step / 10)
    one.save(tmp_path / "checkpoint.safetensors")
    two.load(tmp_path / "checkpoint.safetensors")
    torch.testing.assert_close(one.step(0.2)[0], two.step(0.2)[0], rtol=0, atol=0)


def test_weights_of_the_numbers_of_a_frame_have_mean_one() -> None:
    plain, heavy = flow_trainer(), flow_trainer(weights=torch.tensor([8.0, 8.0, 8.0, 8.0]))
    assert heavy.validate() == pytest.approx(plain.validate(), rel=1e-6)
    first = flow_trainer(weights=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    z1, z0 = torch.zeros(1, 10, 4), torch.zeros(1, 10, 4)
    z0[..., 1:] = 3.0
    distance = first._distance(lambda z, t: torch.zeros_like(z), z1, z0, torch.full((1,), 0.5))
    assert float(distance) == 0.0
    z0[..., 0] = 1.0
    distance = first._distance(lambda z, t: torch.zeros_like(z), z1, z0, torch.full((1,), 0.5))
    assert float(distance) == pytest.approx(1.0)


def test_the_closed_form_codec_is_exact_and_its_latents_are_standard(tmp_path: Path) -> None:
    config = {"hop": 32, "size": 32, "depth": 0, "knee": 0.2}
    recipe = CodecRecipe(name="tiny", config=config, length=4096, validation=8)
    file = fit(recipe, music(0), music(1), tmp_path, "a command")
    card = Card.read(file)
    codec = network_of(card, tmp_path)
    assert isinstance(codec, SpecCodec)
    x = levelled(music(1), torch.tensor([0.1, 0.7]), 4096)
    z = (codec.encode(x) - codec.mean) / codec.std
    assert float(snr(codec.decode(codec.encode(x), 4096), x).min()) > 90
    assert card.quality["snr_held_out_dB"] > 90
    assert 0.8 < float(z.std()) < 1.2
    assert float(x.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-3)
    assert (tmp_path / "tiny.log.jsonl").is_file()


def test_packed_music_trains_as_the_folder_does(tmp_path: Path) -> None:
    pieces, held = music(0, 3 * packed.LENGTH + 5), music(1, packed.LENGTH)
    file = packed.save(pieces, held, tmp_path / "music.safetensors", 2)
    train, other = packed.load(file, "train"), packed.load(file, "held-out")
    assert len(train.pieces) == 2 and len(other.pieces) == 1
    expected = pieces.clips(torch.tensor([0.25]), packed.LENGTH)
    torch.testing.assert_close(train.clips(torch.tensor([0.0]), packed.LENGTH), expected)
    with pytest.raises(ValueError, match=r"samples: expected 1\.\.3"):
        packed.save(pieces, held, tmp_path / "music.safetensors", 4)


def test_a_prior_is_trained_and_loads_by_its_card(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    file = packed.save(music(0, packed.LENGTH), music(1, packed.LENGTH), tmp_path / "m.safetensors")
    tiny = FlowRecipe(
        name="tiny",
        config={"features": 640, "width": 16, "depth": 1, "heads": 2},
        batch=2,
        length=6400,
        validation=2,
        autocast=False,
    )
    monkeypatch.setitem(training.RECIPES, "tiny", tiny)
    card = training.train("tiny", data=file, steps=2, out=tmp_path / "out")
    prior = load(card)
    assert prior.source.shape == (11, 640)
    x = levelled(music(1), torch.tensor([0.3]), 6400)
    z = prior.codec.encode(x)
    assert z.shape == (1, 11, 640)
    torch.testing.assert_close(prior.codec.decode(z), x, atol=1e-4, rtol=0)
    assert prior.sample(seeds=[0, 1], solver=Midpoint(2)).shape == (2, 1, 6400)


def test_a_codec_that_is_not_there_or_another_is_refused() -> None:
    with pytest.raises(CardError, match="card: expected a codec of this package"):
        PretrainedCodec("../weights/mdct-16k")
    with pytest.raises(CardError, match="sha256"):
        PretrainedCodec("mdct-16k", sha256="0" * 64)
    with pytest.raises(ValueError, match="name: expected one of"):
        training.train("nothing", steps=1)
