"""What `ctrlgen methods` shows: all methods by family, or everything about one."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

import ctrlgen.methods as package
from ctrlgen.commands import console
from ctrlgen.methods.catalogue import FAMILIES, NAMES, method_named, parameters

__all__ = ["about_method", "describe", "listing", "methods"]


def listing(json: bool) -> None:
    """All methods by family, as tables or JSON."""
    if json:
        print(console.dumps([about_method(method) for method in methods()]))
        return
    columns = ("--method", "in Python", "needs", "what it does")
    for family, members in FAMILIES.items():
        listed = [(word, about_method(NAMES[word])) for word in members]
        rows = [
            (f"[bold]{word}[/]", m["name"], escape(m["needs"]), escape(m["summary"]))
            for word, m in listed
        ]
        console.stdout.print(console.table(family.capitalize(), columns, rows))
        console.stdout.print()
    console.stdout.print("[dim]ctrlgen methods NAME shows parameters, defaults and presets")


def describe(name: str, json: bool) -> None:
    """All about one method.

    Raises:
        UnknownName: for a name that is none.
    """
    word, method = method_named(name)
    about, listed = about_method(method), parameters(method)
    if json:
        fields = [parameter._asdict() for parameter in listed]
        presets = {key: repr(value) for key, value in method.presets.items()}
        print(console.dumps({**about, "presets": presets, "parameters": fields}))
        return
    console.say(f"{word}, {method.__name__}: {about['summary']}")
    console.say(f"controls {about['control']}; needs {about['needs']}\n")
    rows = [
        (f"[bold]{p.name}[/]" if p.own else p.name, escape(p.default), escape(p.text))
        for p in listed
    ]
    console.stdout.print(console.table("Parameters", ("name", "default", "meaning"), rows))
    if method.presets:
        settings = [
            (escape(key), escape(", ".join(f"{k}={v!r}" for k, v in value.items())))
            for key, value in method.presets.items()
        ]
        console.stdout.print()
        console.stdout.print(console.table("Presets", ("name", "settings"), settings))


def methods() -> list[type]:
    """Every public method."""
    base = package.Method
    named = (getattr(package, name) for name in package.__all__)
    return [m for m in named if isinstance(m, type) and issubclass(m, base) and m is not base]


def about_method(method: type) -> dict[str, Any]:
    """What a list says of a method."""
    (word,) = (key for key, kind in NAMES.items() if kind is method)
    return {
        "name": method.__name__,
        "method": word,
        "family": next(family for family, words in FAMILIES.items() if word in words),
        "control": getattr(method, "control", ""),
        "needs": getattr(method, "needs", ""),
        "presets": sorted(getattr(method, "presets", {})),
        "summary": (method.__doc__ or "").strip().splitlines()[0],
    }
