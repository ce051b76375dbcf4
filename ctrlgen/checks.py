"""Checks of arguments: each raises with the argument's name, what came and what was expected."""

from __future__ import annotations

import math
from typing import Any

from ctrlgen.errors import short

__all__ = ["check_numbers", "check_sizes"]


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


def check_numbers(**values: Any) -> None:
    """Raise ValueError where a value is no finite number."""
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {short(value)}")
