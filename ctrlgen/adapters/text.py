"""Text for latent image models: hidden states of a pipeline's own text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from ctrlgen.adapters.diffusers import named_class
from ctrlgen.extras import require

__all__ = ["encode_text"]


def encode_text(
    model: FilePath | str, prompts: Sequence[str], *, device: Any = "cpu", **options: Any
) -> dict[str, Tensor]:
    """The condition `text` of prompts, by a pipeline's own tokenizer and text encoder.

    Args:
        model: a local folder or a hub id of a pipeline with `tokenizer` and `text_encoder`.
        prompts: one per sample.
        device: where the text encoder runs.
        **options: to transformers' `from_pretrained`, e.g. `revision`, `token`.

    Returns:
        {"text": hidden states, shape (B, L, D), float32, on the device}.

    Raises:
        MissingExtra: if transformers is not installed.
        ValueError: for prompts that are no list of strings.
    """
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f"prompts: expected a list of strings, one per sample, got {prompts!r}")
    transformers = require("transformers", extra="hub")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, subfolder="tokenizer", **options)
    config = transformers.AutoConfig.from_pretrained(model, subfolder="text_encoder", **options)
    architecture = (config.architectures or ["CLIPTextModel"])[0]
    kind = named_class(transformers, architecture, transformers.PreTrainedModel)
    if kind is None:
        raise ValueError(f"model: expected a text encoder, got {architecture!r}")
    encoder = kind.from_pretrained(
        model, subfolder="text_encoder", config=config, use_safetensors=True, **options
    )
    encoder = encoder.to(device).eval()
    limit = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=min(limit, tokenizer.model_max_length),
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return {"text": encoder(tokens.input_ids.to(device))[0].float()}
