r"""Priors on disk: written as a card beside their weights, read back from it, listed.

What a card says is checked before anything is built from it: its fields (`ctrlgen.priors.cards`),
the code that it names (`ctrlgen.priors.trust`), its weights (`ctrlgen.priors.weights`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path as FilePath
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ctrlgen import plugins
from ctrlgen.priors import codecs, paths, sources
from ctrlgen.priors.cards import Card
from ctrlgen.priors.codecs import Codec
from ctrlgen.priors.documents import plain_name, write_whole
from ctrlgen.priors.factories import call, check_state, module_of, part_of
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Path
from ctrlgen.priors.pins import PinnedFlow
from ctrlgen.priors.sources import Source
from ctrlgen.priors.trust import ADAPTERS, Trust, resolve
from ctrlgen.priors.weights import Weights, content_hash
from ctrlgen.rows.checks import check_device, check_dtype
from ctrlgen.rows.errors import CardError, UnknownName, short
from ctrlgen.sampling import grids
from ctrlgen.sampling.grids import Grid

if TYPE_CHECKING:
    from ctrlgen.priors.prior import Prior

__all__ = ["available", "load", "save"]


def save(
    prior: Prior,
    folder: FilePath | str,
    name: str,
    *,
    factory: str | None = None,
    config: dict[str, Any] | None = None,
    overwrite: bool = False,
    **card: Any,
) -> FilePath:
    """Write a prior as a card and weights; see `Prior.save`."""
    if isinstance(prior.flow, PinnedFlow):
        raise CardError("flow: a card does not say what is pinned; save the prior without it")
    if not isinstance(prior.flow.network, torch.nn.Module):
        raise CardError(
            f"network: expected a torch module, got {type(prior.flow.network).__name__}"
        )
    if prior.flow.native is not prior.flow.path:
        raise CardError(
            f"flow: a card states the path of training, {prior.flow.native}, but the flow is "
            f"read on {prior.flow.path}; save it as it was before `on`"
        )
    if not plain_name(name):
        raise CardError(f"name: expected a plain name of a file, got {short(name)}")
    held = prior.card or Card("", "user", "", {}, {}, "", {})
    factory, config = factory or held.factory, held.config if config is None else config
    if not factory:
        raise CardError("factory: expected 'module:function' that builds the network, got none")
    written = Card(
        **{
            **asdict(held),
            "name": name,
            "factory": factory,
            "config": config,
            **_parts(prior),
            "weights": f"{name}.safetensors",
            **card,
        }
    )
    tensors = _tensors(prior)
    payload = None
    if factory in ADAPTERS:
        written.weights, written.sha256 = "", content_hash(tensors)
    else:
        payload = save_tensors(tensors)
        written.sha256 = hashlib.sha256(payload).hexdigest()
    content = written.to_json()
    folder = FilePath(folder)
    files = [folder / f"{name}.json", *([folder / written.weights] if payload else [])]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise CardError(f"name: {there[0]} is there already; overwrite=True replaces it")
    if payload is not None:
        parts = (written.path, written.source, written.codec, written.grid)
        named = (factory, *(part["type"] for part in parts))
        trust = {text.partition(":")[0] for text in named if ":" in text}
        _check_rebuilds(written, tensors, trust)
    folder.mkdir(parents=True, exist_ok=True)
    if payload is not None:
        write_whole(folder / written.weights, payload)
    write_whole(folder / f"{name}.json", content)
    return folder / f"{name}.json"


def available() -> dict[str, Card]:
    """The cards of all priors of the installed domains, by name."""
    cards = {name: Card.read(file) for name, file in plugins.cards().items()}
    return {name: card for name, card in cards.items() if card.path}


def load(
    name: str | FilePath,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    trust: Trust = None,
) -> Prior:
    """A prior by the name of an installed one, or by the path of a card.

    Its network is in evaluation mode and its parameters need no gradient.

    Args:
        name: e.g. "mnist", or a path that ends in .json.
        device: where the network goes.
        dtype: of the network's parameters.
        trust: packages of yours that the card may name beside ctrlgen and installed domains; they
            are imported and run with your rights (`ctrlgen.priors.trust`).

    Raises:
        UnknownName: if no installed domain has it; lists those that exist.
        CardError: if the card or the weights are damaged, or name code that is not trusted.
    """
    if not isinstance(name, str | FilePath) or "\0" in str(name):
        raise TypeError(f"name: expected that of a prior, or the path of a card, got {short(name)}")
    check_device(device)
    check_dtype(dtype)
    file = FilePath(name)
    if file.suffix != ".json":
        cards = plugins.cards()
        if str(name) not in cards:
            raise _unknown(str(name))
        file = cards[str(name)]
    card = Card.read(file)
    if not card.path:
        raise UnknownName("prior", str(name), available())
    try:
        if card.factory in ADAPTERS:
            prior = _adapted(card, file.parent)
        else:
            factory = resolve(card.factory, torch.nn.Module, "factory", trust)
            weights = Weights.read(card.name, file.parent, card.weights, card.sha256)
            prior = _assemble(card, factory, weights, trust)
            weights.fill(prior.flow.network)  # type: ignore[arg-type]
    except CardError as error:
        raise CardError(f"card {card.name}: {error}") from error
    network: Any = prior.flow.network
    network.to(device, dtype).eval().requires_grad_(False)
    if prior.codec.named:  # its networks are loaded with it, and go where the prior's does
        for part in vars(prior.codec).values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
    return prior


def _unknown(name: str) -> UnknownName:
    """The error of a prior that no card tells of; a network that can be trained is told apart."""
    error = UnknownName("prior", name, available())
    for domain in plugins.domains().values():
        if name in domain.recipes:
            error.args = (
                f"{error}; {name} comes without weights: `ctrlgen train {domain.name}/{name}` "
                "makes them, and its card can be loaded by its path",
            )
    return error


def _assemble(
    card: Card, factory: Callable[..., Any], weights: Weights, trust: Trust = None
) -> Prior:
    """The prior that a card describes, its network as the factory makes it.

    Raises:
        CardError: if the card names something unknown, or arguments that do not fit.
    """
    path = part_of(paths, Path, "path", card.path, trust)
    source = part_of(sources, Source, "source", card.source, trust)
    codec = part_of(codecs, Codec, "codec", card.codec, trust)
    grid = part_of(grids, Grid, "grid", card.grid, trust)
    check_state(source)
    network = module_of(card, factory, weights)
    from ctrlgen.priors.prior import Prior

    try:
        flow = Flow(network, path, card.prediction)  # type: ignore[arg-type]
        return Prior(flow, source, codec, card=card, grid=grid)
    except ValueError as error:
        raise CardError(str(error)) from error


def _adapted(card: Card, folder: FilePath) -> Prior:
    """The prior that an adapter makes of a model of another library.

    Raises:
        CardError: if it is not the model that was saved.
    """
    from ctrlgen.priors.prior import Prior

    factory = resolve(card.factory, Prior, "factory")
    if "folder" in card.config:
        raise CardError("config: folder: expected to be left out: it is that of the card")
    prior: Prior = call(factory, {**card.config, "folder": folder}, "config")
    if content_hash(_tensors(prior)) != card.sha256:
        raise CardError("sha256: the model is not the one that was saved")
    for name, value in _parts(prior).items():
        if value != getattr(card, name):
            raise CardError(f"{name}: the card states another than its adapter makes")
    prior.card = card
    return prior


def _parts(prior: Prior) -> dict[str, Any]:
    """How a card describes path, prediction, source, codec and time grid."""
    return {
        "path": {"type": _type(paths, prior.flow.path), **prior.flow.path.config()},
        "prediction": prior.flow.kind,
        "source": {"type": _type(sources, prior.source), **prior.source.config()},
        "codec": {"type": _type(codecs, prior.codec), **prior.codec.config()},
        "grid": {"type": _type(grids, prior.grid), **prior.grid.config()},
    }


def _tensors(prior: Prior) -> dict[str, Tensor]:
    """Everything that a prior's network has learned, and its codec, by name."""
    parts = {"": prior.flow.network}
    if not prior.codec.named:
        held = vars(prior.codec).items()
        parts |= {f"{k}.": v for k, v in held if isinstance(v, torch.nn.Module)}
    return {
        f"{prefix}{key}": value.detach().cpu().contiguous().clone()
        for prefix, part in parts.items()
        for key, value in part.state_dict().items()  # type: ignore[attr-defined]
    }


def _check_rebuilds(card: Card, tensors: dict[str, Tensor], trust: set[str]) -> None:
    """Raise CardError where a card does not build a network that takes these tensors."""
    try:
        factory = resolve(card.factory, torch.nn.Module, "factory", trust)
        weights = Weights(card.name, tensors)
        network: Any = _assemble(card, factory, weights, trust).flow.network
        weights.fill(network)
    except ValueError as error:
        raise CardError(f"factory: {card.factory}(**config): {error}") from error


def _type(module: ModuleType, part: Any) -> str:
    """How a card names the class of a part: the core's by its name, others "module:Class"."""
    kind = type(part)
    if getattr(module, kind.__name__, None) is kind:
        return kind.__name__
    return f"{kind.__module__}:{kind.__qualname__}"
