"""Constants that follow their input: on its device, in its dtype, made once for each.

A blur's kernel, the shift of a codec or the steps of a solver are the same at every call. Made or
copied anew each time, they stop an accelerator each time: the host waits until the device has taken
them. Here every constant is moved once for each device and dtype that ask for it:

    scale = follow(self.scale, x)               # a tensor, where x is and in x's dtype
    widths = numbers((0.1, 0.2, 0.7), x)        # host numbers, likewise

A plain number needs neither: `x.new_full((), number)` is a kernel's argument and copies nothing.
What requires a gradient, and what is made under a function transform, is not kept.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["derived", "follow", "forget", "numbers", "passing"]

_MOST = 1024
"""Tables of numbers that are kept; the oldest makes room."""

_OF_TENSORS = WeakTensorKeyDictionary()
_OF_NUMBERS: OrderedDict[Hashable, Tensor] = OrderedDict()


def follow(value: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A constant where x is; floating point in x's dtype, whole numbers and masks in their own.

    Args:
        value: the constant; the copy lives as long as it does.
        x: any tensor, for the device and the dtype.
        dtype: of the copy, in place of the above.
    """
    if dtype is None:
        dtype = x.dtype if value.is_floating_point() and x.is_floating_point() else value.dtype
    if value.device == x.device and value.dtype == dtype:
        return value
    return derived(value, (x.device, dtype), lambda: value.to(device=x.device, dtype=dtype))


def derived(value: Tensor, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
    """What is computed from a constant, kept for as long as the constant lives unchanged.

    Args:
        value: the constant.
        key: which of the things computed from it.
        build: computes it.
    """
    if passing() or value.requires_grad or value.is_inference():
        return build()
    made: dict[Any, tuple[int, Tensor]] | None = _OF_TENSORS.get(value)
    if made is None:
        made = _OF_TENSORS[value] = {}
    version, tensor = made.get(key, (-1, value))
    if version != value._version:
        with torch.inference_mode(False), torch.no_grad():
            tensor = build()
        made[key] = value._version, tensor
    return tensor


def numbers(values: tuple[Any, ...], x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Host numbers, a tuple or a tuple of tuples, as a tensor where x is.

    Args:
        values: the numbers, hashable.
        x: any tensor, for the device and the dtype.
        dtype: in place of x's.
    """
    dtype = dtype or x.dtype
    if passing():
        return torch.tensor(values, dtype=dtype, device=x.device)
    key = (values, x.device, dtype)
    tensor = _OF_NUMBERS.get(key)
    if tensor is None:
        with torch.inference_mode(False):
            tensor = _OF_NUMBERS[key] = torch.tensor(values, dtype=dtype, device=x.device)
        for old in itertools.islice(tuple(_OF_NUMBERS), max(len(_OF_NUMBERS) - _MOST, 0)):
            del _OF_NUMBERS[old]
    return tensor


def forget() -> None:
    """Drop everything that is kept."""
    _OF_TENSORS.clear()
    _OF_NUMBERS.clear()


def passing() -> bool:
    """Whether tensors made now belong to a transform or a trace, which they must not outlive."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
