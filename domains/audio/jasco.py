r"""JASCO of audiocraft as a prior (Tal et al., arXiv 2406.10970): a flow on EnCodec's latents.

    from audiocraft.models import JASCO                  # installed by you, see below
    model = JASCO.get_pretrained("facebook/jasco-chords-drums-400M")
    prior = from_jasco(model)                            # or from_jasco(model, text="slow piano")

It has the shapes of D-Flow's unreleased prior of music: straight paths with the noise at t = 0,
10 s at 32 kHz as 500 frames of 128 numbers, z = (encoder(x) + 0.0074) / 4.0102. Its own `generate`
builds no gradients and works in half precision; here the velocity network is called itself, in
float32, with the tensors of its conditions made once: those of no condition at all, or of a text,
each without chords, drums and melody.

audiocraft pins libraries that are years old: `pip install --no-deps audiocraft`, and what its
import asks for, is the way beside a current torch. Its checkpoints are pickles, which run code as
they load; its weights are CC-BY-NC 4.0. Ask it for torch's attention first:

    audiocraft.modules.transformer.set_efficient_attention_backend("torch")

A prior of this size is for a GPU: decoding 10 s and back takes some 10 s on a core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.domains.audio.encodec import EnCodec
from ctrlgen.domains.audio.states import LatentCodec
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian

__all__ = ["JascoVelocity", "from_jasco"]

_PARTS = (
    "lm", "compression_model", "cfg", "duration", "_prepare_tokens_and_attributes",
    "_prepare_temporal_conditions",
)  # fmt: skip

Conditions = Mapping[str, tuple[Tensor, Tensor]]
"""Embedding and mask of each condition, one row."""


class JascoVelocity(nn.Module):
    """audiocraft's `FlowMatchingModel` with conditions that were made before.

    Args:
        model: the network; frozen, in float32.
        conditions: tensors of one row, as its condition provider returns them.
    """

    def __init__(self, model: nn.Module, conditions: Conditions) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.conditions = {
            name: (value.detach().float(), mask.detach())
            for name, (value, mask) in conditions.items()
        }

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, T, D) of states x at times t (B,)."""
        tensors = {
            name: tuple(part.to(x.device).expand(len(x), *part.shape[1:]) for part in pair)
            for name, pair in self.conditions.items()
        }
        velocity: Tensor = self.model(x, t, conditions=[], condition_tensors=tensors)
        return velocity


@torch.no_grad()
def conditions_of(model: Any, text: str | None) -> Conditions:
    """Tensors of the null condition, or of a text, without chords, drums and melody."""
    attributes, _ = model._prepare_tokens_and_attributes(descriptions=[text or ""], prompt=None)
    frames = math.ceil(model.duration * model.compression_model.frame_rate)
    attributes = model._prepare_temporal_conditions(
        attributes=attributes,
        expected_length=frames,
        chords=None,
        drums_wav=None,
        salience_matrix=None,
    )
    lm = model.lm
    # The terms of guidance: all conditions first, none of them last.
    _, terms = lm._multi_source_cfg_preprocess(attributes, 0.0, 0.0)
    chosen = attributes if text is not None else terms[-1].conditions
    provider = lm.condition_provider
    tensors: Conditions = provider(provider.tokenize(chosen))
    if not tensors:
        raise ValueError("model: its condition provider gave no tensors; the network needs some")
    return tensors


def from_jasco(model: Any, text: str | None = None) -> Prior:
    """A prior of music from a JASCO model.

    Args:
        model: `audiocraft.models.JASCO`, loaded.
        text: what the music is like; None for the unconditional prior.

    Returns:
        States (500, 128) for a model of 10 s, signals (B, 1, 320000) at 32 kHz.

    Raises:
        TypeError: it lacks what a JASCO model has; named.
        ValueError: its codec is not of one channel, or no condition tensors come of it.
    """
    for name in _PARTS:
        if not hasattr(model, name):
            raise TypeError(
                f"model: expected audiocraft's JASCO, {type(model).__name__} has no {name}"
            )
    compression, config = model.compression_model, model.cfg
    frames = math.ceil(model.duration * compression.frame_rate)
    features = int(model.lm.flow_dim)
    shell = nn.Module()
    shell.encoder, shell.decoder = compression.model.encoder, compression.model.decoder
    hop = round(compression.sample_rate / compression.frame_rate)
    about: Any = SimpleNamespace(
        sampling_rate=compression.sample_rate,
        hidden_size=features,
        upsampling_ratios=[hop],
        audio_channels=compression.channels,
    )
    shell.config = about
    codec = LatentCodec(
        EnCodec(shell.float()),
        torch.full((features,), float(config.compression_model_latent_mean)),
        torch.full((features,), float(config.compression_model_latent_std)),
    )
    velocity = JascoVelocity(model.lm, conditions_of(model, text))
    return Prior(Flow(velocity, CondOT()), Gaussian((frames, features)), codec=codec)
