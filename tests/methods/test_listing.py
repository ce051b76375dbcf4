"""Every method is public and `ctrlgen methods` can say what it is."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import ctrlgen.methods as methods
from ctrlgen.commands.listing import about_method as _about
from ctrlgen.commands.listing import methods as _methods


def test_every_method_is_public() -> None:
    found = set()
    for module in pkgutil.walk_packages(methods.__path__, "ctrlgen.methods."):
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


def test_every_method_is_in_one_family_under_its_name() -> None:
    from ctrlgen.methods.catalogue import FAMILIES, NAMES, method_named
    from ctrlgen.methods.tuned import METHODS

    words = [word for family in FAMILIES.values() for word in family]
    assert len(words) == len(set(words)) == len(NAMES)
    assert set(NAMES.values()) == set(_methods())
    for word, entry in METHODS.items():  # the names of --method are these
        assert NAMES[word] is entry.kind
        assert method_named(word.upper().replace("-", "")) == (word, entry.kind)


@pytest.mark.parametrize("method", _methods(), ids=lambda method: method.__name__)
def test_every_parameter_is_explained(method: type) -> None:
    from ctrlgen.methods.catalogue import parameters

    listed = parameters(method)
    assert {p.name for p in listed} == {f.name for f in dataclasses.fields(method)}
    assert [p.name for p in listed if not p.text] == []
    assert all(p.default and "object at 0x" not in p.default for p in listed)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("DPS", {"rho", "energy", "grid"}),
        ("LGDMC", {"rho", "gamma", "draws"}),
        ("MPGD", {"mu", "mu_schedule", "manifold"}),
        ("FreeDoM", {"rho", "recurrences", "recur_within"}),
        ("UGD", {"rho", "mu", "iterations", "recurrences"}),
    ],
)
def test_methods_of_many_parameters_name_their_own_first(name: str, own: set[str]) -> None:
    from ctrlgen.methods.catalogue import _arguments, parameters

    method = getattr(methods, name)
    assert set(_arguments(method.__doc__)) == own  # in words of its own
    listed = parameters(method)
    first = {p.name for p in listed[: sum(p.own for p in listed)]}
    assert own <= first and "dtype" not in first
