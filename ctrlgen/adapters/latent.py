r"""Latent diffusion and flow models of diffusers as priors: autoencoder, network, text.

The state is a latent z, the signal the image that the autoencoder makes of it,

    z = (E(x) − shift) · f,      x = D(z/f + shift),

E the mean of the encoder's Gaussian, f the `scaling_factor` of the autoencoder's config and shift
its `shift_factor` (or mean and standard deviation per channel, where it has them). The codec does
this, so that a cost of images is a cost of latents and its gradient passes through the decoder.

Networks: `UNet2DConditionModel`, `UNet2DModel`, `DiTTransformer2DModel`, `SD3Transformer2DModel`;
schedulers and predictions (epsilon, v, sample, flow matching) as in `ctrlgen.adapters.diffusers`.
Conditions, one row per sample: `text` (B, L, D), the hidden states of the text encoder; `pooled`
(B, D) and `time_ids` (B, 6) where the network takes them; `label` (B,). `encode_text` computes
`text` for pipelines of one text encoder. Classifier-free guidance (`ctrlgen.priors.flows.Guided`)
evaluates both halves in one batch: with the empty prompt as null,

    null = encode_text(model, [""])
    prior = from_latent(model, guidance=2.0, null=null).bind(**encode_text(model, prompts))

Images are in [−1, 1]. Weights are read from safetensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ctrlgen.adapters.diffusers import KEPT, located, model_card, named_class, scheduled_flow
from ctrlgen.adapters.text import encode_text
from ctrlgen.extras import require
from ctrlgen.priors.codecs import Codec, Scaled
from ctrlgen.priors.flows import Flow, Guided
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian

__all__ = ["AutoencoderCodec", "LatentNetwork", "encode_text", "from_latent", "rebuild"]

_FIXED = {"use_safetensors": True, "low_cpu_mem_usage": False}  # needs no accelerate
_NETWORKS = (
    "UNet2DConditionModel",
    "UNet2DModel",
    "DiTTransformer2DModel",
    "SD3Transformer2DModel",
)


class AutoencoderCodec(Codec):
    """An image autoencoder of diffusers between latents and images in [−1, 1].

    Args:
        vae: with `encode`, `decode` and a config; `AutoencoderKL`, `VQModel`, `AutoencoderTiny`.
    """

    def __init__(self, vae: torch.nn.Module) -> None:
        config: Any = vae.config
        self.vae = vae.eval().requires_grad_(False)
        factor = float(config.get("scaling_factor") or 1.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            self.scaled = Scaled([s / factor for s in std], list(mean))
        else:
            self.scaled = Scaled(1 / factor, float(config.get("shift_factor") or 0.0))

    def encode(self, x: Tensor) -> Tensor:
        """The latent of images (B, C, H, W); the mean where the encoder gives a Gaussian."""
        encoded: Any = self.vae.encode(x)  # type: ignore[operator]
        if hasattr(encoded, "latent_dist"):
            return self.scaled.encode(encoded.latent_dist.mode())
        return self.scaled.encode(encoded.latents)

    def decode(self, z: Tensor) -> Tensor:
        decoded: Any = self.vae.decode(self.scaled.decode(z))  # type: ignore[operator]
        return decoded.sample

    def to(self, *args: Any, **kwargs: Any) -> AutoencoderCodec:
        """A copy; the autoencoder belongs to it and moves in place."""
        self.vae.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def __repr__(self) -> str:
        return f"AutoencoderCodec({type(self.vae).__name__})"


class LatentNetwork(torch.nn.Module):
    """A diffusers network behind one call, `network(z, time, **conditions)`.

    Args:
        model: of one of the module's kinds.
        text: whether it cannot do without the condition `text`.
    """

    def __init__(self, model: torch.nn.Module, text: bool) -> None:
        super().__init__()
        self.model, self.text = model, text
        self.transformer = "Transformer" in type(model).__name__

    def forward(self, z: Tensor, time: Tensor, **conditions: Tensor) -> SimpleNamespace:
        """An object whose `sample` is the prediction; a learned variance is left out.

        Raises:
            ValueError: where the text is missing.
        """
        if self.text and "text" not in conditions:
            raise ValueError("text: this network needs text, prior.bind(text=...); got none")
        given: dict[str, Any] = dict(conditions)
        if "text" in given:
            given["encoder_hidden_states"] = given.pop("text")
        added = {k: given.pop(k) for k in ("time_ids",) if k in given}
        if "pooled" in given:
            if self.transformer:
                given["pooled_projections"] = given.pop("pooled")
            else:
                added["text_embeds"] = given.pop("pooled")
        if added:
            given["added_cond_kwargs"] = added
        if self.transformer:
            result = self.model(hidden_states=z, timestep=time, **given)
        elif self.text or type(self.model).__name__ == "UNet2DModel":
            result = self.model(z, time, **given)
        else:
            result = self.model(z, time, **{"encoder_hidden_states": None, **given})
        return SimpleNamespace(sample=result.sample[:, : z.shape[1]])


def from_latent(
    model: FilePath | str,
    *,
    guidance: float = 1.0,
    null: Mapping[str, Tensor | float] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    rounded: bool = False,
    size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Prior:
    """The prior of a latent image model: its latents as states, its images as signals.

    Args:
        model: a local folder or a hub id, of a pipeline with subfolders `vae` (or `vqvae`), `unet`
            or `transformer`, and `scheduler`.
        guidance: scale of classifier-free guidance; 1 for none, and one evaluation of each sample
            instead of two.
        null: the conditions that mean none, by name: the text of the empty prompt (1, L, D), the
            label that stands for no class. Needed where there is guidance.
        scheduler: its scheduler's config; by default the one beside the model.
        rounded: give the network the nearest integer index instead of the fractional one.
        size: height and width of the images in pixels; by default those of the model.
        **options: to diffusers' `from_pretrained`, e.g. `revision`, `variant`, `token`.

    Raises:
        MissingExtra: if diffusers is not installed.
        ValueError: for a network, scheduler or prediction type that has no place here, guidance
            without a null, or a size that the autoencoder does not divide.
        OSError: if a part cannot be found, or has no safetensors.
    """
    if guidance != 1 and not null:
        raise ValueError("null: guidance needs the conditions that mean none, e.g. the empty text")
    diffusers = require("diffusers", extra="hub")
    given = None if scheduler is None else dict(scheduler)
    vae = _part(diffusers, model, ("vae", "vqvae"), options)
    network = _part(diffusers, model, ("unet", "transformer"), options)
    kind, config = type(network).__name__, network.config
    if kind not in _NETWORKS:
        raise ValueError(f"model: expected a network among {', '.join(_NETWORKS)}, got {kind}")
    shape = _shape(vae.config, config, size)
    if scheduler is None:
        scheduler = diffusers.DDPMScheduler.load_config(model, subfolder="scheduler", **options)
    conditions = _conditions(kind, config)
    flow = scheduled_flow(
        diffusers, LatentNetwork(network, "text" in conditions), scheduler, rounded
    )
    if guidance != 1:
        assert null is not None
        unknown = sorted(set(null) - set(conditions))
        if unknown:
            raise ValueError(f"null: expected conditions among {sorted(conditions)}, got {unknown}")
        flow = Flow(Guided(flow.network, guidance, null), flow.path, flow.kind)
    source = Gaussian(shape)
    codec = {"type": "ctrlgen.adapters.latent:AutoencoderCodec"}
    known = {"guidance": guidance, "null": {k: _listed(v) for k, v in (null or {}).items()}}
    kept = {"scheduler": given, "rounded": rounded, "size": size, **known, **options}
    card = model_card(model, __name__, kept, flow, source, conditions, codec=codec)
    return Prior(flow, source, AutoencoderCodec(vae), card=card)


def rebuild(folder: FilePath, model: str, **options: Any) -> Prior:
    """The prior of a card: `from_latent` of the folder or hub id that it names.

    Args:
        folder: of the card.
        model: a folder, from there or absolute, or a hub id.
        **options: as of `ctrlgen.adapters.diffusers.rebuild`, and `guidance` and `null`.

    Raises:
        CardError: as there.
    """
    with located(folder, model, options, (*KEPT, "guidance", "null")) as place:
        null = {k: torch.tensor(v) for k, v in (options.pop("null", None) or {}).items()}
        return from_latent(place, null=null, **options)


def _listed(value: Tensor | float) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _part(
    diffusers: Any, model: FilePath | str, names: tuple[str, ...], options: dict[str, Any]
) -> Any:
    """The first of some parts that a pipeline has.

    Raises:
        OSError: if it has none of them.
    """
    for name in names:
        try:
            config = diffusers.AutoencoderKL.load_config(model, subfolder=name, **options)
        except OSError:
            continue
        kind = named_class(diffusers, config.get("_class_name"), diffusers.ModelMixin)
        if kind is None:
            raise ValueError(
                f"model: expected a network in {name}, got {config.get('_class_name')!r}"
            )
        part = kind.from_pretrained(model, subfolder=name, **{**options, **_FIXED})
        return part.eval().requires_grad_(False)
    raise OSError(f"model: expected a pipeline with a part {' or '.join(names)}, got {model}")


def _shape(vae: Any, network: Any, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """Shape of one latent, (C, H, W)."""
    channels, factor = vae.latent_channels, 2 ** (len(vae.block_out_channels) - 1)
    if network.in_channels != channels:
        raise ValueError(
            f"model: expected a network of {channels} channels, those of the latents, "
            f"got {network.in_channels}; one that takes a mask is no prior"
        )
    if size is None:
        own = network.sample_size
        if own is None:
            raise ValueError(
                "size: the model's config has no sample_size, pass size=(height, width)"
            )
        height, width = (own, own) if isinstance(own, int) else own
        return (channels, height, width)
    height, width = (size, size) if isinstance(size, int) else size
    if height % factor or width % factor:
        raise ValueError(f"size: expected multiples of {factor} pixels, got {height, width}")
    return (channels, height // factor, width // factor)


def _conditions(kind: str, config: Any) -> dict[str, dict[str, Any]]:
    """The conditions that a network takes, with their limits, as a card lists them."""
    found: dict[str, dict[str, Any]] = {}
    wide = config.get("cross_attention_dim") or config.get("joint_attention_dim")
    attends = any("CrossAttn" in block for block in config.get("down_block_types") or ())
    if kind == "SD3Transformer2DModel" or (kind == "UNet2DConditionModel" and wide and attends):
        found["text"] = {}
    if kind == "SD3Transformer2DModel" or config.get("addition_embed_type") == "text_time":
        found["pooled"] = {}
    if config.get("addition_embed_type") == "text_time":
        found["time_ids"] = {}
    if kind == "DiTTransformer2DModel":
        classes = config.num_embeds_ada_norm
        found["label"] = {"classes": classes, "null": classes}
    elif config.get("num_class_embeds"):
        found["label"] = {"classes": config.num_class_embeds}
    return found
