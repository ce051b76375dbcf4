r"""What a card may name: code that is trusted, and nothing else.

A card is data and may come from anyone; a name in it, "module:attribute", becomes code that runs.
It resolves only

    inside ctrlgen and the packages of installed domains: to a class of the expected kind, or to a
    builder that the domain registers (`Domain.builders`); to no other function,
    inside packages that the user names: `load(..., trust=["my_package"])`, `--trust my_package`,

and this is decided before anything is imported. A package that is trusted runs with all the rights
of the user, from its import on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ctrlgen import plugins
from ctrlgen.rows.errors import CardError, short

__all__ = ["ADAPTERS", "Trust", "names_of", "resolve", "trusting"]

Trust = str | Iterable[str] | None
"""Packages or modules, by name; None means those of `trusting`, by default none."""

ADAPTERS = ("ctrlgen.adapters.diffusers:rebuild", "ctrlgen.adapters.latent:rebuild")
"""Builders of the core: they make priors of models of another library."""
_NEVER = {*sys.stdlib_module_names, "builtins", "torch", "numpy"} - {"__main__"}

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


def names_of(trust: Trust) -> tuple[str, ...]:
    """Names of packages, checked.

    Raises:
        TypeError: if they are no strings.
        ValueError: for something that is no name of a package, or a library whose functions do
            whatever they are told.
    """
    if trust is None:
        return _trusted.get()
    names = (trust,) if isinstance(trust, str) else tuple(_listed(trust))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"trust: expected names of packages, got {short(name)}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(
                f"trust: expected names of packages, as in 'my_package', got {short(name)}"
            )
        if name.split(".")[0] in _NEVER:
            raise ValueError(
                f"trust: expected a package that builds networks, got {name!r}, a library whose "
                "functions do whatever a card tells them"
            )
    return names


def _listed(trust: Any) -> Iterable[Any]:
    if not isinstance(trust, Iterable):
        raise TypeError(f"trust: expected a list of names of packages, got {short(trust)}")
    return trust


@contextmanager
def trusting(trust: Trust) -> Iterator[None]:
    """Within it, cards may name code of these packages too; as `load(..., trust=)` for one card.

    Args:
        trust: names of packages or modules.
    """
    token = _trusted.set((*_trusted.get(), *names_of(trust)))
    try:
        yield
    finally:
        _trusted.reset(token)


def resolve(reference: Any, kind: type, argument: str, trust: Trust = None) -> Callable[..., Any]:
    """What a card names, if it may.

    Args:
        reference: "module:attribute".
        kind: what it makes; classes must derive from it.
        argument: field of the card that an error names.
        trust: packages that the user trusts.

    Raises:
        CardError: if it is no such reference, is not trusted, cannot be imported or is of another
            kind. Nothing is imported that is not trusted.
    """
    names = names_of(trust)
    text = reference if isinstance(reference, str) else ""
    module, _, attribute = text.partition(":")
    words = [*module.split("."), attribute]
    if not all(word.isidentifier() for word in words):
        raise CardError(f"{argument}: expected 'module:attribute', got {short(reference)}")
    root = words[0]
    named = any(_within(module, name) for name in names)
    registered = text in _builders()
    own = any(_within(module, name) for name in plugins.packages())
    if not (named or registered or own):
        raise CardError(
            f"{argument}: {short(text)} is no part of ctrlgen or of an installed domain; nothing "
            f"was imported. If you trust whoever wrote it, trust=[{root!r}] (--trust {root}) "
            f"allows it: loading then imports {root} and runs what the card names there, with all "
            "your rights"
        )
    if own and not named and any(word.startswith("_") for word in words):
        raise CardError(f"{argument}: {short(text)} is private to its package")
    try:
        value = plugins.resolve(text, beside=named)
    except ValueError as error:
        raise CardError(f"{argument}: {error}") from error
    home = getattr(value, "__module__", None) or ""
    at_home = any(_within(home, name) for name in (*names, *plugins.packages()))
    if isinstance(value, type):
        if not (at_home and issubclass(value, kind)):
            raise CardError(f"{argument}: {short(text)}: expected a {kind.__name__}")
    elif not registered and not (named and callable(value) and at_home):
        expected = "a function or class of its own" if named else "a registered builder"
        raise CardError(
            f"{argument}: {short(text)}: expected a {kind.__name__} class or {expected}"
        )
    return value


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _builders() -> set[str]:
    """Functions that a card may name without being trusted by the user."""
    return {*ADAPTERS, *(b for domain in plugins.domains().values() for b in domain.builders)}
