r"""Model cards: how a prior is kept on disk.

A prior is a card, `<name>.json`, beside its weights, `<name>.safetensors`. The card says how to
rebuild it (factory of the network with its arguments, path, prediction, source, codec), where it
comes from (data, recipe, command, licence), how good it is (measured quality), and the sha256 of
the weights, which is checked at every load. Nothing is unpickled, and files are written whole or
not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path as FilePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from ctrlgen.errors import CardError

__all__ = ["Card", "load_weights", "write_whole"]


@dataclass
class Card:
    """What is known of a prior; every field is JSON.

    Attributes:
        name: how `ctrlgen.load` finds it.
        domain: "images", ...
        factory: "module:function" that builds the network from `config`.
        config: keyword arguments of the factory.
        path: {"type": class of ctrlgen.paths or "module:Class", **arguments}.
        prediction: what the network predicts.
        source: {"type": class of ctrlgen.sources or "module:Class", **arguments}.
        codec: {"type": class of ctrlgen.codecs or "module:Class", **arguments}.
        grid: {"type": class of ctrlgen.grids or "module:Class", **arguments but `steps`}: where
            the steps of a solver lie unless the user says otherwise.
        conditions: {name: limits}; limits of a label are "classes", their number, and "null", the
            value that means none; of another integer "least" and "most".
        data: training data, with the name and version of its package.
        recipe: how it was trained.
        command: the command that trains it again.
        quality: measured numbers, each with the command that printed it; "summary" in words.
        licence: of the weights.
        weights: file name of the weights.
        sha256: of the weights.
    """

    name: str
    domain: str
    factory: str
    config: dict[str, Any]
    path: dict[str, Any]
    prediction: str
    source: dict[str, Any]
    codec: dict[str, Any] = field(default_factory=lambda: {"type": "Identity"})
    grid: dict[str, Any] = field(default_factory=lambda: {"type": "Uniform"})
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: Any = ""
    recipe: Any = ""
    command: str = ""
    quality: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    weights: str = ""
    sha256: str = ""
    format_version: int = 1

    @classmethod
    def read(cls, file: FilePath | str) -> Card:
        """A card from its file.

        Raises:
            CardError: if it is not JSON, misses a field or has one of another kind, or is of a
                newer format.
        """
        file = FilePath(file)
        try:
            content = json.loads(file.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CardError(f"card {file}: expected a JSON file ({error})") from error
        if not isinstance(content, dict):
            raise CardError(f"card {file}: expected a JSON object, got {type(content).__name__}")
        version = content.get("format_version", 1)
        if version != 1:
            raise CardError(f"card {file}: expected format_version 1, got {version}")
        known = {f.name for f in fields(cls)}
        try:
            card = cls(**{key: value for key, value in content.items() if key in known})
        except TypeError as error:
            raise CardError(f"card {file}: {error}") from error
        for name in ("config", "path", "source", "codec", "grid", "conditions", "quality"):
            if not isinstance(getattr(card, name), dict):
                raise CardError(
                    f"card {file}: {name}: expected an object, got {getattr(card, name)!r}"
                )
        return card

    def write(self, file: FilePath | str) -> None:
        """Write the card, whole or not at all."""
        write_whole(FilePath(file), self.to_json())

    def to_json(self) -> bytes:
        """The card as it is written.

        Raises:
            CardError: if a field cannot be written as JSON.
        """
        try:
            return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()
        except (TypeError, ValueError) as error:
            raise CardError(f"card {self.name}: a field is not JSON ({error})") from error


def load_weights(network: torch.nn.Module, card: Card, folder: FilePath) -> None:
    """Load a card's weights into its network, after checking their sha256.

    Raises:
        CardError: if the file is missing, damaged, or holds other tensors than the network.
    """
    file = folder / card.weights
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise CardError(f"weights of {card.name}: cannot read {file} ({error})") from error
    found = hashlib.sha256(payload).hexdigest()
    if found != card.sha256:
        raise CardError(
            f"weights of {card.name}: expected sha256 {card.sha256}, got {found} in {file}"
        )
    try:
        network.load_state_dict(load_tensors(payload))
    except (SafetensorError, RuntimeError) as error:
        raise CardError(f"weights of {card.name}: {error}") from error


def write_whole(file: FilePath, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
