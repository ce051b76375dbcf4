"""Bond orders of atoms in space from a table of distances, vectorised over pairs and molecules.

With typical lengths L1, L2, L3 (pm) of single, double and triple bonds of two elements,

    order = [d < L1 + 10] + [d < L2 + 5] + [d < L3 + 3],

strictly, which equals the nested rule of the source because L3 + 3 < L2 + 5 < L1 + 10 for every
pair of elements. No aromatic order, no charges. A distance that is not finite is no bond.

Source: Hoogeboom et al., "Equivariant diffusion for molecule generation in 3D" (arXiv 2203.17003),
appendix C and its tables 8-10: lengths and margins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import NUMBERS, atomic_numbers

__all__ = ["FURTHER", "LENGTHS", "MARGINS", "bond_orders", "components", "lengths", "thresholds"]

LENGTHS: tuple[dict[str, int], ...] = (
    {
        "HH": 74, "HC": 109, "HN": 101, "HO": 96, "HF": 92,
        "CC": 154, "CN": 147, "CO": 143, "CF": 135,
        "NN": 145, "NO": 140, "NF": 136, "OO": 148, "OF": 142, "FF": 142,
    },
    {"CC": 134, "CN": 129, "CO": 120, "NN": 125, "NO": 121, "OO": 121},
    {"CC": 120, "CN": 116, "CO": 113, "NN": 110},
)  # fmt: skip
"""Typical lengths in pm of single, double and triple bonds, by the two symbols."""

FURTHER: tuple[dict[tuple[str, str], int], ...] = (
    {
        ("S", "H"): 134, ("S", "C"): 182, ("S", "N"): 168, ("S", "O"): 151, ("S", "F"): 158,
        ("S", "S"): 204, ("S", "Cl"): 207, ("S", "Br"): 225,
        ("Cl", "H"): 127, ("Cl", "C"): 177, ("Cl", "N"): 175, ("Cl", "O"): 164, ("Cl", "F"): 166,
        ("Cl", "Cl"): 199, ("Cl", "Br"): 214,
        ("Br", "H"): 141, ("Br", "C"): 194, ("Br", "N"): 214, ("Br", "O"): 172, ("Br", "F"): 178,
        ("Br", "Br"): 228,
    },
    {("S", "C"): 160, ("S", "N"): 152, ("S", "O"): 144},
    {},
)  # fmt: skip
"""As `LENGTHS`, of S, Cl and Br; double bonds of S to N and O as in sulfoximines and sulfones."""

MARGINS = (10, 5, 3)
"""Added to the lengths, in pm, for single, double and triple bonds."""


def lengths() -> Tensor:
    """Typical lengths in pm by order - 1 and the two atomic numbers; NaN where there is no bond.

    Returns:
        (3, Z, Z) float64; Z - 1 is the largest atomic number of all alphabets, 0 is padding.
    """
    size = max(NUMBERS.values()) + 1
    table = torch.full((3, size, size), torch.nan, dtype=torch.float64)
    for order, (first, further) in enumerate(zip(LENGTHS, FURTHER, strict=True)):
        pairs = {(pair[0], pair[1]): length for pair, length in first.items()} | further
        for pair, length in pairs.items():
            i, j = (NUMBERS[symbol] for symbol in pair)
            table[order, i, j] = table[order, j, i] = length
    return table


def thresholds(device: torch.device | str | None = None) -> Tensor:
    """Distances in A under which the order of a bond counts one more.

    Returns:
        (3, Z, Z) float32, by order - 1 and the two atomic numbers; minus one where there is no
        such bond, padding (0) included.
    """
    margins = torch.tensor(MARGINS, dtype=torch.float64).view(3, 1, 1)
    return ((lengths() + margins) / 100).nan_to_num(-1.0).float().to(device)


def check_atoms(positions: Tensor, classes: Tensor) -> None:
    """Refuse positions and classes of other shapes than (B, A, 3) and (B, A).

    Raises:
        ValueError: which shapes came.
    """
    if positions.ndim != 3 or positions.shape[2] != 3 or classes.shape != positions.shape[:2]:
        raise ValueError(
            "positions, classes: expected (B, A, 3) and (B, A), "
            f"got {tuple(positions.shape)} and {tuple(classes.shape)}"
        )


def bond_orders(positions: Tensor, classes: Tensor, alphabet: str = "qm9") -> Tensor:
    """Bond orders of every pair of atoms, 0 to 3.

    Args:
        positions: (B, A, 3) in A, floating point.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        alphabet: "qm9" or "qm9-heavy".

    Returns:
        (B, A, A) long, symmetric, zero diagonal, zero where an atom is absent or not finite.

    Raises:
        ValueError: shapes that do not match, or a class outside the alphabet.
    """
    check_atoms(positions, classes)
    numbers = atomic_numbers(classes, alphabet)
    difference = positions.unsqueeze(2) - positions.unsqueeze(1)
    distances = difference.square().sum(dim=3).sqrt()
    limits = thresholds(positions.device)[:, numbers.unsqueeze(2), numbers.unsqueeze(1)]
    orders = (distances < limits).sum(dim=0)
    diagonal = torch.eye(classes.shape[1], dtype=torch.bool, device=classes.device)
    return orders.masked_fill(diagonal, 0)


def components(orders: Tensor, mask: Tensor) -> Tensor:
    """Pieces that the bonds leave each molecule in.

    Args:
        orders: bond orders (B, A, A).
        mask: atoms that exist (B, A), bool.

    Returns:
        (B,) long: 1 for a connected molecule, 0 for one without atoms.
    """
    size = mask.shape[1]
    itself = torch.eye(size, device=orders.device)
    reach = ((orders > 0) | (itself > 0)).to(itself.dtype)
    for _ in range(max(size - 1, 1).bit_length()):  # paths of 1, 2, 4, ... bonds
        reach = ((reach @ reach) > 0).to(itself.dtype)
    first = reach.argmax(dim=2) == torch.arange(size, device=orders.device)
    return (first & mask).sum(dim=1)
