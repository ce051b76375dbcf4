"""Models of diffusers as priors."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from ctrlgen.adapters import from_diffusers
from ctrlgen.priors.flows import Guided
from ctrlgen.priors.paths import DiscreteVP
from ctrlgen.rows.errors import MissingExtra
from ctrlgen.rows.seeds import normal

EXACT = {"rtol": 1e-9, "atol": 1e-9}


CONFIG = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


@pytest.fixture(scope="module")
def unet_folder(tmp_path_factory):
    """A tiny random network of 3 classes, saved as a pipeline folder without a scheduler."""
    import diffusers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    unet = diffusers.UNet2DModel(**CONFIG, num_class_embeds=3)
    for p in unet.parameters():  # the last layers start near zero, and hide their input
        torch.nn.init.normal_(p, std=0.1)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def scheduler_config(name: str, **options) -> dict:
    import diffusers

    return dict(getattr(diffusers, name)(**options).config, _class_name=name)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_diffusers_step_is_diffusers_own(unet_folder, schedule, prediction):
    """One DDIM step from index 600 to 400, taken here and by diffusers' scheduler."""
    import diffusers

    config = scheduler_config(
        "DDIMScheduler", beta_schedule=schedule, prediction_type=prediction, clip_sample=False
    )
    prior = from_diffusers(unet_folder, scheduler=config).to(torch.float64)
    assert isinstance(prior.flow.path, DiscreteVP)
    x = normal([1, 2], (2, 8, 8), dtype=torch.float64)
    label = torch.tensor([0, 2])

    theirs = diffusers.DDIMScheduler.from_config(config)
    theirs.alphas_cumprod = torch.cumprod(1 - theirs.betas.double(), 0)
    theirs.set_timesteps(5)
    unet = diffusers.UNet2DModel.from_pretrained(unet_folder, subfolder="unet").double()
    with torch.no_grad():
        output = unet(x, torch.tensor(600), class_labels=label).sample
    expected = theirs.step(output, 600, x).prev_sample

    now, then = (1 - torch.tensor(i / 999, dtype=torch.float64) for i in (600, 400))
    seen = prior.flow.predict(x, now, label=label)
    at = prior.flow.path(then)
    torch.testing.assert_close(at.alpha * seen.data + at.sigma * seen.noise, expected, **EXACT)


