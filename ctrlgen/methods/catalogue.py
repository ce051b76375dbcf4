"""All methods by what they control, under the names that `--method` takes, and what they take.

`parameters` reads the fields of a method with their defaults, and what the docstrings of its class,
or of the class that it inherits a field from, say of each.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import ctrlgen.methods as methods
from ctrlgen.methods.base import Method
from ctrlgen.rows.errors import UnknownName

__all__ = ["FAMILIES", "NAMES", "Parameter", "method_named", "parameters", "spelled"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "source point": ("d-flow", "dmplug"),
    "a control in every step": ("ndtm", "ctdtm", "ftm", "blind-ndtm"),
    "the whole trajectory": ("optimal-control", "flowgrad", "oc-flow"),
    "analytic guidance": ("pigdm", "ancestral-pigdm", "c-pigdm", "ot-ode", "c-pigfm", "ddrm"),
    "guidance by gradients": (
        "dps", "lgd-mc", "mpgd", "freedom", "ugd", "tfg", "classifier-guidance",
    ),
    "variational and plug-and-play": ("red-diff", "flow-priors", "pnp-flow", "daps"),
    "without gradients": (
        "best-of", "evolution-strategy", "renoising-search", "particle-resampling",
        "trust-region-search",
    ),
}  # fmt: skip
"""Names of methods by family."""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _named(name: str) -> type[Method]:
    """The public class of a name."""
    public: dict[str, type[Method]] = {
        _plain(word): kind
        for word in methods.__all__
        if inspect.isclass(kind := getattr(methods, word)) and issubclass(kind, Method)
    }
    return public[_plain(name)]


NAMES: dict[str, type[Method]] = {
    name: _named(name) for family in FAMILIES.values() for name in family
}
"""Every method by its name."""


def method_named(name: str) -> tuple[str, type[Method]]:
    """The name and class that a word means, in any case, with or without hyphens.

    Raises:
        UnknownName: if it means none.
    """
    key = spelled(name, NAMES)
    return key, NAMES[key]


def spelled(name: str, among: Collection[str]) -> str:
    """The one of some names that a word means, in any case, with or without hyphens.

    Raises:
        UnknownName: if it means none of them.
    """
    for key in among:
        if _plain(key) == _plain(name):
            return key
    raise UnknownName("method", name, among)


class Parameter(NamedTuple):
    """One field of a method.

    Attributes:
        name: of the field.
        default: as text.
        text: what it is.
        own: whether the method sets it or says what it is, rather than a class above it.
    """

    name: str
    default: str
    text: str
    own: bool


def parameters(method: type[Method]) -> list[Parameter]:
    """The fields of a method, its own first.

    Args:
        method: a dataclass.
    """
    texts: dict[str, str] = {}
    for kind in reversed(method.__mro__):
        texts |= _arguments(kind.__doc__ or "")
    own = set(vars(method).get("__annotations__", {})) | set(_arguments(method.__doc__ or ""))
    listed = [
        Parameter(f.name, _default(f), texts.get(f.name, ""), f.name in own)
        for f in dataclasses.fields(method)  # type: ignore[arg-type]
    ]
    return sorted(listed, key=lambda p: not p.own)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "needed"


_ENTRY = re.compile(r"(\w+): (.*)")


def _arguments(text: str) -> dict[str, str]:
    """What a docstring's "Args:" say, by name."""
    found: dict[str, str] = {}
    lines, inside, name = inspect.cleandoc(text).splitlines(), False, ""
    for line in lines:
        if line and not line.startswith(" "):
            inside = line == "Args:"
        elif inside:
            entry = _ENTRY.fullmatch(line.strip()) if re.match(r" {4}\S", line) else None
            if entry:
                name = entry[1]
                found[name] = entry[2]
            elif line.strip() and name:
                found[name] += " " + line.strip()
    return found
