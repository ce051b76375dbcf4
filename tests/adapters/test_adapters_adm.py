"""Guided-diffusion networks: azula's own with the same weights, files, refusals."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ctrlgen
from ctrlgen.adapters import from_adm
from ctrlgen.adapters.adm import ADM, MODELS, cosine_table
from ctrlgen.priors.paths import CondOT, DiscreteVP
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal

TINY: dict[str, Any] = {"size": 8, "width": 32, "widths": (1, 2), "blocks": 1, "attention": (4,)}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"heads": 4},
    "like-ffhq": {"head_channels": 16, "scale_shift": True, "residual_resampling": True},
    "labels": {"heads": 2, "classes": 5, "scale_shift": True, "new_attention": True, "blocks": 2},
}
THEIRS = {
    "size": "image_size",
    "width": "num_channels",
    "widths": "channel_mult",
    "blocks": "num_res_blocks",
    "attention": "attention_resolutions",
    "heads": "num_heads",
    "head_channels": "num_head_channels",
    "classes": "num_classes",
    "scale_shift": "use_scale_shift_norm",
    "residual_resampling": "resblock_updown",
    "new_attention": "use_new_attention_order",
}


def fill(network: nn.Module) -> None:
    """Weights of a fixed seed, none of them zero as at the start of training."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


def images(channels: int = 3) -> Tensor:
    return normal([4, 9], (channels, 8, 8), dtype=torch.float32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of a tiny network's weights."""
    network = ADM(**TINY, **KINDS["like-ffhq"])
    fill(network)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.skipif(importlib.util.find_spec("azula") is None, reason="azula is not installed")
@pytest.mark.parametrize("name", KINDS)
def test_the_network_is_azulas_with_the_same_weights(name: str) -> None:
    """Names of the weights, and predictions at fractional and whole indices."""
    from azula.plugins.adm import make_model

    config = {**TINY, **KINDS[name]}
    theirs = make_model(**{THEIRS[k]: v for k, v in config.items()}).backbone.eval()
    fill(theirs)
    ours = ADM(**config).eval()
    ours.load_state_dict(theirs.state_dict())
    x, t = images(), torch.tensor([0.25, 1 - 300 / 999])
    label = torch.tensor([1, 4]) if "classes" in config else None
    with torch.no_grad():
        expected = theirs(x, 999 * (1 - t), y=label)[:, :3]
        found = ours(x, t, label=label)
    assert expected.abs().mean() > 0.01
    assert torch.allclose(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


def test_a_diffusion_prior_from_its_file(weights: Path) -> None:
    prior = from_adm(weights, {**TINY, **KINDS["like-ffhq"]})
    assert isinstance(prior.flow.path, DiscreteVP) and prior.flow.kind == "noise"
    table = DiscreteVP.linear().alphas_cumprod
    assert torch.allclose(prior.flow.path.alphas_cumprod, table, rtol=1e-12, atol=0)
    assert prior.source.shape == (3, 8, 8)
    network: Any = prior.flow.network
    assert not any(p.requires_grad for p in network.parameters())
    x = images().requires_grad_()
    noise = prior.predict(x, 0.4).noise
    assert torch.allclose(noise, network(x, torch.full((2,), 0.4)))
    (gradient,) = torch.autograd.grad(noise[0].sum(), x)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0


def test_a_flow_prior_from_its_file(tmp_path: Path) -> None:
    """As torchcfm trains them: no variance, the time as it is."""
    config = {**TINY, "heads": 2, "variance": False, "clock": "flow"}
    network = ADM(**config)
    fill(network)
    save_file(network.state_dict(), tmp_path / "otfm.safetensors")
    prior = from_adm(tmp_path / "otfm.safetensors", config)
    assert isinstance(prior.flow.path, CondOT) and prior.flow.kind == "velocity"
    x, t = images(), torch.tensor([0.2, 0.7])
    assert torch.equal(prior.velocity(x, t), network(x, t))
    diffusion = ADM(**{**config, "clock": "diffusion"})
    diffusion.load_state_dict(network.state_dict())
    assert torch.allclose(network(x, 999 * (1 - t)), diffusion(x, t), rtol=0, atol=1e-4)


def test_a_card_of_it_loads_as_every_prior_does(weights: Path, tmp_path: Path) -> None:
    prior = from_adm(weights, {**TINY, **KINDS["like-ffhq"]})
    again = ctrlgen.load(prior.save(tmp_path / "cards", "tiny"))
    x = images()
    assert torch.equal(again.velocity(x, 0.3), prior.velocity(x, 0.3))


def test_cosine_table_by_hand() -> None:
    table = cosine_table(1000).alphas_cumprod
    for i in (0, 400, 900):
        ratio = math.cos(((i + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) / math.cos(
            0.008 / 1.008 * math.pi / 2
        )
        assert float(table[i]) == pytest.approx(ratio**2, rel=1e-9)


@pytest.mark.parametrize(("name", "millions"), [("ffhq-256", 93.6), ("imagenet-64", 296.0)])
def test_published_models_have_their_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = ADM(**MODELS[name])
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_refusals(weights: Path, tmp_path: Path) -> None:
    config = {**TINY, **KINDS["like-ffhq"]}
    with pytest.raises(UnknownName, match="ffhq-256"):
        from_adm(weights, "ffhq")
    with pytest.raises(ValueError, match="safetensors"):
        from_adm(tmp_path / "model.pt", config)
    with pytest.raises(ValueError, match="not those of the model"):
        from_adm(weights, config, variance=False)
    with pytest.raises(ValueError, match="clock"):
        from_adm(weights, config, clock="edm")
    with pytest.raises(ValueError, match="schedule"):
        from_adm(weights, config, schedule="sigmoid")
    with pytest.raises(ValueError, match="size"):
        from_adm(weights, config, size=9)
    prior = from_adm(weights, config)
    with pytest.raises(ValueError, match="label"):
        prior.flow.velocity(images(), 0.3, label=torch.tensor([1, 2]))
