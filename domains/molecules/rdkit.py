"""RDKit molecules from positions and classes by the bond table, and their SMILES by EDM's rule.

    mol      atoms, bonds and conformer as generated: the hydrogens of a heavy class are explicit
             counts without a place, missing valences stay open (radicals)
    SMILES   EDM's rule: the graph is sanitised, its largest piece is kept, hydrogens are removed
             and missing valences filled by them; no stereo marks, no charges

A molecule that RDKit does not sanitise has no SMILES and is not valid. Both alphabets write one
molecule as one SMILES. These are for EDM's metrics; what a molecule is, `perception` says. Source
of the rule: Hoogeboom et al. (arXiv 2203.17003), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import (
    MAX_ATOMS,
    atomic_numbers,
    classes_of,
    hydrogens,
)
from ctrlgen.domains.molecules.elements import (
    alphabet as known_alphabet,
)
from ctrlgen.domains.molecules.kekule import orders_of
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["arrays", "build", "crowded", "mols", "smiles", "tensors"]

_TOUCHING = 0.1
"""Distance in A below which two atoms are in one place; the shortest bond, H-H, has 0.74."""


def _chem() -> Any:
    require("rdkit", "molecules")
    from rdkit import Chem

    return Chem


def _quiet() -> Any:
    """RDKit says nothing within: what fails is said in the result."""
    from rdkit import rdBase

    return rdBase.BlockLogs()


def build(
    numbers: Sequence[int],
    positions: np.ndarray,
    orders: np.ndarray,
    attached: Sequence[int] | None = None,
) -> Mol:
    """One molecule, not sanitised.

    Args:
        numbers: atomic numbers (n,).
        positions: (n, 3) in A.
        orders: bond orders (n, n), 0 to 3.
        attached: hydrogens on each atom that have no place of their own (n,).
    """
    chem = _chem()
    mol = chem.RWMol()
    for i, number in enumerate(numbers):
        atom = chem.Atom(int(number))
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(int(attached[i]) if attached is not None else 0)
        mol.AddAtom(atom)
    kinds = (None, chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE)
    for i, j in zip(*np.nonzero(np.triu(orders, 1)), strict=True):
        mol.AddBond(int(i), int(j), kinds[int(orders[i, j])])
    conformer = chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()


def mols(
    positions: Tensor, classes: Tensor, alphabet: str = "qm9", orders: Tensor | None = None
) -> list[Mol | None]:
    """The molecules of a batch, each sanitised where RDKit can; None where a position is NaN.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        alphabet: of the classes.
        orders: bond orders (B, A, A) where they are known.

    Raises:
        ValueError: shapes that do not match, or a class outside the alphabet.
        MissingExtra: RDKit is not installed.
    """
    chem = _chem()
    orders = orders_of(positions, classes, alphabet) if orders is None else orders
    numbers = atomic_numbers(classes, alphabet).cpu().numpy()
    attached = hydrogens(classes, alphabet).cpu().numpy()
    where, bonds = positions.detach().cpu().double().numpy(), orders.cpu().numpy()
    found: list[Mol | None] = []
    for row, number in enumerate(numbers):
        kept = np.flatnonzero(number)
        if not np.isfinite(where[row, kept]).all():
            found.append(None)
            continue
        pairs = bonds[row][np.ix_(kept, kept)]
        mol = build(number[kept], where[row, kept], pairs, attached[row, kept])
        with _quiet():
            clean = chem.Mol(mol)
            done = chem.SanitizeMol(clean, catchErrors=True) == chem.SanitizeFlags.SANITIZE_NONE
        found.append(clean if done else mol)
    return found


def smiles(mol: Mol | None) -> str | None:
    """Canonical SMILES of the largest piece; None where RDKit does not sanitise the molecule."""
    if mol is None or not mol.GetNumAtoms():
        return None
    chem = _chem()
    with _quiet():
        return _smiles(mol, chem)


def _smiles(mol: Mol, chem: Any) -> str | None:
    copy = chem.RWMol(mol)
    for atom in copy.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumRadicalElectrons(0)
    none = chem.SanitizeFlags.SANITIZE_NONE
    if chem.SanitizeMol(copy, catchErrors=True) != none:
        return None
    pieces = chem.GetMolFrags(copy.GetMol(), asMols=True, sanitizeFrags=False)
    largest = max(pieces, key=lambda piece: piece.GetNumAtoms(onlyExplicit=False))
    if chem.SanitizeMol(largest, catchErrors=True) != none:
        return None
    return chem.MolToSmiles(chem.RemoveHs(largest, sanitize=False), isomericSmiles=False)


def crowded(positions: np.ndarray) -> str:
    """What is wrong where two atoms are in one place, in words; empty where none are.

    Args:
        positions: (n, 3) in A, finite.
    """
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    pairs = np.argwhere(np.triu(gaps < _TOUCHING, 1))
    if not len(pairs):
        return ""
    one, other = pairs[0] + 1
    return f"expected every atom in a place of its own, got atoms {one} and {other} in one"


def arrays(molecules: Sequence[Mol | None], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Atomic numbers (B, A) and positions (B, A, 3) of molecules, padded with zeros.

    Args:
        molecules: with one conformer each; None gives an empty row.
        width: A; the most atoms of a molecule when None.

    Raises:
        ValueError: a molecule without positions, or with more atoms than the width.
    """
    sizes = [0 if mol is None else mol.GetNumAtoms() for mol in molecules]
    width = max(sizes, default=0) if width is None else width
    if max(sizes, default=0) > width:
        raise ValueError(f"width: expected at least {max(sizes)}, got {width}")
    numbers = torch.zeros(len(sizes), width, dtype=torch.long)
    positions = torch.zeros(len(sizes), width, 3)
    for row, (mol, size) in enumerate(zip(molecules, sizes, strict=True)):
        if mol is None or not size:
            continue
        if not mol.GetNumConformers():
            raise ValueError(f"molecules: expected positions, molecule {row + 1} has none")
        numbers[row, :size] = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        positions[row, :size] = torch.from_numpy(mol.GetConformer().GetPositions()).float()
    return numbers, positions


