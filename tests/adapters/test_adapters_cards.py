"""Priors of other libraries on disk: the card names the model and its adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ctrlgen
from ctrlgen.adapters import from_diffusers, from_latent
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Card, Prior
from ctrlgen.rows.errors import CardError
from ctrlgen.solvers import Euler

diffusers = pytest.importorskip("diffusers")

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (4,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}
TABLE = {"_class_name": "DDPMScheduler", "num_train_timesteps": 10, "beta_end": 0.3}


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random UNet of two classes with a scheduler, saved as a pipeline's folder."""
    folder = tmp_path_factory.mktemp("pixels")
    torch.manual_seed(0)
    diffusers.UNet2DModel(**UNET, num_class_embeds=2).save_pretrained(folder / "unet")
    diffusers.DDPMScheduler.from_config(TABLE).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent pipeline: an autoencoder that halves images, and a UNet of its latents."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    diffusers.UNet2DModel(**UNET).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=1,
        norm_num_groups=2,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    diffusers.DDPMScheduler.from_config(TABLE).save_pretrained(folder / "scheduler")
    return folder


def same(one: Prior, other: Prior, **conditions: Any) -> None:
    draws = [
        prior.bind(**conditions).generate(prior.start([1, 2]), Euler(2)) for prior in (one, other)
    ]
    assert torch.equal(*draws)


def changed(card: Path, **changes: Any) -> Path:
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    return card


def test_a_prior_of_diffusers_is_saved_and_loaded(pixels: Path, tmp_path: Path) -> None:
    prior = from_diffusers(pixels, rounded=True)
    file = prior.save(tmp_path, "pixels", licence="MIT")
    assert [f.name for f in tmp_path.iterdir()] == ["pixels.json"]
    card = Card.read(file)
    assert (card.factory, card.weights) == ("ctrlgen.adapters.diffusers:rebuild", "")
    assert card.config == {"model": str(pixels.resolve()), "rounded": True}
    again = ctrlgen.load(file)
    same(prior, again, label=[0, 1])
    assert again.card is not None and (again.card.name, again.card.licence) == ("pixels", "MIT")
    # what was loaded is saved again
    same(prior, ctrlgen.load(again.save(tmp_path, "copy")), label=[1, 0])


def test_a_scheduler_and_a_size_of_its_own_are_kept(pixels: Path, tmp_path: Path) -> None:
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    prior = from_diffusers(pixels, scheduler=scheduler, size=(4, 6))
    again = ctrlgen.load(prior.save(tmp_path, "flow"))
    assert isinstance(again.flow.path, CondOT) and again.source.shape == (1, 4, 6)
    same(prior, again, label=[0, 1])


def test_a_folder_beside_the_card_moves_with_it(pixels: Path, tmp_path: Path) -> None:
    import shutil

    card = from_diffusers(pixels).save(tmp_path / "a", "pixels")
    shutil.copytree(pixels, tmp_path / "a" / "model")
    changed(card, config={"model": "model"})
    moved = shutil.copytree(tmp_path / "a", tmp_path / "b")
    same(from_diffusers(pixels), ctrlgen.load(moved / "pixels.json"), label=[0, 1])


def test_a_latent_prior_is_saved_and_loaded(latents: Path, tmp_path: Path) -> None:
    prior = from_latent(latents, size=(16, 16))
    again = ctrlgen.load(prior.save(tmp_path, "latents"))
    same(prior, again)
    assert again.sample([1], solver=Euler(1)).shape == (1, 3, 16, 16)


def test_another_model_than_was_saved_is_noticed(pixels: Path, tmp_path: Path) -> None:
    card = from_diffusers(pixels).save(tmp_path, "pixels")
    torch.manual_seed(1)
    other = tmp_path / "other"
    diffusers.UNet2DModel(**UNET, num_class_embeds=2).save_pretrained(other / "unet")
    diffusers.DDPMScheduler.from_config(TABLE).save_pretrained(other / "scheduler")
    with pytest.raises(CardError, match="sha256: the model is not the one that was saved"):
        ctrlgen.load(changed(card, config={"model": "other"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"model": "absent folder"}}, "model: there is no folder 'absent folder'"),
        ({"config": {"model": "../../etc"}}, r"model: there is no folder '../../etc', and it is"),
        ({"config": {"model": ""}}, "model: there is no folder ''"),
        ({"config": {"model": 3}}, "model: there is no folder 3"),
        ({"config": {"model": "a\0b"}}, "model: there is no folder"),
        ({"config": {}}, "missing a required argument: 'model'"),
        ({"config": {"model": "x", "trust_remote_code": True}}, "got 'trust_remote_code'"),
        ({"config": {"model": "x", "folder": "/"}}, "folder: expected to be left out"),
        ({"prediction": "data"}, "prediction: the card states another than its adapter makes"),
        ({"source": {"type": "Gaussian", "shape": [1, 9, 9]}}, "source: the card states another"),
        ({"sha256": ""}, "sha256: the model is not the one that was saved"),
        ({"factory": "ctrlgen.adapters.diffusers:from_diffusers"}, "factory: .* registered builde"),
        ({"factory": "ctrlgen.domains.images.networks:build"}, "weights"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_cards_of_adapters_are_checked(
    pixels: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    card = from_diffusers(pixels).save(tmp_path, "pixels")
    with pytest.raises(CardError, match=message):
        ctrlgen.load(changed(card, **changes))


@pytest.mark.parametrize("name", ["UNet2DModel", "_x", "logging", 3])
def test_a_scheduler_is_a_scheduler(pixels: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="scheduler: expected one of the DDPM family"):
        from_diffusers(pixels, scheduler={"_class_name": name})


def test_a_model_larger_than_its_weights_is_refused(pixels: Path, tmp_path: Path) -> None:
    import shutil

    card = from_diffusers(pixels).save(tmp_path, "pixels")
    shutil.copytree(pixels, tmp_path / "model")
    config = tmp_path / "model" / "unet" / "config.json"
    changed(config, block_out_channels=[40000])
    with pytest.raises(CardError, match="larger than its weights"):
        ctrlgen.load(changed(card, config={"model": "model"}))
