"""Units of the properties and the requests of the command line."""

from __future__ import annotations

import math

import pytest

from ctrlgen.domains.molecules.properties import (
    PROPERTIES,
    Request,
    convert,
    parse_quantity,
    parse_request,
)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gap", "6.8 eV", 6800.0),
        ("gap", "6.8eV", 6800.0),
        ("gap", "6858meV", 6858.0),
        ("homo", "-0.25 Ha", -6802.8466),
        ("lumo", "1 kcal/mol", 43.36410),
        ("lumo", "1 kJ/mol", 10.364270),
        ("mu", "3.0D", 3.0),
        ("mu", "1 e*a0", 2.541746),
        ("alpha", "1 A^3", 6.748334),
        ("alpha", "9e1 Bohr^3", 90.0),
        ("cv", "4.184 J/(mol K)", 1.0),
        ("cv", ".5 cal/mol/K", 0.5),
    ],
)
def test_quantities_in_the_packages_unit(name: str, text: str, value: float) -> None:
    assert parse_quantity(name, text) == pytest.approx(value, rel=1e-6)


def test_every_unit_converts_there_and_back() -> None:
    for name, known in PROPERTIES.items():
        assert known.units[known.unit] == 1.0
        for unit in known.units:
            there = convert(name, 3.7, known.unit, unit)
            assert convert(name, there, unit) == pytest.approx(3.7, rel=1e-12)


@pytest.mark.parametrize("text", ["6.8", "6.8 V", "6.8 mev", "eV", "", "six eV", "1e3"])
def test_numbers_without_a_known_unit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="gap"):
        parse_quantity("gap", text)


def test_a_unit_of_another_property_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unit of mu: expected one of D.*got 'eV'"):
        parse_request("mu=3eV")
    with pytest.raises(ValueError, match="property: expected one of alpha"):
        parse_request("logp=3D")


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("mu=3.0D", 3.0, 3.0),
        (" gap = 6..7eV ", 6000.0, 7000.0),
        ("gap=6eV..7000 meV", 6000.0, 7000.0),
        ("homo=-7..-6.5 eV", -7000.0, -6500.0),
        ("gap>=6eV", 6000.0, math.inf),
        ("homo<=-6.5 eV", -math.inf, -6500.0),
        ("alpha=60..80 a0^3", 60.0, 80.0),
        ("cv=.5..1 cal/mol/K", 0.5, 1.0),
    ],
)
def test_requests(text: str, low: float, high: float) -> None:
    request = parse_request(text)
    assert (request.low, request.high) == pytest.approx((low, high))
    assert request.is_target == (low == high)
    shown = str(request)
    assert parse_request(shown) == request or math.isinf(high - low) or request.is_target


def test_requests_are_shown_with_their_unit() -> None:
    assert str(parse_request("gap=6..7eV")) == "gap = 6000..7000 meV"
    assert str(parse_request("gap>=6eV")) == "gap >= 6000 meV"
    assert str(parse_request("homo<=-6.5eV")) == "homo <= -6500 meV"
    assert str(parse_request("mu=3D")) == "mu = 3.000 D"


@pytest.mark.parametrize("text", ["mu", "mu=", "mu=3", "mu>=1..3D", "mu=3..1D", "=3D", "mu~3D"])
def test_other_requests_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_request(text)


def test_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        Request("mu", math.nan, 1.0)
    with pytest.raises(ValueError, match="finite"):
        Request("mu", -math.inf, math.inf)