def tensors(molecules: Sequence[Mol], alphabet: str = "qm9") -> tuple[Tensor, Tensor, Tensor]:
    """A user's molecules in an alphabet: positions, classes and counts, as `data.read` gives them.

    Args:
        molecules: with positions and bonds; hydrogens as atoms for "qm9", in any form for heavy
            alphabets.
        alphabet: of the result.

    Returns:
        positions (B, A, 3) float32 in A, centred; classes (B, A), -1 on padding; counts (B,).

    Raises:
        ValueError: an element or a size that the alphabet does not have, a net charge, hydrogens
            without a place in "qm9", no positions, two atoms in one place, or more hydrogens on an
            atom than its valence. Molecules are counted from 1.
    """
    symbols = list(dict.fromkeys(["H", *(symbol for symbol, _ in known_alphabet(alphabet))]))
    heavy_only = alphabet != "qm9"
    most, least = MAX_ATOMS[alphabet], 1 if heavy_only else 3
    attached = torch.zeros(len(molecules), most, dtype=torch.long)
    numbers, positions = torch.zeros_like(attached), torch.zeros(len(molecules), most, 3)
    for row, mol in enumerate(molecules):
        strange = {a.GetSymbol() for a in mol.GetAtoms()} - set(symbols)
        if strange:
            expected, names = ", ".join(symbols), ", ".join(sorted(strange))
            raise ValueError(f"molecule {row + 1}: expected elements {expected}, got {names}")
        if not mol.GetNumConformers():
            raise ValueError(f"molecule {row + 1}: expected positions, it has none")
        mol.UpdatePropertyCache(strict=False)
        charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
        if charge:
            raise ValueError(
                f"molecule {row + 1}: expected a neutral molecule, got charge {charge:+d}"
            )
        kept = [a for a in mol.GetAtoms() if not heavy_only or a.GetAtomicNum() > 1]
        if not least <= len(kept) <= most:
            kind = "heavy atoms" if heavy_only else "atoms, hydrogens included"
            raise ValueError(
                f"molecule {row + 1}: expected {least}..{most} {kind}, got {len(kept)}"
            )
        if not heavy_only and any(a.GetTotalNumHs() for a in kept):
            raise ValueError(f"molecule {row + 1}: expected hydrogens as atoms; add them first")
        places = torch.from_numpy(mol.GetConformer().GetPositions()[[a.GetIdx() for a in kept]])
        if not bool(places.isfinite().all()):
            raise ValueError(
                f"molecule {row + 1}: expected finite positions, got NaN or infinite ones"
            )
        wrong = crowded(mol.GetConformer().GetPositions())
        if wrong:
            raise ValueError(f"molecule {row + 1}: {wrong}")
        positions[row, : len(kept)] = (places - places.mean(dim=0)).float()
        numbers[row, : len(kept)] = torch.tensor([a.GetAtomicNum() for a in kept])
        counts = [a.GetTotalNumHs(includeNeighbors=True) if heavy_only else 0 for a in kept]
        attached[row, : len(kept)] = torch.tensor(counts)
    classes = classes_of(numbers, attached if heavy_only else None, alphabet)
    return positions, classes, (classes >= 0).sum(dim=1)
