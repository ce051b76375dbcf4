"""A checkout that nobody installed, as if it were: `ctrlgen` with its companions and domains.

The folders `costs`, `domains` and `experiments` lie beside `ctrlgen` and install under its name;
domains are found through the entry points of an installed package. On a machine where nothing can
be installed, `install()` lets the import system look for them beside `ctrlgen`, and offers what
`pyproject.toml` says of the entry points to `importlib.metadata`. Needs nothing but Python. As a
plugin, `pytest -p benchmarks.uninstalled`, it does so for tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "install"]

ROOT = Path(__file__).resolve().parent.parent


class _Checkout(Distribution):
    """What pyproject.toml says, as the metadata of a package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())[
            "project"
        ]

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            text = (self.root / "ctrlgen" / "__init__.py").read_text()
            name = self.project["name"]
            version = re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE)[0]
            return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        if filename == "entry_points.txt":
            groups = {"console_scripts": self.project.get("scripts", {})}
            groups |= self.project.get("entry-points", {})
            return "".join(
                f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
                for group, points in groups.items()
            )
        return None

    def locate_file(self, path: Any) -> Path:  # type: ignore[override]
        return self.root / path


class _Finder(DistributionFinder):
    """Finds the checkout by its name, and no module."""

    def __init__(self, checkout: _Checkout) -> None:
        self.checkout = checkout

    def find_spec(self, *_: Any) -> None:
        return None

    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008
    ) -> Iterable[Distribution]:
        own = self.checkout.project["name"]
        return [self.checkout] if context.name in (None, own) else []


def install(root: Path = ROOT) -> bool:
    """Make `ctrlgen` of a checkout importable in this process; False if it is installed.

    Args:
        root: folder of pyproject.toml.

    Raises:
        RuntimeError: if another ctrlgen has been imported already.
    """
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    package = importlib.import_module("ctrlgen")
    # Metadata tell nothing here: a build leaves some in a folder that is not installed.
    if importlib.util.find_spec("ctrlgen.costs") is not None:
        return False
    if Path(package.__file__ or "").resolve().parent != root / "ctrlgen":
        raise RuntimeError(f"ctrlgen: expected the one in {root}, got {package.__file__}")
    package.__path__.append(str(root))
    sys.meta_path.insert(0, _Finder(_Checkout(root)))
    return True


def pytest_load_initial_conftests() -> None:
    """As a plugin of pytest: before any test is read, in every process of pytest-xdist."""
    install()
