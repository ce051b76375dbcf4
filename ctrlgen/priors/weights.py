r"""Weights of a card: inside its folder, of the hash it states, as large as its network, finite.

Nothing of the file but its tensors is used, and no hash of a file is told, so that a card cannot be
made to ask about files elsewhere. A network is built within the size of its weights: a module or a
tensor beyond it is refused before it takes memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from ctrlgen.priors.documents import plain_name
from ctrlgen.rows.errors import CardError, short

__all__ = ["Weights", "bounded", "content_hash"]

_SLACK = 2**20  # numbers in tables that a network computes itself
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Weights:
    """Tensors of a network, by name.

    Args:
        name: of the prior, for messages.
        tensors: by name.
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.tensors = name, dict(tensors)

    @classmethod
    def read(cls, name: str, folder: Path, file: str, sha256: str) -> Weights:
        """The weights of a card.

        Args:
            name: of the prior, for messages.
            folder: of the card.
            file: plain name of the safetensors file in that folder.
            sha256: of the file, in hexadecimal digits.

        Raises:
            CardError: if there is no such file in the folder, it has another hash or is no
                safetensors.
        """
        place = folder / file if plain_name(file) else None
        if place is None or place.resolve().parent != folder.resolve():
            raise CardError(
                f"weights: expected the name of a file beside the card, got {short(file)}"
            )
        try:
            if place.exists() and not place.is_file():
                raise OSError("it is no file")
            size = place.stat().st_size
            if size > _memory():
                raise CardError(
                    f"weights of {name}: expected a file that fits in memory, got {size:,} bytes"
                )
            payload = place.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise CardError(f"weights of {name}: cannot read {place} ({reason})") from error
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise CardError(
                f"weights of {name}: expected sha256 {sha256}, {place} has another: it is damaged, "
                "or not of this card"
            )
        try:
            return cls(name, load_tensors(payload))
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CardError(f"weights of {name}: {place} is no safetensors file") from error

    def fill(self, network: torch.nn.Module) -> None:
        """Load them into their network.

        Raises:
            CardError: if it has other tensors, or these are not finite, or not of its kind.
        """
        own = network.state_dict()
        wrong = sorted(
            key
            for key in own.keys() | self.tensors.keys()
            if _shape(own.get(key)) != _shape(self.tensors.get(key))
        )
        if wrong:
            raise CardError(
                f"weights of {self.name}: {len(wrong)} tensors are not those of the network, e.g. "
                f"{short(wrong[0])[1:-1]}: expected {_shape(own.get(wrong[0]))}, "
                f"got {_shape(self.tensors.get(wrong[0]))}"
            )
        for key, value in self.tensors.items():
            fits = value.dtype in _FLOATS if own[key].is_floating_point() else False
            if not fits and value.dtype != own[key].dtype:
                raise CardError(
                    f"weights of {self.name}: {key}: expected {own[key].dtype}, got {value.dtype}"
                )
            # A table of a network, like the mask of its attention, may hold infinities.
            if not bool((value.isfinite() | (value == own[key].to(value))).all()):
                raise CardError(f"weights of {self.name}: {key}: expected finite numbers")
        network.load_state_dict(self.tensors)

    def bounds(self) -> AbstractContextManager[None]:
        """Within it, no network is built that is larger than these weights; see `bounded`."""
        return bounded(len(self.tensors), sum(value.numel() for value in self.tensors.values()))


@contextmanager
def bounded(tensors: int, numbers: int) -> Iterator[None]:
    """Within it, no network is built that is much larger than its weights.

    Args:
        tensors: how many they are.
        numbers: in all of them.

    Raises:
        CardError: where one is about to be.
    """
    most, thread, spent = 4 * numbers + _SLACK, threading.get_ident(), {"parts": 0, "numbers": 0}

    def refuse() -> None:
        raise CardError(
            "config: the network that it describes is larger than its weights, "
            f"{tensors} tensors of {numbers:,} numbers"
        )

    def parameter(_: Any, __: str, value: Tensor | None) -> None:
        if threading.get_ident() == thread and value is not None:
            spent["numbers"] += value.numel()
            if spent["numbers"] > most:
                refuse()

    def part(_: Any, __: str, value: torch.nn.Module | None) -> None:
        if threading.get_ident() == thread:
            spent["parts"] += 1
            if spent["parts"] > 20 * tensors + 1000:
                refuse()

    hooks = (
        modules.register_module_parameter_registration_hook(parameter),
        modules.register_module_module_registration_hook(part),
    )
    try:
        with _Bounded(most, refuse):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Bounded(TorchFunctionMode):
    """Tensors are made only if they have at most so many numbers."""

    makers = frozenset(
        getattr(torch, name)
        for name in ("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "eye")
    )

    def __init__(self, most: int, refuse: Callable[[], None]) -> None:
        super().__init__()
        self.most, self.refuse = most, refuse

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.makers:
            on_none = {**kwargs, "device": "meta"}
            on_none.pop("generator", None)
            on_none.pop("pin_memory", None)
            if func(*args, **on_none).numel() > self.most:
                self.refuse()
        return func(*args, **kwargs)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of tensors by name, their dtypes, shapes and numbers, wherever they came from."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(tuple(value.shape))


def _memory() -> int:
    """Bytes of this machine's memory; without end where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
