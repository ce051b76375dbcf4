"""Domains plug in by entry point: ours and a third party's in exactly the same way.

A package offers a `Domain` under the entry point group `ctrlgen.domains`,

    [project.entry-points."ctrlgen.domains"]
    images = "ctrlgen.domains.images:domain"

and the core finds its priors and its commands there without importing any domain
by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ctrlgen.rows.errors import MissingExtra

__all__ = [
    "Domain",
    "cards",
    "domains",
    "load_file",
    "named",
    "named_in_file",
    "packages",
    "place_in_file",
    "resolve",
]


@dataclass(frozen=True)
class Domain:
    """What a domain offers to the core.

    Attributes:
        name: word of the command line, e.g. "images".
        cards: folder of model cards (`*.json`) beside their weights.
        command: the word under which `app` appears, e.g. "image"; None for no command.
        app: "module:attribute" of a typer application, imported when the command line starts.
        recipes: training recipes by name, each "module:function".
        demo: "module:function" that `ctrlgen demo` runs; called as `run(out, ...)`.
        builders: functions that build networks from the configuration of a card, each
            "module:function"; cards may name these, and classes of the domain's own package.
        panel: "module:attribute" of the `ctrlgen.report.panels.Panel` that reads and shows results.
        pose: "module:function" that poses problems of files for `ctrlgen compare --task`; called as
            `pose(task, files, prior, **arguments)`, it returns an `InverseProblem`.
    """

    name: str
    cards: Path
    command: str | None = None
    app: str | None = None
    recipes: dict[str, str] = field(default_factory=dict)
    demo: str | None = None
    builders: tuple[str, ...] = ()
    panel: str | None = None
    pose: str | None = None


@cache
def domains() -> dict[str, Domain]:
    """All installed domains, by name.

    Raises:
        TypeError: for an entry point that is not a `Domain`.
    """
    found = {}
    for point in entry_points(group="ctrlgen.domains"):
        domain = point.load()
        if not isinstance(domain, Domain):
            raise TypeError(
                f"entry point {point.name!r}: expected a Domain, got {type(domain).__name__}"
            )
        found[domain.name] = domain
    return found


@cache
def packages() -> frozenset[str]:
    """The packages whose classes a card may name: ctrlgen and those of installed domains."""
    return frozenset({"ctrlgen", *(p.module for p in entry_points(group="ctrlgen.domains"))})


def cards() -> dict[str, Path]:
    """Model cards of all installed domains, by the name of the prior."""
    files = (file for domain in domains().values() for file in sorted(domain.cards.glob("*.json")))
    return {file.stem: file.resolve() for file in files}


def resolve(reference: str, beside: bool = False) -> Callable[..., Any] | Any:
    """The object that "module:attribute" names. It is imported: see `ctrlgen.priors.trust` for
    cards.

    Args:
        reference: "module:attribute".
        beside: whether modules of the working folder count, after all that is installed.

    Raises:
        ValueError: if the reference has another form, names nothing or cannot be imported.
        MissingExtra: if it needs an optional dependency that is not installed.
    """
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ValueError(f"reference: expected 'module:attribute', got {reference!r}")
    try:
        return getattr(_imported(module, beside), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(
            f"reference: {reference!r} names nothing that is installed ({error})"
        ) from error
    except MissingExtra:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"reference: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _imported(module: str, beside: bool) -> ModuleType:
    """A module by name; one of the working folder, where it counts, with those beside it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not beside or error.name not in (module, module.partition(".")[0]):
            raise
    folder = os.getcwd()
    sys.path.append(folder)  # last: nothing installed is shadowed
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)


def named_in_file(reference: str, argument: str) -> Any:
    """What FILE.py:NAME names, of a user's file, which runs.

    Args:
        reference: the file and a name in it.
        argument: what an error names.

    Raises:
        ValueError: if it is no such reference, or the file cannot be imported or has no such name.
    """
    file, name = place_in_file(reference, argument)
    value = getattr(load_file(file, argument), name, None)
    if not callable(value):
        raise ValueError(f"{argument}: {file} has no function {name!r}")
    return value


def place_in_file(reference: str, argument: str) -> tuple[Path, str]:
    """The file and the name that FILE.py:NAME says; nothing of it runs.

    Raises:
        ValueError: if it is no such reference, or there is no such file.
    """
    place, colon, name = reference.rpartition(":")
    file = Path(place)
    if not (colon and name.isidentifier() and file.suffix == ".py" and file.is_file()):
        raise ValueError(
            f"{argument}: expected FILE.py:NAME of a file that exists, got {reference!r}"
        )
    return file, name


def load_file(file: Path, argument: str) -> ModuleType:
    """A user's Python file as a module of its own name: their torch.py does not become torch.

    Args:
        file: that exists.
        argument: what an error names.

    Raises:
        ValueError: if it cannot be imported.
    """
    unique = f"_ctrlgen_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end the interpreter
        raise ValueError(
            f"{argument}: {file} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def named(reference: str, argument: str) -> Any:
    """What a user names as MODULE:NAME or FILE.py:NAME.

    Args:
        reference: as it was typed.
        argument: what an error names.

    Raises:
        ValueError: for another form, a file that is not there or cannot be imported, or a name
            that it has not.
    """
    place, colon, name = reference.rpartition(":")
    if not (colon and place and name.isidentifier()):
        raise ValueError(f"{argument}: expected MODULE:NAME or FILE.py:NAME, got {reference!r}")
    if not place.endswith(".py"):
        try:
            return resolve(reference, beside=True)
        except ValueError as error:
            raise ValueError(f"{argument}: {str(error).removeprefix('reference: ')}") from error
    file = Path(place)
    if not file.is_file():
        raise ValueError(f"{argument}: there is no file {file}")
    module = load_file(file, argument)
    if not hasattr(module, name):
        raise ValueError(f"{argument}: {file} has no {name!r}")
    return getattr(module, name)
