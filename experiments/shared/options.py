"""Options of experiments: those that most have, and lists with commas between, checked before any
compute."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.rows.errors import UnknownName

__all__ = ["Cache", "Device", "Out", "Threads", "integers", "names"]

Out = Annotated[Path | None, typer.Option(help="folder of results and figures")]
Cache = Annotated[Path, typer.Option(help="folder of finished rows")]
Threads = Annotated[int, typer.Option(help="torch threads")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]


def names(option: str, text: str, known: Collection[str]) -> list[str]:
    """The names in a text, in its order.

    Raises:
        UnknownName: for one that is not among those known.
    """
    found = text.split(",")
    for name in found:
        if name not in known:
            raise UnknownName(option, name, known)
    return found


def integers(option: str, text: str, example: str) -> list[int]:
    """The integers in a text, sorted, each once.

    Raises:
        ValueError: for what is no integer.
    """
    try:
        return sorted({int(word) for word in text.split(",")})
    except ValueError as error:
        raise ValueError(f"{option}: expected integers as in {example}, got {text!r}") from error
