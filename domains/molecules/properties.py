r"""Properties of QM9 with their units, and requests such as `gap=6..7eV` or `mu>=3D`.

Every number inside the package is in the unit of `PROPERTIES[name].unit`:

    alpha  isotropic polarizability        Bohr^3
    gap    LUMO - HOMO                      meV
    homo   highest occupied orbital energy  meV
    lumo   lowest unoccupied                meV
    mu     dipole moment                    D (debye)
    cv     heat capacity at 298.15 K        cal/(mol K)

1 Ha = 27.211386246 eV = 627.509474 kcal/mol, 1 e a_0 = 2.541746473 D, 1 a_0 = 0.529177211 A
(CODATA 2018), 1 cal = 4.184 J. Requests come with a unit always; a bare number is refused.

Source of the data: Ramakrishnan et al., "Quantum chemistry structures and properties of 134 kilo
molecules", Sci. Data 1, 140022 (2014): B3LYP/6-31G(2df,p).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ctrlgen.domains.molecules.intervals import NUMBER, parse_interval

__all__ = ["PROPERTIES", "Property", "Request", "convert", "parse_quantity", "parse_request"]

_HARTREE = 27211.386246  # meV
_BOHR = 0.529177211  # A

_ENERGY = {
    "meV": 1.0,
    "eV": 1e3,
    "Ha": _HARTREE,
    "hartree": _HARTREE,
    "kcal/mol": _HARTREE / 627.509474,
    "kJ/mol": _HARTREE / (627.509474 * 4.184),
}
_VOLUME = {"Bohr^3": 1.0, "a0^3": 1.0, "A^3": _BOHR**-3, "Å^3": _BOHR**-3, "Bohr3": 1.0}
_DIPOLE = {"D": 1.0, "debye": 1.0, "Debye": 1.0, "e*a0": 2.541746473}
_HEAT = {
    "cal/(mol K)": 1.0,
    "cal/mol/K": 1.0,
    "J/(mol K)": 1 / 4.184,
    "J/mol/K": 1 / 4.184,
}


@dataclass(frozen=True)
class Property:
    """A scalar property of a molecule.

    Attributes:
        name: word of the command line and key of all tables.
        symbol: for figures, with mathematical text.
        unit: the unit of every number inside the package.
        units: what one of each accepted unit is in `unit`.
        text: what it is.
        decimals: digits worth printing.
    """

    name: str
    symbol: str
    unit: str
    units: Mapping[str, float]
    text: str
    decimals: int


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property("alpha", r"$\alpha$", "Bohr^3", _VOLUME, "isotropic polarizability", 2),
        Property("gap", r"$\Delta\epsilon$", "meV", _ENERGY, "HOMO-LUMO gap", 0),
        Property("homo", r"$\epsilon_\mathrm{HOMO}$", "meV", _ENERGY, "HOMO energy", 0),
        Property("lumo", r"$\epsilon_\mathrm{LUMO}$", "meV", _ENERGY, "LUMO energy", 0),
        Property("mu", r"$\mu$", "D", _DIPOLE, "dipole moment", 3),
        Property("cv", r"$C_v$", "cal/(mol K)", _HEAT, "heat capacity at 298.15 K", 3),
    )
}
"""The six properties in the order of the literature's tables."""

_QUANTITY = re.compile(rf"\s*({NUMBER})\s*(\S.*?)?\s*")


def _property(name: str) -> Property:
    if name not in PROPERTIES:
        raise ValueError(f"property: expected one of {', '.join(PROPERTIES)}, got {name!r}")
    return PROPERTIES[name]


def convert(name: str, value: float, unit: str, to: str | None = None) -> float:
    """A value of a property in another unit.

    Args:
        name: property.
        value: number in `unit`.
        unit: one of the property's units, e.g. "eV".
        to: another one; the package's unit of the property when None.

    Raises:
        ValueError: unknown property or unit.
    """
    known = _property(name)
    for word in (unit, to or known.unit):
        if word not in known.units:
            units = ", ".join(known.units)
            raise ValueError(f"unit of {name}: expected one of {units}; got {word!r}")
    return value * known.units[unit] / known.units[to or known.unit]


def _with_unit(name: str, number: float, unit: str | None, text: str) -> float:
    known = _property(name)
    if not unit:
        raise ValueError(
            f"{name}: expected a unit ({', '.join(known.units)}), got {text.strip()!r} without one"
        )
    return convert(name, number, unit)


def parse_quantity(name: str, text: str) -> float:
    """A number with its unit, such as "6.8 eV", in the package's unit of the property.

    Raises:
        ValueError: unknown property, missing or wrong unit, or no number.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{name}: expected a number with a unit, got {text!r}")
    return _with_unit(name, float(match[1]), match[2], text)


@dataclass(frozen=True)
class Request:
    """A property wanted between two bounds, in the package's unit; equal bounds are a target.

    Attributes:
        name: property.
        low: lower bound; minus infinity when open.
        high: upper bound; infinity when open.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        _property(self.name)
        if math.isnan(self.low) or math.isnan(self.high) or self.low > self.high:
            raise ValueError(f"{self.name}: expected low <= high, got {self.low} and {self.high}")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError(f"{self.name}: expected at least one finite bound")

    @property
    def is_target(self) -> bool:
        """Whether one value is wanted rather than a range."""
        return self.low == self.high

    def __str__(self) -> str:
        known = PROPERTIES[self.name]
        low, high = (f"{bound:.{known.decimals}f}" for bound in (self.low, self.high))
        if self.is_target:
            return f"{self.name} = {low} {known.unit}"
        if math.isinf(self.high):
            return f"{self.name} >= {low} {known.unit}"
        if math.isinf(self.low):
            return f"{self.name} <= {high} {known.unit}"
        return f"{self.name} = {low}..{high} {known.unit}"


def parse_request(text: str) -> Request:
    """Read `mu=3.0D`, `gap=6..7eV`, `gap>=6eV` or `homo<=-6.5 eV`.

    Raises:
        ValueError: another form, unknown property, or a missing or wrong unit.
    """
    name, *ends = parse_interval(text, "property", "VALUE UNIT")
    _property(name)
    low, high = (
        end.value if math.isinf(end.value) else _with_unit(name, end.value, end.unit, text)
        for end in ends
    )
    return Request(name, low, high)
