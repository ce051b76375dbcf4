"""Every method is public and `ctrlgen methods` can say what it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import ctrlgen.methods as methods
from ctrlgen.cli import _about, _methods


def test_every_method_is_public() -> None:
    found = set()
    for module in pkgutil.iter_modules(methods.__path__, "ctrlgen.methods."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, methods.Method):
                public = value.__module__.startswith("ctrlgen.") and value.__name__[0] != "_"
                if public and not inspect.isabstract(value):
                    found.add(value.__name__)
    assert found <= set(methods.__all__), found - set(methods.__all__)
    assert {m.__name__ for m in _methods()} == set(methods.__all__) - {"Method"}


def test_methods_say_what_they_are() -> None:
    about = {entry["name"]: entry for entry in map(_about, _methods())}
    for entry in about.values():
        assert entry["control"] and entry["needs"] and entry["summary"].endswith("."), entry
    assert "ffhq-sr4" in about["NDTM"]["presets"] and "sr2" in about["DFlow"]["presets"]
    assert about["CTDTM"]["presets"] == []  # none of its own, none of a neighbour's