def test_a_zero_terminal_step_is_diffusers_own(unet_folder):
    """From the last index of a rescaled table, where the state is pure noise (ᾱ = 0)."""
    import diffusers

    config = scheduler_config(
        "DDIMScheduler",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    prior = from_diffusers(unet_folder, scheduler=config).to(torch.float64)
    x = normal([1, 2], (2, 8, 8), dtype=torch.float64)
    label = torch.tensor([0, 2])

    theirs = diffusers.DDIMScheduler.from_config(config)
    theirs.alphas_cumprod = torch.cumprod(1 - theirs.betas.double(), 0)
    theirs.set_timesteps(5)
    first, second = theirs.timesteps[:2]
    unet = diffusers.UNet2DModel.from_pretrained(unet_folder, subfolder="unet").double()
    with torch.no_grad():
        output = unet(x, first, class_labels=label).sample
    expected = theirs.step(output, first, x).prev_sample

    now, then = 1 - first.double() / 999, 1 - second.double() / 999
    assert float(prior.flow.path(now).alpha) == pytest.approx(0, abs=1e-7)
    seen = prior.flow.predict(x, now, label=label)
    at = prior.flow.path(then)
    torch.testing.assert_close(at.alpha * seen.data + at.sigma * seen.noise, expected, **EXACT)


def test_diffusers_table_by_hand(unet_folder):
    """ᾱ from the schedules' definitions, not from diffusers."""
    betas = {
        "linear": torch.linspace(1e-3, 0.03, 100, dtype=torch.float64),
        "scaled_linear": torch.linspace(1e-3**0.5, 0.03**0.5, 100, dtype=torch.float64) ** 2,
    }
    for schedule, beta in betas.items():
        config = {
            "_class_name": "DDPMScheduler",
            "beta_schedule": schedule,
            "beta_start": 1e-3,
            "beta_end": 0.03,
            "num_train_timesteps": 100,
        }
        path = from_diffusers(unet_folder, scheduler=config).flow.path
        expected = torch.cumprod(1 - beta, 0)
        torch.testing.assert_close(path.alphas_cumprod, expected, rtol=1e-6, atol=0)
    config = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
    path = from_diffusers(unet_folder, scheduler=config).flow.path
    bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert float(path.alphas_cumprod[499]) == pytest.approx(bar(0.5) / bar(0), rel=1e-4)


def test_diffusers_flow_matching(unet_folder):
    """One Euler step of diffusers' flow-matching scheduler, shift and all."""
    import diffusers

    config = scheduler_config("FlowMatchEulerDiscreteScheduler", shift=3.0)
    prior = from_diffusers(unet_folder, scheduler=config)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    theirs.set_timesteps(4)
    timestep, sigmas = theirs.timesteps[1], theirs.sigmas
    unet = diffusers.UNet2DModel.from_pretrained(unet_folder, subfolder="unet")
    x, label = normal([1, 2], (2, 8, 8)), torch.tensor([0, 2])
    with torch.no_grad():
        output = unet(x, timestep, class_labels=label).sample
    expected = theirs.step(output, timestep, x).prev_sample
    u = prior.flow.velocity(x, float(1 - sigmas[1]), label=label)
    found = x + float(sigmas[1] - sigmas[2]) * u
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_diffusers_prior(unet_folder):
    """From a folder with its scheduler: shape, labels, guidance, gradients, frozen weights."""
    import diffusers

    diffusers.DDPMScheduler(prediction_type="epsilon").save_pretrained(unet_folder / "scheduler")
    prior = from_diffusers(str(unet_folder))
    assert prior.source.shape == (2, 8, 8) and prior.flow.kind == "noise"
    assert not any(p.requires_grad for p in prior.flow.network.parameters())
    bound = prior.bind(label=[0, 2])
    x = prior.start([1, 2]).requires_grad_()
    u = bound.velocity(x, 0.5)
    u.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    assert (u[0] - prior.bind(label=[1, 2]).velocity(x, 0.5)[0]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="label: expected integers from 0 to 2"):
        prior.bind(label=[0, 3])
    guided = Guided(prior.flow.network, 1.0, {"label": 0})
    both = guided(x, torch.full((2,), 0.5), label=torch.tensor([0, 2]))
    alone = prior.flow.network(x, torch.full((2,), 0.5), label=torch.tensor([0, 2]))
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_diffusers_index_fractional_or_rounded(unet_folder):
    config = scheduler_config("DDPMScheduler")
    given = []
    for rounded in (False, True):
        network = from_diffusers(unet_folder, scheduler=config, rounded=rounded).flow.network
        network.fn.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))
        network(
            torch.zeros(2, 2, 8, 8),
            1 - torch.tensor([500.3, 200.6]) / 999,
            label=torch.zeros(2).long(),
        )
    torch.testing.assert_close(given[0], torch.tensor([500.3, 200.6]), rtol=0, atol=1e-3)
    assert given[1].tolist() == [500, 201] and given[1].dtype == torch.int64


def test_diffusers_refusals(unet_folder, tmp_path):
    import diffusers

    with pytest.raises(ValueError, match="scheduler: expected one of the DDPM family"):
        from_diffusers(unet_folder, scheduler=scheduler_config("EDMEulerScheduler"))
    with pytest.raises(ValueError, match="scheduler: expected one of the DDPM family"):
        from_diffusers(unet_folder, scheduler={"_class_name": "Unheard"})
    config = {**scheduler_config("DDPMScheduler"), "prediction_type": "odds"}
    with pytest.raises(ValueError, match="prediction_type: expected one of epsilon"):
        from_diffusers(unet_folder, scheduler=config)
    with pytest.raises(OSError):
        from_diffusers(tmp_path, scheduler=scheduler_config("DDPMScheduler"))
    learned = {**CONFIG, "time_embedding_type": "learned", "num_train_timesteps": 1000}
    diffusers.UNet2DModel(**{**learned, "sample_size": None}).save_pretrained(tmp_path)
    config = scheduler_config("DDPMScheduler")
    with pytest.raises(ValueError, match="rounded=True"):
        from_diffusers(tmp_path, scheduler=config)
    with pytest.raises(ValueError, match="size: the model's config has no sample_size"):
        from_diffusers(tmp_path, scheduler=config, rounded=True)
    prior = from_diffusers(tmp_path, scheduler=config, rounded=True, size=(8, 16))
    assert prior.sample([0], solver=lambda f, x: f(x, torch.tensor(0.5))).shape == (1, 2, 8, 16)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r'pip install "ctrlgen\[hub\]"'):
        from_diffusers(tmp_path)
