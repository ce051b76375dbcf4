"""Tensors of the pretended accelerator: host memory that says it is elsewhere.

A `Remote` says `meta` of its device and holds a host tensor with its numbers; `remote` and `memory`
go from one to the other, `mapped` does so in nested arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["DEVICE", "Remote", "is_remote", "leaves", "mapped", "memory", "remote"]

DEVICE = torch.device("meta")
"""What the tensors of the pretended accelerator say of their device."""


class Remote(torch.Tensor):
    """A tensor on the pretended device; `memory` is the host tensor that holds its numbers."""

    memory: Tensor

    @staticmethod
    def __new__(cls, memory: Tensor) -> Remote:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            memory.shape,
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            device=DEVICE,
        )
        tensor.memory = memory
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise RuntimeError("a tensor of the pretended accelerator was used after it was closed")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Remote({self.memory!r})"


def remote(value: Any) -> Any:
    return Remote(value) if isinstance(value, Tensor) and not isinstance(value, Remote) else value


def memory(value: Any) -> Any:
    return value.memory if isinstance(value, Remote) else value


_NESTS = (list, tuple)  # for every operation: a union would be made anew at each


def leaves(parts: Any) -> Iterator[Any]:
    """All that is in nested lists and tuples; arguments of operations hold no other containers."""
    for part in parts:
        if isinstance(part, _NESTS):
            yield from leaves(part)
        else:
            yield part


def mapped(change: Callable[[Any], Any], parts: Any) -> Any:
    """The same nesting, every leaf changed."""
    if isinstance(parts, _NESTS):
        return type(parts)(
            [mapped(change, p) if isinstance(p, _NESTS) else change(p) for p in parts]
        )
    if isinstance(parts, dict):
        return {key: mapped(change, part) for key, part in parts.items()}
    return change(parts)


def is_remote(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type
