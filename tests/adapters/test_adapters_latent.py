"""Latent priors on tiny random components: the codec, guidance, text, whole runs on them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ctrlgen.adapters import from_latent
from ctrlgen.adapters.latent import AutoencoderCodec, LatentNetwork, encode_text
from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.domains.images.operators import OPERATORS
from ctrlgen.methods import DFlow, REDDiff
from ctrlgen.methods.starts import Blend
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.flows import Guided
from ctrlgen.priors.paths import CondOT, DiscreteVP
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Uniform
from ctrlgen.solvers import Midpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed"
)

SEEDS = [3, 8]
FACTOR, SHIFT = 0.4, 0.1


def text(stream: int = 5, rows: Any = SEEDS) -> Tensor:
    """Hidden states of four tokens, eight wide."""
    return normal(rows, (4, 8), stream)


def save_pipeline(folder: Path, prediction: str) -> Path:
    """Autoencoder, text-conditional UNet and scheduler of a few hundred weights."""
    import diffusers

    torch.manual_seed(1)
    diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=8,
        scaling_factor=FACTOR,
        shift_factor=SHIFT,
    ).save_pretrained(folder / "vae")
    diffusers.UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=8,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet")
    if prediction == "flow":
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
        )
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for every kind of prediction, the same networks in each."""
    kinds = ("epsilon", "v_prediction", "flow")
    return {kind: save_pipeline(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


@pytest.mark.parametrize(
    ("kind", "named"), [("epsilon", "noise"), ("v_prediction", "v"), ("flow", "velocity")]
)
def test_predictions_are_the_networks_own(
    kind: str, named: str, pipelines: dict[str, Path]
) -> None:
    """On the scheduler's clock, with the text handed over."""
    import diffusers

    prior = from_latent(pipelines[kind]).bind(text=text())
    unet = diffusers.UNet2DConditionModel.from_pretrained(pipelines[kind], subfolder="unet")
    z, t = normal(SEEDS, (2, 4, 4), 2), 0.35
    assert prior.source.shape == (2, 4, 4) and prior.flow.kind == named
    if kind == "flow":
        assert isinstance(prior.flow.path, CondOT)
        time, sign = 1000 * (1 - t), -1
    else:
        assert isinstance(prior.flow.path, DiscreteVP)
        time, sign = 999 * (1 - t), 1
    with torch.no_grad():
        expected = sign * unet(z, time, encoder_hidden_states=text()).sample
        found = getattr(prior.predict(z, t), named)
        assert torch.allclose(found, expected, rtol=0, atol=1e-5)
        other = getattr(prior.bind(text=text(6)).predict(z, t), named)
    assert (other - found).abs().max() > 1e-4


def test_codec_is_the_autoencoder_with_its_factor(pipelines: dict[str, Path]) -> None:
    import diffusers

    codec = from_latent(pipelines["flow"]).codec
    vae = diffusers.AutoencoderKL.from_pretrained(pipelines["flow"], subfolder="vae").eval()
    x, z = torch.tanh(normal(SEEDS, (3, 8, 8), 3)), normal(SEEDS, (2, 4, 4), 2)
    with torch.no_grad():
        latent = (vae.encode(x).latent_dist.mean - SHIFT) * FACTOR
        image = vae.decode(z / FACTOR + SHIFT).sample
    assert torch.allclose(codec.encode(x), latent, rtol=0, atol=1e-5)
    z.requires_grad_()
    found = codec.decode(z)
    assert torch.allclose(found, image, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(found[0].sum(), z)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0
    double: Any = codec.to(torch.float64)
    assert double.decode(z.detach().double()).dtype == torch.float64
    with pytest.raises(NotImplementedError, match="density"):
        codec.log_det(z)


def test_guidance_is_one_evaluation_of_both_halves(pipelines: dict[str, Path]) -> None:
    folder, null = pipelines["epsilon"], {"text": text(9, [1])}
    plain = from_latent(folder)
    guided = from_latent(folder, guidance=3.0, null=null)
    assert isinstance(guided.flow.network, Guided)
    z = normal(SEEDS, (2, 4, 4), 2)
    with torch.no_grad():
        with_it = plain.bind(text=text()).predict(z, 0.4).noise
        without = plain.bind(text=null["text"].expand(2, -1, -1)).predict(z, 0.4).noise
        found = guided.bind(text=text()).predict(z, 0.4).noise
    assert torch.allclose(found, without + 3 * (with_it - without), rtol=0, atol=1e-5)
    assert guided.flow.evaluations.forward == 1


def test_inpainting_through_the_decoder(pipelines: dict[str, Path]) -> None:
    """D-Flow's free-form preset and RED-diff's latent form: the residual of images falls, rows
    stay apart, and the network is counted."""
    prior = from_latent(pipelines["flow"]).bind(text=text())
    keep = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    keep[0, :, 2:4, 1:7], keep[1, :, :5, 3:6] = False, False  # a stroke in each
    operator = OPERATORS["inpaint-mask"](keep)
    truth = 0.5 * torch.tanh(normal(SEEDS, (3, 8, 8), 3))
    y = operator(truth)
    preset = DFlow.preset(
        "latent-inpaint",
        optimizer=LBFGS(max_iterations=2),
        initializer=Blend(0.25, Midpoint(1)),
        solver=Midpoint(1, gradient="checkpoint"),
    )
    result = preset(prior, NegativePSNR(operator, y), seeds=SEEDS)
    assert result.samples.shape == (2, 3, 8, 8) and result.controls.shape == (2, 2, 4, 4)
    assert (result.costs < result.history["cost"][0]).all()

    cost = SquaredError(operator, y)
    red = REDDiff.preset("latent", grid=Uniform(6, start=0.5), optimizer=Adam(learning_rate=0.05))
    whole = red(prior, cost, seeds=SEEDS)
    assert whole.status.tolist() == [Status.FINISHED] * 2
    assert (whole.network.forward, whole.network.vjp) == (6, 0)
    assert (whole.costs < whole.history["cost"][0]).all()
    one = torch.tensor([1])
    alone = red(prior.take(one), cost.take(one), seeds=SEEDS[1:])
    assert torch.allclose(alone.samples[0], whole.samples[1], rtol=0, atol=1e-4)


def test_transformers_of_labels(tmp_path: Path, pipelines: dict[str, Path]) -> None:
    """A DiT: its learned variance is left out, its null class guides."""
    import diffusers

    torch.manual_seed(2)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=4,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=7,
        norm_num_groups=2,
    )
    dit.save_pretrained(tmp_path / "transformer")
    for part in ("vae", "scheduler"):
        (tmp_path / part).symlink_to(pipelines["epsilon"] / part)
    prior = from_latent(tmp_path, guidance=2.0, null={"label": 7}, size=8)
    z, label = normal(SEEDS, (2, 4, 4), 2), torch.tensor([3, 0])
    dit = dit.eval()
    time = torch.full((2,), 999 * 0.6)
    with torch.no_grad():
        found = prior.bind(label=label).predict(z, 0.4).noise
        some = dit(z, timestep=time, class_labels=label).sample[:, :2]
        none = dit(z, timestep=time, class_labels=torch.tensor([7, 7])).sample[:, :2]
    assert torch.allclose(found, 2 * some - none, rtol=0, atol=1e-4)
    with pytest.raises(UnknownName, match="text"):
        prior.bind(text=text())


def test_refusals(pipelines: dict[str, Path], tmp_path: Path) -> None:
    folder = pipelines["epsilon"]
    with pytest.raises(ValueError, match="null"):
        from_latent(folder, guidance=2.0)
    with pytest.raises(ValueError, match="null"):
        from_latent(folder, guidance=2.0, null={"prompt": 0.0})
    with pytest.raises(ValueError, match="multiples of 2"):
        from_latent(folder, size=9)
    with pytest.raises(OSError, match="vae or vqvae"):
        from_latent(tmp_path)
    with pytest.raises(ValueError, match="text"):
        from_latent(folder).predict(normal(SEEDS, (2, 4, 4), 2), 0.4)
    for prompts in ("a chair", [], [3]):
        with pytest.raises(ValueError, match="prompts"):
            encode_text(folder, prompts)  # type: ignore[arg-type]


def test_conditions_reach_the_network_under_its_names() -> None:
    """Those of SDXL's UNet in its dictionary, those of SD3's transformer as arguments."""

    class Recorder(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.given = kwargs
            z = args[0] if args else kwargs["hidden_states"]
            return type("Output", (), {"sample": z.repeat(1, 2, 1, 1)})

    class SD3Transformer2DModel(Recorder):
        pass

    z, time = normal(SEEDS, (2, 4, 4)), torch.ones(2)
    conditions = {"text": text(), "pooled": text()[:, 0]}
    unet, transformer = Recorder(), SD3Transformer2DModel()
    result = LatentNetwork(unet, True)(z, time, **conditions, time_ids=text()[:, 1])
    assert torch.equal(result.sample, z)
    assert set(unet.given) == {"encoder_hidden_states", "added_cond_kwargs"}
    assert set(unet.given["added_cond_kwargs"]) == {"text_embeds", "time_ids"}
    LatentNetwork(transformer, True)(z, time, **conditions)
    names = {"hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"}
    assert set(transformer.given) == names


def test_autoencoders_of_other_makes() -> None:
    """Per-channel statistics, and latents that are no distribution."""

    class Other(torch.nn.Module):
        config: ClassVar = {
            "scaling_factor": 0.5,
            "latents_mean": [1.0, 2.0],
            "latents_std": [3.0, 4.0],
        }

        def encode(self, x: Tensor) -> Any:
            return type("Latents", (), {"latents": x})

        def decode(self, z: Tensor) -> Any:
            return type("Image", (), {"sample": z})

    codec, z = AutoencoderCodec(Other()), normal(SEEDS, (2, 4, 4))
    scale, mean = torch.tensor([6.0, 8.0]), torch.tensor([1.0, 2.0])
    expected = z * scale[:, None, None] + mean[:, None, None]
    assert torch.allclose(codec.decode(z), expected)
    assert torch.allclose(codec.encode(expected), z, rtol=0, atol=1e-6)


def test_text_of_prompts(tmp_path: Path) -> None:
    """The hidden states of a tiny CLIP text model, its own tokenizer in front."""
    transformers = pytest.importorskip("transformers")
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "c</w>"]
    (tmp_path / "tokenizer").mkdir()
    vocabulary = {word: i for i, word in enumerate(words)}
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "tokenizer" / "vocab.json"),
        str(tmp_path / "tokenizer" / "merges.txt"),
        model_max_length=6,
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=6, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    found = encode_text(tmp_path, ["a b", "a c"])["text"]
    assert found.shape == (2, 6, 8) and found.dtype == torch.float32
    assert (found[0] - found[1]).abs().max() > 0
