r"""What molecules are made of: formulas, limits on elements, and the cost of breaking them.

With probabilities p_i of the classes of the atoms and a table T of classes (rows) by elements,

    N = Σ_i p_i T,      C = Σ_e max(N_e − h_e, 0, l_e − N_e)²        for limits l_e <= N_e <= h_e.

The gradient is that of the probabilities; the value that of the likeliest classes, whole numbers of
atoms ("straight-through", Bengio et al., arXiv 1308.3432), or of the probabilities too ("soft").
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost
from ctrlgen.domains.molecules.elements import ALL_ATOM, MAX_ATOMS, alphabet, check_qm9
from ctrlgen.domains.molecules.states import Parts, split
from ctrlgen.rows.constants import follow

__all__ = [
    "ClassCost",
    "CompositionCost",
    "check_element",
    "element_table",
    "parse_formula",
    "parse_limit",
    "possible_sizes",
]

Weights = Literal["straight-through", "soft"]
Interval = tuple[float, float]

_FORMULA = re.compile(r"([A-Z][a-z]?)(\d*)")
_LIMIT = re.compile(r"\s*([A-Z][a-z]?)\s*(<=|>=|≤|≥|=|==)\s*(\d+)\s*")


def element_table(name: str) -> Tensor:
    """Atoms of each element H, C, N, O, F in one atom of each class, shape (K, 5), float64.

    Args:
        name: alphabet, "qm9" or "qm9-heavy", where a class counts its hydrogens.

    Raises:
        ValueError: for another alphabet.
    """
    check_qm9(name)
    table = torch.zeros(len(alphabet(name)), len(ALL_ATOM), dtype=torch.float64)
    for row, (symbol, attached) in enumerate(alphabet(name)):
        table[row, ALL_ATOM.index(symbol)] += 1
        table[row, ALL_ATOM.index("H")] += attached
    return table


def parse_formula(text: str) -> dict[str, Interval]:
    """Exact counts of all elements from a formula such as C7H10O2; those it leaves out are absent.

    Raises:
        ValueError: no formula, an element twice, or one outside H, C, N, O, F.
    """
    parts = _FORMULA.findall(text)
    if not parts or "".join(symbol + number for symbol, number in parts) != text.strip():
        raise ValueError(f"formula: expected one such as C7H10O2, got {text!r}")
    counts: dict[str, Interval] = {symbol: (0.0, 0.0) for symbol in ALL_ATOM}
    for symbol, number in parts:
        check_element(symbol, "formula")
        if counts[symbol][1]:
            raise ValueError(f"formula: expected each element once, got {symbol} twice in {text!r}")
        counts[symbol] = (float(number or 1), float(number or 1))
    if not any(high for _, high in counts.values()):
        raise ValueError(f"formula: expected at least one atom, got {text!r}")
    return counts


def parse_limit(text: str) -> dict[str, Interval]:
    """A limit such as "N<=2", "O>=1" or "F=0".

    Raises:
        ValueError: another form, or an element outside H, C, N, O, F.
    """
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ValueError(f"element: expected a limit such as N<=2, got {text!r}")
    symbol, sign, number = match[1], match[2], float(match[3])
    check_element(symbol)
    low = number if sign in (">=", "≥", "=", "==") else 0.0
    return {symbol: (low, number if sign in ("<=", "≤", "=", "==") else torch.inf)}


def possible_sizes(limits: Mapping[str, Interval], name: str) -> list[int]:
    """Numbers of atoms of the alphabet that a neutral molecule within limits can have, increasing.

    A molecule in one piece without unpaired electrons has at most 2 C + N + 2 − F hydrogens, and
    an even sum of hydrogens, nitrogens and fluorines; QM9 has at most nine heavy atoms.

    Args:
        limits: (least, most) atoms by element symbol.
        name: "qm9" or "qm9-heavy".
    """
    heavy = MAX_ATOMS["qm9-heavy"]

    def counts(symbol: str) -> range:
        low, high = limits.get(symbol, (0.0, math.inf))
        return range(math.ceil(low), int(min(high, heavy)) + 1)

    least, most = limits.get("H", (0.0, math.inf))
    sizes: set[int] = set()
    for c, n, o, f in itertools.product(*map(counts, "CNOF")):
        if not 0 < c + n + o + f <= heavy:
            continue
        for h in range(math.ceil(least), int(min(most, 2 * c + n + 2 - f)) + 1):
            if (h + n + f) % 2 == 0:
                sizes.add(c + n + o + f + (h if name == "qm9" else 0))
    return sorted(sizes)


def check_element(symbol: str, what: str = "element") -> None:
    """Raise ValueError for an element outside H, C, N, O, F; `what` is the argument that has it."""
    if symbol not in ALL_ATOM:
        raise ValueError(f"{what}: expected elements H, C, N, O, F, got {symbol}")


class ClassCost(Cost):
    """Base of costs that read classes as probabilities."""

    def __init__(self, types: Weights) -> None:
        if types not in get_args(Weights):
            raise ValueError(f"types: expected one of {get_args(Weights)}, got {types!r}")
        self.types = types

    def weights(self, parts: Parts) -> Tensor:
        """Class weights of the atoms, shape (B, N, K)."""
        return parts.probabilities if self.types == "soft" else parts.straight_through


class CompositionCost(ClassCost):
    """How far the numbers of atoms of some elements are outside their limits, squared.

    Args:
        limits: (least, most) atoms by element symbol, e.g. {"N": (0, 2)}; see `parse_formula`.
        name: alphabet of the signals, "qm9" or "qm9-heavy".
        types: "straight-through" or "soft".

    Raises:
        ValueError: an element outside H, C, N, O, F, or limits that are crossed or negative.
    """

    def __init__(
        self, limits: Mapping[str, Interval], name: str, types: Weights = "straight-through"
    ) -> None:
        super().__init__(types)
        if not limits:
            raise ValueError("limits: expected at least one element")
        for symbol, (least, most) in limits.items():
            check_element(symbol)
            if not 0 <= least <= most:
                raise ValueError(f"limits: {symbol}: expected 0 <= {least} <= {most}")
        columns = [ALL_ATOM.index(symbol) for symbol in limits]
        self.table = element_table(name)[:, columns]
        self.low, self.high = torch.tensor(list(limits.values()), dtype=torch.float64).unbind(1)

    def counts(self, x: Tensor) -> Tensor:
        """Atoms of each limited element, shape (B, E)."""
        return (self.weights(split(x)) @ follow(self.table, x)).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        counts = self.counts(x)
        low, high = follow(self.low, x), follow(self.high, x)
        beyond = (counts - high).clamp_min(0) + (low - counts).clamp_min(0)
        return beyond.square().sum(1)
