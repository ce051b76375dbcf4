"""Rows of a batch: whatever belongs to one sample can be taken along when it leaves.

Samples that have converged leave the working batch, and their data must leave with them: the
measurement of a cost, the mask of a source, the label of a prior. An object says which of its
attributes hold one row per sample (`per_sample`), and `take` returns a copy restricted to some
rows. Everything else is shared between the copies.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import short

__all__ = [
    "Batched",
    "PerSample",
    "expand_like",
    "flat",
    "partition",
    "row_sum",
    "rows_like",
    "rows_of",
    "take",
]

T = TypeVar("T")
P = TypeVar("P", bound="PerSample")


@runtime_checkable
class Batched(Protocol):
    """Anything that can be restricted to some rows of its batch."""

    def take(self, index: Tensor) -> Any: ...


def take(value: T, index: Tensor) -> T:
    """Rows `index` of a tensor, of a mapping of tensors, or of any object that has `take`.

    Args:
        value: tensor with leading batch dimension, mapping, object with `take`, or None.
        index: rows to keep, shape (b,), int64.

    Raises:
        TypeError: for a value that has no rows.
    """
    if value is None:
        return value
    if isinstance(value, Tensor):
        if index.device.type == "cpu":
            index = index.to(value.device)
        return follow(value, index).index_select(0, index)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {key: take(item, index) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, Batched):
        return value.take(index)
    raise TypeError(f"a per-sample value must be a tensor or have take(index), got {type(value)}")


def rows_of(value: Any) -> int | None:
    """Number of rows that a per-sample value holds; None where it holds none.

    Raises:
        ValueError: if the values that it holds disagree.
    """
    if isinstance(value, Tensor):
        return value.shape[0]
    if isinstance(value, PerSample):
        value = {name: getattr(value, name) for name in value.per_sample}
    if not isinstance(value, Mapping):
        return None
    held = {name: rows_of(item) for name, item in value.items()}
    counts = {name: rows for name, rows in held.items() if rows is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"per-sample values disagree on the batch size: {counts}")
    return next(iter(counts.values()), None)


def _move(value: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):  # a mask or a label keeps its dtype
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, PerSample):
        return value.to(device, dtype)
    if isinstance(value, Mapping):
        return {key: _move(item, device, dtype) for key, item in value.items()}
    if isinstance(value, list | tuple):
        moved = [_move(item, device, dtype) for item in value]
        named = hasattr(value, "_fields")  # a NamedTuple takes its items one by one
        return type(value)(*moved) if named else type(value)(moved)
    return value


def shown(value: Any) -> str:
    """A value in a few words: a tensor by its shape, a single number as it is."""
    if isinstance(value, Tensor):
        return f"{value.item():g}" if value.ndim == 0 else f"<{'×'.join(map(str, value.shape))}>"
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    return short(value) if isinstance(value, str | list | tuple | Mapping) else f"{value!r}"


class PerSample:
    """Base of everything that may hold data of single samples.

    Attributes:
        per_sample: names of the attributes that hold one row per sample: tensors with a leading
            batch dimension, mappings of such, or objects that are `PerSample` themselves.
    """

    per_sample: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = (f"{k}={shown(v)}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({', '.join(parts)})"

    def take(self: P, index: Tensor) -> P:
        """A copy that holds only the rows `index`, shape (b,), of every per-sample attribute."""
        if not self.per_sample:
            return self
        clone = copy.copy(self)
        for name in self.per_sample:
            setattr(clone, name, take(getattr(self, name), index))
        return clone

    def to(self: P, *args: Any, **kwargs: Any) -> P:
        """A copy with every tensor moved, arguments as of `torch.Tensor.to`.

        Integer and boolean tensors change their device only. Networks (`torch.nn.Module`) are
        left where they are: they are shared, and moving them is their owner's decision.
        """
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        clone = copy.copy(self)
        for name, value in vars(self).items():
            setattr(clone, name, _move(value, device, dtype))
        return clone


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """Values of the first dimensions of x, shape (), (B,), (B, K), ..., to broadcast against it."""
    if value.ndim == 0:
        return value
    return value.reshape(*value.shape, *(1,) * (x.ndim - value.ndim))


def rows_like(value: Tensor | float, x: Tensor) -> Tensor:
    """A number, or one per sample (B,), in x's dtype and on its device, to broadcast against x."""
    if isinstance(value, Tensor):
        return expand_like(follow(value, x), x)
    if isinstance(value, int | float):
        return x.new_full((), value)
    return expand_like(torch.as_tensor(value, dtype=x.dtype, device=x.device), x)


def partition(mask: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Positions where a mask holds, and the others, both rising; int64.

    Args:
        mask: bool, shape (B,).
        count: how often it holds, where the host knows; else it is read, and the host waits.
    """
    if count is None:
        count = int(mask.sum())
    order = torch.argsort(mask, descending=True, stable=True)
    return order[:count], order[count:]


def flat(x: Tensor) -> Tensor:
    """x (B, *) as (B, d)."""
    return x.reshape(x.shape[0], -1)


_BLOCK = 16384


def row_sum(x: Tensor) -> Tensor:
    """Sum over everything but the batch: (B, *) to (B,).

    Long rows are summed in blocks of a fixed length. A plain sum of one long row is split among
    threads, the same row inside a batch is not, and the two round differently.
    """
    x = flat(x)
    whole = x.shape[1] // _BLOCK * _BLOCK
    if whole == 0:
        return x.sum(dim=1)
    blocks = x[:, :whole].unflatten(1, (-1, _BLOCK)).sum(dim=2)
    return blocks.sum(dim=1) + x[:, whole:].sum(dim=1)
