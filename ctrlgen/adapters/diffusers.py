r"""diffusers' `UNet2DModel` with its scheduler config, from a local folder or a hub id, as a prior.

A scheduler of the DDPM family gives the table ᾱ_i = Π_{j≤i} (1 − β_j), read as the path
`DiscreteVP`; the network is given the index i = (1 − t)(T − 1), fractional between the entries of
the table or rounded to the nearest. `FlowMatchEulerDiscreteScheduler` is straight lines,
x_σ = (1 − σ) x_1 + σ x_0 with the network predicting x_0 − x_1, our velocity with the other sign,
and given T σ with σ = 1 − t. Schedulers' sampling options (spacing, thresholds, shifts of the
time grid) have no part in the prior: a solver chooses its own grid.

Images are in [-1, 1], the range of these models. Weights are read from safetensors only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from ctrlgen.adapters.callables import CallableNetwork
from ctrlgen.extras import require
from ctrlgen.priors.flows import Flow, Kind
from ctrlgen.priors.paths import CondOT, DiscreteVP
from ctrlgen.priors.prior import Card, Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.priors.weights import bounded
from ctrlgen.rows.errors import CardError, short

__all__ = ["from_diffusers", "rebuild", "scheduled_flow"]

KEPT = ("scheduler", "rounded", "size", "revision", "variant")
"""Options that a card keeps."""

_PREDICTIONS: dict[str, Kind] = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}


def from_diffusers(
    model: FilePath | str,
    *,
    scheduler: Mapping[str, Any] | None = None,
    rounded: bool = False,
    size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Prior:
    """The prior of a `UNet2DModel`; a class-conditional one takes the condition `label`.

    Args:
        model: a local folder or a hub id, of a pipeline (with subfolders `unet` and `scheduler`)
            or of the model alone.
        scheduler: its scheduler's config; by default the one beside the model.
        rounded: give the network the nearest integer index instead of the fractional one. Needed
            where it embeds time by a learned table.
        size: height and width in pixels; by default those of the model's config.
        **options: to diffusers' `from_pretrained`, e.g. `revision`, `variant`, `token`.

    Raises:
        MissingExtra: if diffusers is not installed.
        ValueError: for a scheduler, prediction type or time embedding that has no path here.
        OSError: if the model cannot be found, or has no safetensors.
    """
    diffusers = require("diffusers", extra="hub")
    given = None if scheduler is None else dict(scheduler)
    folder = _part(diffusers, model, "unet", options)
    fixed = {"use_safetensors": True, "low_cpu_mem_usage": False}  # needs no accelerate
    unet = diffusers.UNet2DModel.from_pretrained(model, subfolder=folder, **{**options, **fixed})
    unet = unet.eval().requires_grad_(False)
    if scheduler is None:
        scheduler = diffusers.DDPMScheduler.load_config(
            model, subfolder=_part(diffusers, model, "scheduler", options), **options
        )
    config = unet.config
    if config.time_embedding_type == "learned" and not rounded:
        raise ValueError("rounded: this model embeds integer indices only, pass rounded=True")
    shape = _shape(config, size)
    flow = scheduled_flow(diffusers, unet, scheduler, rounded)
    labels = {"label": {"classes": config.num_class_embeds}} if config.num_class_embeds else {}
    source = Gaussian(shape)
    rebuild = {"scheduler": given, "rounded": rounded, "size": size, **options}
    return Prior(flow, source, card=model_card(model, __name__, rebuild, flow, source, labels))


def rebuild(folder: FilePath, model: str, **options: Any) -> Prior:
    """The prior of a card: `from_diffusers` of the folder or hub id that it names.

    Args:
        folder: of the card.
        model: a folder, from there or absolute, or a hub id.
        **options: `scheduler`, `rounded`, `size`, `revision`, `variant`.

    Raises:
        CardError: for another option, a model that is neither, or one that is larger than its
            weights.
    """
    with located(folder, model, options, KEPT) as place:
        return from_diffusers(place, **options)


@contextmanager
def located(
    folder: FilePath, model: Any, options: Mapping[str, Any], names: Sequence[str]
) -> Iterator[FilePath | str]:
    """The folder or hub id that a card names; within it, no network outgrows its weights.

    Args:
        folder: of the card.
        model: what it names.
        options: that it gives.
        names: of those that it may give.

    Raises:
        CardError: for what is neither, or another option.
    """
    for name in options:
        if name not in names:
            raise CardError(f"expected options among {', '.join(names)}, got {short(name)}")
    place = folder / model if isinstance(model, str) and model.isprintable() and model else None
    if place is not None and place.is_dir():
        size = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
        with bounded(10_000, size):
            yield place
    elif isinstance(model, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model, re.ASCII):
        yield model
    else:
        raise CardError(f"model: there is no folder {short(model)}, and it is no hub id")


def model_card(
    model: FilePath | str,
    adapter: str,
    options: Mapping[str, Any],
    flow: Flow,
    source: Gaussian,
    conditions: dict[str, Any],
    **more: Any,
) -> Card:
    """What is known of a model that its own library builds: its card names the adapter.

    Args:
        model: folder or hub id.
        adapter: module whose `rebuild` makes the prior of `model` and `options`.
        options: of the adapter; a card does not keep those of a download, like a token.
        flow: of its network.
        source: of its states.
        conditions: that it takes.
        **more: further fields of the card.
    """
    kept = {k: v for k, v in options.items() if k in (*KEPT, "guidance", "null") and v}
    place = str(FilePath(model).resolve()) if FilePath(model).is_dir() else str(model)
    return Card(
        name=str(model),
        domain="images",
        factory=f"{adapter}:rebuild",
        config={"model": place, **kept},
        path={"type": type(flow.path).__name__, **flow.path.config()},
        prediction=flow.kind,
        source={"type": "Gaussian", **source.config()},
        conditions=conditions,
        **more,
    )


def _part(diffusers: Any, model: FilePath | str, name: str, options: dict[str, Any]) -> str:
    """The subfolder of a pipeline that holds a part; none where the model stands alone."""
    if FilePath(model).is_dir():
        return name if (FilePath(model) / name).is_dir() else ""
    kind = diffusers.UNet2DModel if name == "unet" else diffusers.DDPMScheduler
    try:
        kind.load_config(model, subfolder=name, **options)
    except OSError:
        return ""
    return name


def _shape(config: Any, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """Shape of one image, (C, H, W)."""
    size = size or config.sample_size
    if size is None:
        raise ValueError("size: the model's config has no sample_size, pass size=(height, width)")
    height, width = (size, size) if isinstance(size, int) else size
    return (config.in_channels, height, width)


def scheduled_flow(
    diffusers: Any, unet: torch.nn.Module, config: Mapping[str, Any], rounded: bool
) -> Flow:
    """The flow that a scheduler's config makes of a network.

    Args:
        diffusers: the package.
        unet: called with states, the network's own times and conditions; what it returns has the
            prediction as `sample`.
        config: of the scheduler.
        rounded: whether times are rounded to integers.

    Raises:
        ValueError: for a scheduler or prediction type that has no path here.
    """
    name = config.get("_class_name", "DDPMScheduler")
    kind = named_class(diffusers, name, diffusers.SchedulerMixin)
    # diffusers ignores the values of keys in this list, even those that a caller has changed.
    config = {key: value for key, value in config.items() if key != "_use_default_values"}
    scheduler: Any = None if kind is None else kind.from_config(config)
    rename = {"label": "class_labels"}
    if name == "FlowMatchEulerDiscreteScheduler":
        steps = scheduler.config.num_train_timesteps
        network = CallableNetwork(
            unet,
            time=_rounded(lambda t: steps * (1 - t), rounded),
            output=lambda result: -result.sample,
            rename=rename,
        )
        return Flow(network, CondOT(), "velocity")
    if not hasattr(scheduler, "betas"):
        raise ValueError(
            "scheduler: expected one of the DDPM family or FlowMatchEulerDiscreteScheduler, "
            f"got {name}"
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(
            f"prediction_type: expected one of {', '.join(_PREDICTIONS)}, got {prediction!r}"
        )
    path = DiscreteVP(torch.cumprod(1 - scheduler.betas.double(), 0))
    network = CallableNetwork(
        unet, time=_rounded(path.index, rounded), output=attrgetter("sample"), rename=rename
    )
    return Flow(network, path, _PREDICTIONS[prediction])


def named_class(library: Any, name: Any, base: type) -> Any:
    """The class of a library that a config names; None for anything that is no such class."""
    kind = getattr(library, name, None) if isinstance(name, str) else None
    return kind if isinstance(kind, type) and issubclass(kind, base) else None


def _rounded(time: Any, rounded: bool) -> Any:
    def integer(t: Tensor) -> Tensor:
        return time(t).round().long()

    return integer if rounded else time
