"""Errors that name the argument, what came and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = [
    "CardError",
    "CostError",
    "Doubtful",
    "MissingExtra",
    "ResultError",
    "UnknownName",
    "carrying",
    "partial_of",
    "short",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def short(value: Any) -> str:
    """What came, as a message shows it: its repr, cut where it is long."""
    return " ".join(_SHORT.repr(value).split())


def partial_of(error: BaseException) -> Any:
    """What had been done when an error was raised in the middle of a run.

    A method's error or Ctrl-C carries a `Result`, an optimizer's a `Solution`; None where nothing
    had been computed yet.
    """
    return getattr(error, "partial", None)


@contextmanager
def carrying(make: Callable[[Any], Any]) -> Iterator[None]:
    """Give whatever is raised inside an attribute `partial`.

    Args:
        make: what it is, from the `partial` that the error has already, or None; None for nothing.
            An error in it is ignored: the first one is what matters.
    """
    try:
        yield
    except BaseException as error:
        with suppress(Exception):
            partial = make(partial_of(error))
            if partial is not None:
                error.partial = partial  # type: ignore[attr-defined]
        raise


@contextmanager
def concerning(argument: str) -> Iterator[None]:
    """Give errors of what a user named the argument's name in front, as the user wrote it.

    Raises:
        ValueError: for ValueError and UnknownName, if they do not begin with the name already.
    """
    try:
        yield
    except (ValueError, UnknownName) as error:
        if str(error).startswith(f"{argument}: "):
            raise
        kind = CardError if isinstance(error, CardError) else ValueError
        raise kind(f"{argument}: {error}") from error


class CostError(ValueError):
    """A cost breaks its contract: not one value per sample, not finite, or without a gradient."""


class HopelessError(ValueError):
    """What is raised for one sample would be raised for all: a run ends with it, at once."""


class Doubtful(UserWarning):
    """An argument that is allowed and can hardly be meant."""


class CardError(ValueError):
    """A model card or its weights are not what they should be."""


class ResultError(ValueError):
    """A result on disk is not what it should be, or cannot be written there."""


class UnknownName(LookupError):
    """A prior, preset or component that is not known; names those that are."""

    def __init__(self, what: str, name: object, known: object) -> None:
        names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
        super().__init__(f"{what}: {name!r} is not known; known are: {names or 'none'}")


class MissingExtra(ImportError):
    """An optional dependency is not installed; says how to install it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'{module} is needed for this: pip install "ctrlgen[{extra}]"')
