r"""Bond orders that fit the valences of heavy skeletons, by integer programming.

Atoms closer than the single-bond distance of `bonds` are bound. With u_i the valence of atom i less
its hydrogens and neighbours, what a bond has beyond a single one, x_e = y_e + z_e in {0, 1, 2}, and
the open valences s_i >= 0 solve

    min  M Σ_i s_i + Σ_e [y_e (c_e2 - c_e1) + z_e (c_e3 - c_e2)] + P Σ_i k_i
    s.t. Σ_{e∋i} x_e + s_i - 2 k_i = u_i,    z_e <= y_e,    k_i = 0 but for sulphur, there 0, 1, 2,

c_eo the squared distance in pm² from the typical length of order o. Hydrogens are known, so there
is no choice but among Kekulé structures of one molecule, and lengths decide between sulphur's
valences 2, 4 and 6; no charges. RDKit's own search (`bond_perception`), which knows 2, 3 and 6 and
allows charges, writes a thioether beside a carbonyl as a zwitterion. Solved exactly by HiGHS.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from torch import Tensor

from ctrlgen.domains.molecules.bonds import bond_orders, check_atoms, lengths, thresholds
from ctrlgen.domains.molecules.elements import (
    NUMBERS,
    VALENCE,
    atomic_numbers,
    described,
    hydrogens,
)

__all__ = ["Orders", "fitting_orders", "orders_of", "solve"]

_OPEN, _SULPHUR = 1e5, 100.0  # M and P, in pm²
_SECONDS = 5.0  # for one molecule; the data take a hundredth
_VALENCES = {NUMBERS[symbol]: valence for symbol, valence in VALENCE.items()}


class Orders(NamedTuple):
    """Bond orders (n, n), int64, symmetric; open: valences of each atom that no bond takes (n,)."""

    orders: np.ndarray
    open: np.ndarray


def solve(numbers: np.ndarray, attached: np.ndarray, positions: np.ndarray) -> Orders:
    """Bond orders of one skeleton.

    Args:
        numbers: atomic numbers (n,).
        attached: hydrogens on each atom (n,).
        positions: (n, 3) in A; an atom that is not finite has no bond.

    Returns:
        Orders; `open` is negative where neighbours and hydrogens alone are more than the valence.
    """
    numbers = np.asarray(numbers, dtype=np.int64)
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    bound = np.triu(gaps < _tables()[0][numbers[:, None], numbers[None]], 1)
    orders = bound.astype(np.int64)
    spare = np.array([_VALENCES[n] for n in numbers.tolist()]) - attached - (bound | bound.T).sum(1)
    wanting = (spare > 0) | (numbers == NUMBERS["S"])
    if not wanting.any():
        return Orders(orders + orders.T, spare)
    excess = np.minimum(spare + 4, 0)  # what not even a sulphur of six bonds can hold
    spare = spare - excess
    ends = np.argwhere(bound & wanting[:, None] & wanting[None])
    extra, rest = _programme(numbers, gaps, ends, spare, np.flatnonzero(wanting))
    orders[ends[:, 0], ends[:, 1]] += extra
    return Orders(orders + orders.T, np.where(wanting, rest, spare) + excess)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Distances in A below which atoms are bound (Z, Z), and typical lengths in pm (3, Z, Z)."""
    return thresholds()[0].numpy(), lengths().numpy()


def _programme(
    numbers: np.ndarray, gaps: np.ndarray, ends: np.ndarray, spare: np.ndarray, atoms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What bonds (E, 2) have beyond single ones (E,), and what the atoms leave open (n,)."""
    bonds, rows = len(ends), len(atoms)
    # Columns: y and z of the bonds, s and k of the atoms.
    y, z, s, k = np.cumsum([0, bonds, bonds, rows])
    price, most = np.zeros(k + rows), np.zeros(k + rows)
    typical = _tables()[1][:, numbers[ends[:, 0]], numbers[ends[:, 1]]]
    missed = (100 * gaps[ends[:, 0], ends[:, 1]] - typical) ** 2
    for column, order in ((y, 1), (z, 2)):
        possible = np.isfinite(missed[order])
        most[column : column + bonds] = possible
        price[column : column + bonds] = np.where(possible, missed[order] - missed[order - 1], 0)
    sulphur = numbers[atoms] == NUMBERS["S"]
    price[s:k], price[k:] = _OPEN, _SULPHUR
    most[s:k], most[k:] = 6, 2 * sulphur
    table = np.zeros((rows + bonds, k + rows))
    for column in (y, z):
        for end in ends.T:
            table[np.searchsorted(atoms, end), column + np.arange(bonds)] = 1
    table[np.arange(rows), s + np.arange(rows)] = 1
    table[np.arange(rows), k + np.arange(rows)] = -2
    nested = np.arange(bonds)
    table[rows + nested, z + nested], table[rows + nested, y + nested] = 1, -1
    low = np.concatenate((spare[atoms], np.full(bonds, -np.inf)))
    high = np.concatenate((spare[atoms], np.zeros(bonds)))
    answer = milp(
        price,
        constraints=LinearConstraint(csr_array(table), low, high),
        bounds=Bounds(0, most),
        integrality=np.ones(len(price)),
        options={"time_limit": _SECONDS},
    )
    rest = spare.copy()
    if answer.x is None:
        return np.zeros(bonds, dtype=np.int64), rest
    chosen = np.rint(answer.x).astype(np.int64)
    rest[atoms] = chosen[s:k]
    return chosen[y:z] + chosen[z:s], rest


def orders_of(positions: Tensor, classes: Tensor, name: str) -> Tensor:
    """Bond orders by the rule of the alphabet: EDM's table for QM9, these for drug-like molecules.

    Args, Raises: as of `bonds.bond_orders`.

    Returns:
        (B, A, A) long, symmetric, zero where there is no bond.
    """
    if described(name).aromatic:
        return fitting_orders(positions, classes, name)[0]
    return bond_orders(positions, classes, name)


def fitting_orders(positions: Tensor, classes: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Bond orders of molecules of a heavy alphabet.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        name: "qm9-heavy" or "moses-heavy".

    Returns:
        Orders (B, A, A) and open valences (B, A), long, on the device of the classes, zero where
        there is no atom.

    Raises:
        ValueError: shapes that do not match, or a class outside the alphabet.
    """
    check_atoms(positions, classes)
    numbers, attached = (f(classes, name).cpu().numpy() for f in (atomic_numbers, hydrogens))
    where = positions.detach().cpu().double().numpy()
    orders = np.zeros((*numbers.shape, numbers.shape[1]), dtype=np.int64)
    rest = np.zeros(numbers.shape, dtype=np.int64)
    for row, number in enumerate(numbers):
        own = np.flatnonzero(number)
        bonds, rest[row, own] = solve(number[own], attached[row, own], where[row, own])
        orders[row][np.ix_(own, own)] = bonds
    return torch.from_numpy(orders).to(classes.device), torch.from_numpy(rest).to(classes.device)
