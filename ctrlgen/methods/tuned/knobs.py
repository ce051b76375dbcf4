"""The one number of each method that matters most, and the small search over it.

    variants("dps", make)    {"usual": DPS(rho=2.8), "x0.5": DPS(rho=1.4), "x2": DPS(rho=5.7)}

The settings of `ctrlgen.methods.tuned` are those of our own priors; how strongly a method must be
guided depends on the prior, the operator and the range of the signal. A knob is one number, or
several that are scaled together; D-Flow's is its start. A method of a user's own says which of its
fields it is in a class attribute `knob`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ctrlgen.methods.base import Method

__all__ = ["FACTORS", "KNOBS", "USUAL", "scaled", "variants"]

FACTORS = (0.5, 2.0)
"""What a knob is multiplied by, beside 1."""

USUAL = "usual"
"""Label of the settings as they are."""

KNOBS: dict[str, tuple[str, ...]] = {
    "dmplug": ("optimizer.learning_rate",),
    "optimal-control": ("learning_rate",),
    "flowgrad": ("optimizer.learning_rate",),
    "oc-flow": ("optimizer.learning_rate",),
    "ndtm": ("terminal_weight",),
    "ctdtm": ("terminal_weight",),
    "ftm": ("terminal_weight",),
    "pigdm": ("weight",),
    "ancestral-pigdm": ("rule.eta",),
    "c-pigdm": ("weight",),
    "ot-ode": ("weight",),
    "c-pigfm": ("weight",),
    "ddrm": ("eta",),
    "dps": ("rho",),
    "lgd-mc": ("rho",),
    "mpgd": ("mu",),
    "freedom": ("rho",),
    "ugd": ("rho", "mu"),
    "tfg": ("rho", "mu"),
    "red-diff": ("weight",),
    "flow-priors": ("optimizer.learning_rate",),
    "pnp-flow": ("scale",),
    "daps": ("rate",),
}
"""By name of a method: its fields, dotted where they are a part's, scaled together."""

CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {"d-flow": ("init", ("mean", "guided"))}
"""By name of a method: an option of `tuned.build` in the place of a knob, and what it may be."""


def scaled(method: Method, fields: Sequence[str], factor: float) -> Method:
    """A method with some of its numbers multiplied.

    Args:
        method: a dataclass.
        fields: names, dotted where they are a part's.
        factor: above 0.

    Raises:
        ValueError: for a field that there is not or that is no number, or a value out of range.
    """
    for field in fields:
        method = _scaled(method, field.split("."), factor, field)
    return method


def _scaled(part: Any, path: Sequence[str], factor: float, field: str) -> Any:
    name, *rest = path
    value: Any = getattr(part, name, None)
    if not rest and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"knob: expected a number in {field!r}, got {value!r}")
    if rest and value is None:
        raise ValueError(f"knob: {type(part).__name__} has no {field!r}")
    return replace(part, **{name: _scaled(value, rest, factor, field) if rest else value * factor})


def variants(
    name: str, make: Callable[..., Method], factors: Sequence[float] = FACTORS
) -> dict[str, Method]:
    """The settings of a search by their labels, the usual ones first.

    Args:
        name: of the method, a key of `tuned.METHODS` or any other.
        make: builds it; takes the option of `CHOICES`.
        factors: of the knob, above 0; those that bring it out of its range are left out.
    """
    usual = make()
    made: dict[str, Method] = {USUAL: usual}
    if name in CHOICES:
        option, values = CHOICES[name]
        settings = {f"{option}={value}": (lambda v=value: make(**{option: v})) for value in values}
    else:
        fields = KNOBS.get(name) or tuple(getattr(usual, "knob", ()))
        settings = {
            f"x{factor:g}": (lambda f=factor: scaled(usual, fields, f))
            for factor in factors
            if fields and factor != 1
        }
    for label, build in settings.items():
        try:
            method = build()
        except ValueError:
            continue
        if repr(method) not in {repr(other) for other in made.values()}:
            made[label] = method
    return made
