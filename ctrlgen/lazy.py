"""Packages that name what is in them and import it when it is first asked for.

`import ctrlgen` names every method, cost and domain, and a program that uses two of them pays for
two. Modules of the library import each other by their full names, so no package's own list is ever
part of a circle.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["attach"]


def attach(
    package: str, contents: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        contents: names by the module below the package that has them; modules of the package itself
            under "".
    """
    homes = {name: module for module, names in contents.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        home = f"{package}.{homes[name]}"
        module = importlib.import_module(home)
        if hasattr(module, name):
            return getattr(module, name)
        return importlib.import_module(f"{home}.{name}")

    def names() -> list[str]:
        return sorted(homes)

    return get, names
