"""Checks of arguments: each raises with the argument's name, what came and what was expected."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ctrlgen.rows.errors import short

__all__ = [
    "as_numbers",
    "check_device",
    "check_dtype",
    "check_kind",
    "check_numbers",
    "check_place",
    "check_precision",
    "check_sizes",
]


def check_kind(kind: type, optional: bool = False, **values: Any) -> None:
    """Raise TypeError where a value is not of a kind; None is, where it is optional."""
    for name, value in values.items():
        if not (isinstance(value, kind) or (optional and value is None)):
            article = "an" if kind.__name__[0] in "AEIO" else "a"
            raise TypeError(f"{name}: expected {article} {kind.__name__}, got {short(value)}")


def check_dtype(dtype: Any) -> None:
    """Raise TypeError or ValueError for a dtype that is no floating point one of torch."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected one of torch such as torch.float32, got {short(dtype)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point one, got {dtype}")


def check_precision(**values: Tensor) -> None:
    """Raise TypeError for a tensor of less than single precision.

    Fourier transforms and decompositions of matrices have no other.
    """
    for name, value in values.items():
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: expected float32 or float64, got {value.dtype}")


def check_device(device: Any) -> None:
    """Raise TypeError or ValueError for a device that is not here, or holds no numbers."""
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device: expected a name such as 'cpu' or 'cuda', got {short(device)}")
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # torch raises four kinds, by the reason
        raise ValueError(f"device: {short(str(device))} is not to be had here") from error


def check_place(weight: Tensor | None, dtype: Any, device: Any) -> None:
    """Raise ValueError where states would have another dtype or place than a network.

    Args:
        weight: of the network; None where it has none, and takes what comes.
        dtype: of states.
        device: of states; None for the network's.
    """
    check_dtype(dtype)
    if weight is None:
        if device is not None:
            check_device(device)
        return
    # Networks in half precision are served by something that converts.
    if weight.dtype in (torch.float32, torch.float64) and weight.dtype != dtype:
        raise ValueError(
            f"dtype: expected {weight.dtype}, that of the network, got {dtype}; "
            "prior.to(dtype) converts it"
        )
    if device is None:
        return
    if str(device) != "meta":
        check_device(device)
    if torch.empty(0, device=device).device != weight.device:  # with its index, as tensors have it
        raise ValueError(
            f"device: expected {weight.device}, where the network is, got {device}; "
            "prior.to(device) moves it"
        )


def check_sizes(least: int = 1, **sizes: Any) -> None:
    """Raise ValueError where a size, or one of a list of sizes, is no integer of at least `least`.

    Args:
        least: 1 for a size, 0 for a count of something that may be absent.
        **sizes: by name of the argument.
    """
    for name, value in sizes.items():
        listed = isinstance(value, list | tuple)
        parts = value if listed else (value,)
        if not parts or any(type(part) is not int or part < least for part in parts):
            one = "positive integer" if least else "integer >= 0"
            expected = f"{one}s" if listed else f"a {one}" if least else f"an {one}"
            raise ValueError(f"{name}: expected {expected}, got {short(value)}")


def as_numbers(name: str, value: Any) -> Tensor:
    """A number, list of numbers or tensor in float64 on the CPU.

    Raises:
        TypeError: for what is none of these.
    """
    try:
        return torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected numbers, got {short(value)}") from error


def check_numbers(**values: Any) -> None:
    """Raise ValueError where a value is no finite number."""
    for name, value in values.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {short(value)}")
