"""Packages that name what is in them and import it when it is first asked for.

`import ctrlgen` names every method, cost and domain, and a program that uses two of them pays for
two. Modules of the library import each other by their full names, so no package's own list is ever
part of a circle.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["attach"]


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package, from its imports under TYPE_CHECKING.

    What type checkers and editors read is also what is imported when it is first asked for.

    Args:
        package: its `__name__`.
    """
    homes = {
        alias.name: node.module
        for node in _imports(package)
        for alias in node.names
        if node.module is not None
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        if home != package and hasattr(module := importlib.import_module(home), name):
            return getattr(module, name)
        return importlib.import_module(f"{home}.{name}")

    def names() -> list[str]:
        return sorted(homes)

    return get, names


def _imports(package: str) -> list[ast.ImportFrom]:
    """The imports of a package's source that stand under TYPE_CHECKING."""
    spec = sys.modules[package].__spec__
    loader: Any = spec and spec.loader
    blocks = [
        node.body
        for node in ast.parse(loader.get_source(package)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
