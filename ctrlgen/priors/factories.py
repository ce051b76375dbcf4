r"""What a card describes, built: its network, path, source and codec.

Names resolve to trusted code only (`ctrlgen.priors.trust`), a network is no larger than its weights
(`ctrlgen.priors.weights`) and a state no larger than a machine can hold; whatever else goes wrong
is one `CardError` that names the field.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import torch

from ctrlgen.priors.cards import Card
from ctrlgen.priors.sources import Source
from ctrlgen.priors.trust import Trust, resolve
from ctrlgen.priors.weights import Weights
from ctrlgen.rows.errors import CardError, MissingExtra, UnknownName, short

__all__ = ["call", "check_state", "module_of", "network_of", "part_of"]

_LARGEST = 2**25  # numbers of one state
_NO_SUCH = re.compile(r"\w+\(\) (got an unexpected keyword argument|missing \d+ required)")


def network_of(card: Card, folder: FilePath, trust: Trust = None) -> torch.nn.Module:
    """The network of a card, with the weights that lie beside it.

    Args:
        card: what is known.
        folder: of the card.
        trust: packages that the card may name beside ctrlgen and installed domains.

    Raises:
        CardError: if the card names what is not trusted or does not fit, or its weights are
            missing, damaged or those of another network.
    """
    try:
        factory = resolve(card.factory, torch.nn.Module, "factory", trust)
        weights = Weights.read(card.name, folder, card.weights, card.sha256)
        network = module_of(card, factory, weights)
        weights.fill(network)
    except CardError as error:
        raise CardError(f"card {card.name}: {error}") from error
    return network


def module_of(card: Card, factory: Callable[..., Any], weights: Weights) -> torch.nn.Module:
    """The network that a factory builds from a card's config, no larger than its weights.

    Raises:
        CardError: if it does not take the config, or makes something else.
    """
    most = max(_LARGEST, sum(value.numel() for value in weights.tensors.values()))
    if any(abs(number) > most for number in _integers(card.config)):
        raise CardError(f"config: expected integers up to {most:,}, got {short(card.config)}")
    with weights.bounds():
        network = call(factory, card.config, "config")
    if not isinstance(network, torch.nn.Module):
        raise CardError(f"factory: expected a torch module, got {type(network).__name__}")
    return network


def _integers(value: Any) -> Iterator[int]:
    """The integers somewhere in JSON."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _integers(part)
    elif isinstance(value, int):
        yield value


def part_of(
    module: ModuleType, kind: type, argument: str, description: dict[str, Any], trust: Trust
) -> Any:
    """The path, source or codec that a card describes, checked against its base class.

    Args:
        module: of the core, with the classes that a bare name may mean.
        kind: base class.
        argument: field of the card.
        description: {"type": name, **arguments}.
        trust: packages that the card may name beside ctrlgen and installed domains.

    Raises:
        CardError: for an unknown or untrusted type, or arguments that do not fit.
    """
    name = description.get("type", "")
    if isinstance(name, str) and ":" not in name:
        names = [n for n in module.__all__ if _concrete(getattr(module, n), kind)]
        if name not in names:
            raise CardError(
                f"{argument}: {module.__name__} has no {short(name)}; it has {', '.join(names)}; "
                'others are "module:Class"'
            )
        made = getattr(module, name)
    else:
        made = resolve(name, kind, argument, trust)
    part = call(made, {k: v for k, v in description.items() if k != "type"}, f"{argument}: {name}")
    if not isinstance(part, kind):
        raise CardError(f"{argument}: expected a {kind.__name__}, got {type(part).__name__}")
    return part


def _concrete(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)


def check_state(source: Source) -> None:
    """Raise CardError for a source whose states no machine holds."""
    shape = source.shape
    if math.prod(shape) > _LARGEST:
        raise CardError(
            f"source: expected states of at most {_LARGEST:,} numbers, got shape {short(shape)}"
        )


def call(factory: Callable[..., Any], arguments: dict[str, Any], what: str) -> Any:
    """What a factory makes of arguments out of a card.

    Raises:
        CardError: if it does not take them; names `what`, and says why where the factory does.
        MissingExtra: if it needs an optional dependency that is not installed.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise CardError(f"{what}: {_name(factory)}: {error}") from error
    except ValueError:  # it tells no signature
        pass
    try:
        return factory(**arguments)
    except (CardError, MissingExtra):
        raise
    except (ValueError, UnknownName) as error:
        raise CardError(f"{what}: {error}") from error
    except Exception as error:
        known = isinstance(error, TypeError) and _NO_SUCH.search(str(error))
        told = str(error) if known else f"expected arguments for {_name(factory)}"
        raise CardError(f"{what}: {told}, got {short(arguments)}") from error


def _name(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}:{getattr(factory, '__name__', 'a factory')}"
