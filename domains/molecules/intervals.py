r"""The grammar of what is asked of a number, the same for properties and for scores.

    NAME=V    NAME=LOW..HIGH    NAME>=V    NAME<=V        ≥, ≤ and == are read as well

Each number may have a unit behind it, that of a range behind both or behind the second. Which names
and units there are, and whether a unit must be, is for those who ask (`properties`,
`rdkit_scores`).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["NUMBER", "Bound", "Interval", "parse_interval"]

NUMBER = r"[+-]?(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_REQUEST = re.compile(
    rf"\s*(?P<name>\w+)\s*(?P<sign>=|==|>=|<=|≥|≤)\s*(?P<first>{NUMBER})\s*"
    rf"(?:(?P<unit1>[^\d\s.+-][^.]*?)?\s*\.\.\s*(?P<second>{NUMBER})\s*)?(?P<unit>\S.*?)?\s*"
)


class Bound(NamedTuple):
    """An end of an interval: a number and its unit, "" without one."""

    value: float
    unit: str = ""


class Interval(NamedTuple):
    """What is asked of a name; an open end is infinite, equal ends are a target."""

    name: str
    low: Bound
    high: Bound


def parse_interval(text: str, what: str, form: str = "VALUE") -> Interval:
    """Read an interval.

    Args:
        text: what a user wrote.
        what: name of the argument, for errors.
        form: how a number is written, for errors.

    Raises:
        ValueError: another form, or a range after a sign other than "=".
    """
    match = _REQUEST.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{what}: expected NAME={form}, NAME={form.replace(form.split()[0], 'LOW..HIGH')}, "
            f"NAME>={form} or NAME<={form}, got {text!r}"
        )
    name, sign, unit = match["name"], match["sign"], match["unit"] or ""
    first = Bound(float(match["first"]), match["unit1"] or unit)
    if match["second"] is not None:
        if sign not in ("=", "=="):
            raise ValueError(f"{name}: expected '=' before a range, got {text.strip()!r}")
        return Interval(name, first, Bound(float(match["second"]), unit))
    if sign in (">=", "≥"):
        return Interval(name, first, Bound(math.inf))
    if sign in ("<=", "≤"):
        return Interval(name, Bound(-math.inf), first)
    return Interval(name, first, first)
