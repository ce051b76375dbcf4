r"""Priors of the guided-diffusion family (Dhariwal & Nichol, arXiv 2105.05233), from their weights.

The U-Net "ADM" (`ctrlgen.adapters.adm_network`) is what most published pixel priors are: FFHQ-256
of DPS, ImageNet at 64 to 256, LSUN, and, trained by flow matching, the networks of torchcfm. Their
weights load as they are once they are safetensors:

    import torch
    from safetensors.torch import save_file
    state = torch.load("ffhq_10m.pt", map_location="cpu", weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, "ffhq_10m.safetensors")

    prior = from_adm("ffhq_10m.safetensors", "ffhq-256")

A diffusion network is given the index i = (1 − t)(T − 1) and predicts the noise (its learned
variance, three more channels, is left out); one of a flow is given t and predicts the velocity on
straight lines (`clock="flow"`). Images are in [−1, 1]. `prior.save(folder, name)`
makes a card of it, which every command takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from safetensors.torch import load_file

from ctrlgen.adapters.adm_network import ADM
from ctrlgen.priors.flows import Flow, Kind
from ctrlgen.priors.paths import CondOT, DiscreteVP, Path
from ctrlgen.priors.prior import Card, Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import UnknownName

__all__ = ["ADM", "MODELS", "cosine_table", "from_adm"]

_SHARED: dict[str, Any] = {
    "attention": (32, 16, 8),
    "blocks": 2,
    "head_channels": 64,
    "scale_shift": True,
    "residual_resampling": True,
}
_AT_256 = {**_SHARED, "size": 256, "width": 256, "widths": (1, 1, 2, 2, 4, 4)}

MODELS: dict[str, dict[str, Any]] = {
    "ffhq-256": {**_AT_256, "width": 128, "blocks": 1, "attention": (16,)},
    "imagenet-64": {
        **_SHARED,
        "size": 64,
        "width": 192,
        "widths": (1, 2, 3, 4),
        "blocks": 3,
        "classes": 1000,
        "new_attention": True,
        "schedule": "cosine",
    },
    "imagenet-128": {
        **_SHARED,
        "size": 128,
        "width": 256,
        "widths": (1, 1, 2, 3, 4),
        "head_channels": None,
        "heads": 4,
        "classes": 1000,
    },
    "imagenet-256": _AT_256,
    "imagenet-256-labels": {**_AT_256, "classes": 1000},
    "lsun-256": _AT_256,
}
"""Settings of published weights by name: those of guided-diffusion, and FFHQ-256 of DPS."""


def cosine_table(steps: int = 1000) -> DiscreteVP:
    """ᾱ of the cosine schedule (Nichol & Dhariwal, arXiv 2102.09672), β at most 0.999."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    bars = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - bars[1:] / bars[:-1]).clamp_max(0.999)
    return DiscreteVP(torch.cumprod(1 - betas, 0))


def from_adm(weights: FilePath | str, model: str | Mapping[str, Any], **changes: Any) -> Prior:
    """The prior of published weights, converted to safetensors; the network is not to be trained.

    Args:
        weights: a .safetensors file with the names of the published weights.
        model: a name among `MODELS`, or the arguments of `ADM`.
        **changes: arguments of `ADM` to set otherwise, e.g. `clock="flow", variance=False`.

    Raises:
        UnknownName: for a name that is not among the models.
        ValueError: for a file that is no safetensors, or weights of another network.
    """
    if isinstance(model, str) and model not in MODELS:
        raise UnknownName("model", model, MODELS)
    config = {**(MODELS[model] if isinstance(model, str) else model), **changes}
    file = FilePath(weights)
    if file.suffix != ".safetensors":
        raise ValueError(
            f"weights: expected a .safetensors file, got {file.name}; the documentation of "
            "ctrlgen.adapters.adm has the lines that convert"
        )
    with torch.device("meta"):
        network = ADM(**config)
    state = load_file(file)
    wanted = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if wanted != found:
        wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        raise ValueError(
            f"weights: {len(wrong)} tensors of {file.name} are not those of the model, e.g. "
            f"{wrong[0]}: expected {wanted.get(wrong[0])}, got {found.get(wrong[0])}"
        )
    network.load_state_dict(state, assign=True)
    network.float().eval().requires_grad_(False)
    kind: Kind = "velocity" if config.get("clock") == "flow" else "noise"
    path: Path = CondOT() if kind == "velocity" else _table(config)
    source = Gaussian((network.channels, config["size"], config["size"]))
    classes = config.get("classes")
    card = Card(
        name=file.stem,
        domain="images",
        factory="ctrlgen.adapters.adm:ADM",
        config={k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
        path={"type": type(path).__name__, **path.config()},
        prediction=kind,
        source={"type": "Gaussian", **source.config()},
        conditions={} if classes is None else {"label": {"classes": classes}},
    )
    return Prior(Flow(network, path, kind), source, card=card)


def _table(config: Mapping[str, Any]) -> DiscreteVP:
    """ᾱ of a diffusion network's schedule; linear β from 0.1/T to 20/T."""
    steps = config.get("steps", 1000)
    if config.get("schedule", "linear") == "cosine":
        return cosine_table(steps)
    return DiscreteVP.linear(steps, 0.1 / steps, 20 / steps)
