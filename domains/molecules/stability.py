"""Atom and molecule stability by bond orders.

    atom stable      <=>  sum of its bond orders (+ attached hydrogens) = valence, H1 C4 N3 O2 F1
    molecule stable  <=>  every atom is stable

In the all-atom alphabet hydrogens are atoms and the sum runs over them; in the heavy alphabet they
are counted by the atom's class. The sum must equal the valence: fewer bonds are not stable either.
Real QM9 molecules score 95.2 % in either reading, zwitterions and long bonds making up the rest.

Drug-like molecules are mostly aromatic, of which the table knows nothing. In such an
alphabet the table says only which atoms are bound, and an atom is stable where whole bond orders
that fit its valence can be chosen together with those of all others (`kekule`).

Source: Hoogeboom et al. (arXiv 2203.17003), section 5 and appendix C; see `bonds`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctrlgen.domains.molecules.bonds import bond_orders, components
from ctrlgen.domains.molecules.elements import VALENCE, alphabet, described, hydrogens
from ctrlgen.domains.molecules.kekule import fitting_orders

__all__ = ["Stability", "stability"]


class Stability(NamedTuple):
    """What the bond table says of each molecule.

    Attributes:
        atoms: (B, A) bool, stable atoms; False on padding.
        fraction: (B,) float32, stable atoms over atoms.
        molecules: (B,) bool, all atoms stable.
        connected: (B,) bool, one piece.
        finite: (B,) bool, no position NaN or infinite; others are neither stable nor connected.
        orders: (B, A, A) long, bond orders.
    """

    atoms: Tensor
    fraction: Tensor
    molecules: Tensor
    connected: Tensor
    finite: Tensor
    orders: Tensor


def stability(positions: Tensor, classes: Tensor, name: str = "qm9") -> Stability:
    """Stability of each molecule of a batch.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        name: alphabet.

    Raises:
        ValueError: shapes that do not match, a class outside the alphabet, or no atom in a row.
    """
    orders = bond_orders(positions, classes, name)  # which checks the shapes as well
    mask = classes >= 0
    counts = mask.sum(dim=1)
    if bool((counts == 0).any()):
        row = int((counts == 0).nonzero()[0])
        raise ValueError(
            f"classes: expected at least one atom in every molecule, none in row {row}"
        )
    if described(name).aromatic:
        orders, rest = fitting_orders(positions, classes, name)
        fitting = rest == 0
    else:
        valences = [VALENCE[symbol] for symbol, _ in alphabet(name)]
        valence = torch.tensor([*valences, 0], device=classes.device)[classes]
        fitting = orders.sum(dim=2) + hydrogens(classes, name) == valence
    finite = (positions.isfinite().all(dim=2) | ~mask).all(dim=1)
    atoms = fitting & mask & finite.unsqueeze(1)
    stable = atoms.sum(dim=1)
    return Stability(
        atoms,
        stable / counts,
        stable == counts,
        (components(orders, mask) == 1) & finite,
        finite,
        orders,
    )
