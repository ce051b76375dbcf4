r"""Model cards: how a prior is kept on disk.

A prior is a card, `<name>.json`, beside its weights, `<name>.safetensors`. The card says how to
rebuild it (factory of the network with its arguments, path, prediction, source, codec), where it
comes from (data, recipe, command, licence), how good it is (measured quality), and the sha256 of
the weights, which is checked at every load (`ctrlgen.priors.weights`). What it names resolves to
trusted code only (`ctrlgen.priors.trust`), nothing is unpickled, and files are written whole or
not at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path as FilePath
from typing import Any

import torch

from ctrlgen.priors.documents import plain_name, read_object, write_whole
from ctrlgen.priors.weights import Weights
from ctrlgen.rows.errors import CardError, short

__all__ = ["Card", "load_weights", "write_whole"]

LARGEST = 4 * 2**20  # bytes of a card
_LIMITS = ("classes", "null", "least", "most")
_KINDS = {"str": (str, "text"), "dict": (dict, "an object"), "int": (int, "an integer")}


@dataclass
class Card:
    """What is known of a prior; every field is JSON.

    Attributes:
        name: how `ctrlgen.load` finds it.
        domain: "images", ...
        factory: "module:function" that builds the network from `config`; see
            `ctrlgen.priors.trust`.
        config: keyword arguments of the factory.
        path: {"type": class of ctrlgen.priors.paths or "module:Class", **arguments}.
        prediction: what the network predicts.
        source: {"type": class of ctrlgen.priors.sources or "module:Class", **arguments}.
        codec: {"type": class of ctrlgen.priors.codecs or "module:Class", **arguments}.
        grid: {"type": class of ctrlgen.sampling.grids or "module:Class", **arguments but `steps`}:
            where the steps of a solver lie unless the user says otherwise.
        conditions: {name: limits}; limits of a label are "classes", their number, and "null", the
            value that means none; of another integer "least" and "most".
        data: training data, with the name and version of its package.
        recipe: how it was trained.
        command: the command that trains it again.
        quality: measured numbers, each with the command that printed it; "summary" in words.
        licence: of the weights.
        weights: file name of the weights, in the card's folder; "" where the factory brings them
            from a model of another library.
        sha256: of the weights' file; of the tensors themselves where there is no such file.
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
        """A card from its file; nothing that it names is imported.

        Raises:
            CardError: if it is not strict JSON, misses a field, has one that is unknown or of
                another kind, or is of a newer format.
        """
        file = FilePath(file)
        try:
            content = read_object(file, LARGEST)
            version = content.get("format_version", 1)
            if type(version) is not int or version != 1:
                raise ValueError(f"expected format_version 1, got {short(version)}")
            names = {f.name: f for f in fields(cls)}
            for name in content:
                if name not in names:
                    raise ValueError(f"{short(name)} is no field of a card")
            for name, about in names.items():
                optional = (about.default, about.default_factory) != (MISSING, MISSING)
                if name not in content and not optional:
                    raise ValueError(f"{name}: is missing")
            card = cls(**content)
            card._check()
        except ValueError as error:
            raise CardError(f"card {short(str(file))[1:-1]}: {error}") from error
        return card

    def _check(self) -> None:
        """Raise ValueError for a field of another kind than it should be."""
        for about in fields(self):
            value = getattr(self, about.name)
            kind, words = _KINDS.get(str(about.type).partition("[")[0], (object, ""))
            if not isinstance(value, kind):
                raise ValueError(f"{about.name}: expected {words}, got {short(value)}")
        if not plain_name(self.name):
            raise ValueError(f"name: expected a plain name, got {short(self.name)}")
        if self.weights and not plain_name(self.weights):
            raise ValueError(
                f"weights: expected the name of a file beside the card, got {short(self.weights)}"
            )
        if not re.fullmatch("[0-9a-f]{64}" if self.weights else "([0-9a-f]{64})?", self.sha256):
            raise ValueError(f"sha256: expected 64 digits of the hash, got {short(self.sha256)}")
        for name, limits in self.conditions.items():
            if not isinstance(limits, dict):
                raise ValueError(f"conditions: {name}: expected an object, got {short(limits)}")
            for key, value in limits.items():
                if key not in _LIMITS:
                    raise ValueError(
                        f"conditions: {name}: expected limits among {', '.join(_LIMITS)}, "
                        f"got {short(key)}"
                    )
                if type(value) is not int or not (key == "classes") <= value < 2**31:
                    raise ValueError(
                        f"conditions: {name}: {key}: expected a count, got {short(value)}"
                    )

    def __repr__(self) -> str:
        return f"Card({self.name!r}, domain={self.domain!r}, factory={self.factory!r})"

    def write(self, file: FilePath | str) -> None:
        """Write the card, whole or not at all."""
        write_whole(FilePath(file), self.to_json())

    def to_json(self) -> bytes:
        """The card as it is written.

        Raises:
            CardError: if a field cannot be written as JSON, or is not what it should be.
        """
        try:
            self._check()
            text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CardError(f"card {self.name}: a field is not JSON ({error})") from error
        return (text + "\n").encode()


def load_weights(network: torch.nn.Module, card: Card, folder: FilePath) -> None:
    """Load a card's weights into its network, after checking their sha256.

    Raises:
        CardError: if the file is missing, damaged, or holds other tensors than the network.
    """
    Weights.read(card.name, folder, card.weights, card.sha256).fill(network)
