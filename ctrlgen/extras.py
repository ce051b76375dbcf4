"""Optional dependencies, imported when they are needed and named when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from ctrlgen.rows.errors import MissingExtra

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name.
        extra: the extra of ctrlgen that installs it.

    Raises:
        MissingExtra: if it is not installed, with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.split(".")[0] != error.name.split(".")[0]:
            raise  # it is installed, something that it needs is not
        raise MissingExtra(module, extra) from error
