"""Atom classes: the alphabets in which molecules are written.

    ALL_ATOM   one class an element, in EDM's order H, C, N, O, F
    HEAVY      one class a heavy atom with its hydrogens, (symbol, attached hydrogens): every number
               of hydrogens from none to the valence, C 0..4, N 0..3, O 0..2, F 0..1, in this order
    DRUG       the same of drug-like molecules, each atom bound to another heavy one: C 0..3,
               N 0..2, O 0..1 and F, S, Cl, Br without hydrogens

QM9 holds 13 of the 14 heavy classes (HF is missing), MOSES all 13 of `DRUG`: its filters leave no
charge and no thiol. Element order and valences are those of Hoogeboom et al., "Equivariant
diffusion for molecule generation in 3D" (arXiv 2203.17003). Tables that end in a padding entry are
indexed safely by the class -1 of an absent atom. Alphabets differ in their numbers of classes.

What else differs between alphabets is said here, once, in an `Alphabet` of each: how large their
molecules are, how their bonds are told, and whether QM9's properties are known of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "ALL_ATOM",
    "ALPHABETS",
    "DRUG",
    "HEAVY",
    "MAX_ATOMS",
    "NUMBERS",
    "PADDING",
    "VALENCE",
    "Alphabet",
    "alphabet",
    "atomic_numbers",
    "check_qm9",
    "classes_of",
    "described",
    "hydrogens",
]

ALL_ATOM: tuple[str, ...] = ("H", "C", "N", "O", "F")
"""Class index of `qm9` -> element symbol."""

VALENCE: dict[str, int] = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1, "S": 2, "Cl": 1, "Br": 1}
"""Sum of bond orders of a stable atom, hydrogens included; that of S may be 4 or 6 as well."""

NUMBERS: dict[str, int] = {
    "H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17, "Br": 35,
}  # fmt: skip
"""Atomic numbers."""

HEAVY: tuple[tuple[str, int], ...] = tuple(
    (symbol, count) for symbol in ALL_ATOM[1:] for count in range(VALENCE[symbol] + 1)
)
"""Class index of `qm9-heavy` -> (element symbol, attached hydrogens)."""

DRUG: tuple[tuple[str, int], ...] = (
    *((symbol, count) for symbol in "CNO" for count in range(VALENCE[symbol])),
    *((symbol, 0) for symbol in ("F", "S", "Cl", "Br")),
)
"""Class index of `moses-heavy` -> (element symbol, attached hydrogens)."""


@dataclass(frozen=True)
class Alphabet:
    """An alphabet, and what holds of the molecules that are written in it.

    Attributes:
        classes: (symbol, attached hydrogens) of every class; none attached where they are atoms.
        least: fewest atoms of a molecule that is drawn; a single atom has no flow.
        most: most atoms of a molecule.
        aromatic: bond orders are chosen together so that they fit all valences (`kekule`), for
            aromatic rings and the three valences of sulphur; EDM's table of lengths alone if not.
        properties: QM9's properties are known of them, by guides and an evaluator, and which are
            new to QM9; RDKit's scores are told in their place if not.
    """

    classes: tuple[tuple[str, int], ...]
    least: int
    most: int
    aromatic: bool = False
    properties: bool = True


ALPHABETS: dict[str, Alphabet] = {
    "qm9": Alphabet(tuple((symbol, 0) for symbol in ALL_ATOM), 3, 29),
    "qm9-heavy": Alphabet(HEAVY, 2, 9),
    "moses-heavy": Alphabet(DRUG, 8, 27, aromatic=True, properties=False),
}
"""Every alphabet by its name."""

MAX_ATOMS: dict[str, int] = {name: own.most for name, own in ALPHABETS.items()}
"""Most atoms of a molecule in each alphabet."""

PADDING = -1
"""Class of a place without an atom."""


def described(name: str) -> Alphabet:
    """The alphabet of a name.

    Raises:
        ValueError: for another name.
    """
    if name not in ALPHABETS:
        *others, last = map(repr, ALPHABETS)
        raise ValueError(f"name: expected {', '.join(others)} or {last}, got {name!r}")
    return ALPHABETS[name]


def alphabet(name: str) -> tuple[tuple[str, int], ...]:
    """(symbol, attached hydrogens) of every class; none attached where hydrogens are atoms.

    Args:
        name: "qm9" (all atoms), "qm9-heavy" or "moses-heavy" (heavy atoms with their hydrogens).

    Raises:
        ValueError: for another name.
    """
    return described(name).classes


def check_qm9(name: str) -> None:
    """Raise ValueError for an alphabet that is not one of QM9's."""
    if name not in ALPHABETS or not ALPHABETS[name].properties:
        raise ValueError(f"name: expected an alphabet of QM9, 'qm9' or 'qm9-heavy', got {name!r}")


def _lookup(values: list[int], classes: Tensor, name: str) -> Tensor:
    if bool(((classes < PADDING) | (classes >= len(values))).any()):
        low, high = int(classes.min()), int(classes.max())
        raise ValueError(f"classes: expected -1..{len(values) - 1} for {name!r}, got {low}..{high}")
    table = torch.tensor([*values, 0], device=classes.device)
    return table[classes]  # -1 takes the last entry: an absent atom counts nothing


def atomic_numbers(classes: Tensor, name: str) -> Tensor:
    """Atomic number of each class index, long, shape of classes; 0 on padding.

    Raises:
        ValueError: a class outside the alphabet.
    """
    return _lookup([NUMBERS[symbol] for symbol, _ in alphabet(name)], classes, name)


def hydrogens(classes: Tensor, name: str) -> Tensor:
    """Hydrogens attached to each atom by its class, long, shape of classes; 0 on padding.

    Raises:
        ValueError: a class outside the alphabet.
    """
    return _lookup([attached for _, attached in alphabet(name)], classes, name)


def classes_of(numbers: Tensor, attached: Tensor | None = None, name: str | None = None) -> Tensor:
    """Class indices of atomic numbers.

    Args:
        numbers: atomic numbers, long, any shape; 0 is padding.
        attached: hydrogens on each heavy atom, shape of numbers; None where they are atoms.
        name: alphabet; "qm9" without attached hydrogens and "qm9-heavy" with them when None.

    Returns:
        Class indices, long, shape of numbers; -1 on padding.

    Raises:
        ValueError: an atom that the alphabet has no class for.
    """
    name = name or ("qm9" if attached is None else "qm9-heavy")
    table = torch.full((max(NUMBERS.values()) + 1, 5), PADDING, device=numbers.device)
    for index, (symbol, count) in enumerate(alphabet(name)):
        table[NUMBERS[symbol], count] = index
    counts = torch.zeros_like(numbers) if attached is None else attached
    inside = (numbers >= 0) & (numbers < len(table)) & (counts >= 0) & (counts < 5)
    indices = table[numbers.where(inside, 0), counts.where(inside, 0)]
    wrong = ~inside | ((indices == PADDING) & (numbers != 0))
    if bool(wrong.any()):
        number, count = int(numbers[wrong][0]), int(counts[wrong][0])
        symbols = ", ".join(dict.fromkeys(symbol for symbol, _ in alphabet(name)))
        raise ValueError(
            f"numbers: expected elements {symbols} of their valence, got atomic number "
            f"{number} with {count} hydrogens"
        )
    return indices
