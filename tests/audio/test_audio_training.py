"""Training of the codec and of the flow on small music and small networks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrlgen.domains.audio.data import Music
from ctrlgen.domains.audio.mdct import mdct
from ctrlgen.domains.audio.trainer import (
    CodecRecipe,
    CodecTrainer,
    FlowRecipe,
    FlowTrainer,
    covariance,
)

CONFIG = {"hop": 32, "size": 8, "width": 16, "depth": 1, "kernel": 3}


def music(seed: int, length: int = 200_000) -> Music:
    """Chords of a few partials with some noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(length) / 16000
    wave = sum(draw.uniform(0.05, 0.2) * np.sin(2 * math.pi * f * time) for f in (220, 331, 997))
    wave = wave + 0.01 * draw.standard_normal(length)
    return Music(((wave * 32767).astype(np.int16),), ("00-0",))


def codec_trainer(**options: object) -> CodecTrainer:
    recipe = CodecRecipe(
        name="tiny", config=CONFIG, length=4096, batch=4, validation=8, **options  # type: ignore[arg-type]
    )  # fmt: skip
    return CodecTrainer(recipe, music(0), music(1))


def test_covariance_is_that_of_all_coefficients() -> None:
    pieces = music(0, 3200)
    samples = torch.from_numpy(pieces.pieces[0].astype(np.float64) / 32768)
    c = mdct(samples.view(2, 1600), 32).flatten(0, 1)
    torch.testing.assert_close(covariance(pieces, 32, 1600, 1), c.T @ c / len(c), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="length"):
        covariance(pieces, 32, 6400)


def test_the_codec_begins_as_the_linear_one_and_gets_better() -> None:
    trainer = codec_trainer(lr=1e-3, noise=0.0, spectra=0.0)
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


def test_silence_has_a_loss_and_a_gradient() -> None:
    trainer = codec_trainer()
    silent = torch.zeros(1, 1, 4096)
    y = torch.full((1, 1, 4096), 0.01, requires_grad=True)
    loss = trainer._distance(y, silent).sum()
    loss.backward()
    assert bool(loss.isfinite()) and y.grad is not None and bool(y.grad.isfinite().all())


def flow_trainer() -> FlowTrainer:
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
    return FlowTrainer(recipe, latents[:48], latents[48:])


def test_the_flow_learns_that_frames_agree() -> None:
    trainer = flow_trainer()
    before = trainer.validate()
    for step in range(60):
        trainer.step(step / 60)
    assert trainer.validate() < 0.8 * before


def test_the_flow_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    one, two = flow_trainer(), flow_trainer()
    for step in range(2):
        one.step(step / 10)
    one.save(tmp_path / "checkpoint.safetensors")
    two.load(tmp_path / "checkpoint.safetensors")
    torch.testing.assert_close(one.step(0.2)[0], two.step(0.2)[0], rtol=0, atol=0)
