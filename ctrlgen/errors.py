"""Errors that name the argument, what came and what was expected."""

from __future__ import annotations

import reprlib
from typing import Any

__all__ = ["CardError", "CostError", "MissingExtra", "UnknownName", "short"]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def short(value: Any) -> str:
    """What came, as a message shows it: its repr, cut where it is long."""
    return " ".join(_SHORT.repr(value).split())


class CostError(ValueError):
    """A cost breaks its contract: not one value per sample, not finite, or without a gradient."""


class CardError(ValueError):
    """A model card or its weights are not what they should be."""


class UnknownName(LookupError):
    """A prior, preset or component that is not known; names those that are."""

    def __init__(self, what: str, name: object, known: object) -> None:
        names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
        super().__init__(f"{what}: {name!r} is not known; known are: {names or 'none'}")


class MissingExtra(ImportError):
    """An optional dependency is not installed; says how to install it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'{module} is needed for this: pip install "ctrlgen[{extra}]"')
