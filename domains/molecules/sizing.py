r"""Which numbers of atoms suit a wish, and what speaks against it before anything is computed.

The table of sizes (`atom_counts`) is cut to those that have room for what is asked: a composition,
a fragment, a scaffold and at least one atom beside it. A target that lies outside the 0.5 % to
99.5 % range of QM9's molecules of every size is likely to be met by nonsense, if at all: it is
told, and refused beyond five mean absolute deviations unless `Wish.far` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctrlgen.domains.molecules.atom_counts import Sizes, sizes
from ctrlgen.domains.molecules.composition import possible_sizes
from ctrlgen.domains.molecules.costs import allowed_classes
from ctrlgen.domains.molecules.elements import ALL_ATOM, alphabet
from ctrlgen.domains.molecules.rdkit import crowded, tensors

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from ctrlgen.domains.molecules.requirements import Wish

__all__ = ["fitting", "heavy_atoms", "limit_text"]

_FAR, _ODD = 5.0, 4.0


def fitting(wish: Wish, name: str, atoms: Sequence[int]) -> tuple[Sizes, list[str]]:
    """The table of sizes for a wish, and what speaks against it.

    Args:
        wish: what is asked.
        name: alphabet of the prior.
        atoms: numbers of atoms that are allowed.

    Raises:
        ValueError: a target too far off the data, or a piece that does not fit.
    """
    alphabet(name)
    table, said = sizes(name).only(atoms), []
    for request in wish.requests:
        away = float(table.distances(request).min())
        if away > _FAR and not wish.far:
            raise ValueError(
                f"{request}: is {away:.1f} mean absolute deviations outside QM9's molecules of "
                f"every size (0.5 % to 99.5 %), the limit is {_FAR:g}; --far overrides"
            )
        if away > 0:
            said.append(f"{request} lies {away:.1f} deviations outside QM9's molecules")
    odd = float(table.mahalanobis(wish.requests).min())
    if odd > _ODD and not said:
        said.append(f"the targets together are unlike QM9 (Mahalanobis distance {odd:.1f})")
    if wish.limits:
        table = _composed(wish, table, name, atoms)
    if wish.fragment is not None:
        size = len(heavy_atoms(wish.fragment))
        if size > max(atoms):
            raise ValueError(
                f"fragment: has {size} heavy atoms, the molecules at most {max(atoms)}"
            )
        allowed_classes(heavy_atoms(wish.fragment), name)
        table = table.only([n for n in table.atoms.tolist() if n >= size])
    if wish.scaffold is not None:
        table = _beside_scaffold(wish, table, name)
        if wrong := wish.scaffold.unstable():
            said.append(
                f"atoms {', '.join(map(str, wrong))} of the scaffold are not stable by the "
                "bond table where they are, so that no molecule with it is"
            )
    if wish.like is not None:
        tensors([wish.like], name)
    return table, said


def _beside_scaffold(wish: Wish, table: Sizes, name: str) -> Sizes:
    """The sizes that have room beside the scaffold.

    Raises:
        ValueError: there is none, or the limits on elements have no room for it.
    """
    assert wish.scaffold is not None
    own = [s for s, _ in heavy_atoms(wish.scaffold.mol)]
    for symbol, (_, high) in wish.limits.items():
        if symbol != "H" and own.count(symbol) > high:
            raise ValueError(
                f"scaffold: has {own.count(symbol)} {symbol}, of which at most {high:g} may be"
            )
    size = len(wish.scaffold.places(name).positions)
    if not any(n > size for n in table.atoms.tolist()):
        kind = "heavy atoms" if name == "qm9-heavy" else "atoms that it holds"
        raise ValueError(
            f"scaffold: has {size} {kind}, the molecules {_span(table.atoms.tolist())}: "
            "expected at least one more"
        )
    return table.only([n for n in table.atoms.tolist() if n > size])


def _composed(wish: Wish, table: Sizes, name: str, atoms: Sequence[int]) -> Sizes:
    """The sizes that the limits on elements leave.

    Raises:
        ValueError: there is none.
    """
    exact = len(wish.limits) == len(ALL_ATOM)
    what = "formula" if exact and all(a == b for a, b in wish.limits.values()) else "element"
    fits = possible_sizes(wish.limits, name)
    text = ", ".join(f"{s} {limit_text(*limit)}" for s, limit in wish.limits.items())
    if not fits:
        raise ValueError(
            f"{what}: no neutral molecule of one to nine atoms of C, N, O, F and hydrogens "
            f"has {text}"
        )
    if not set(fits) & set(table.atoms.tolist()):
        kind = "heavy atoms" if name == "qm9-heavy" else "atoms"
        raise ValueError(
            f"{what}: {text} takes {_span(fits)} {kind}, the molecules have {_span(atoms)}"
        )
    return table.only(fits)


def limit_text(low: float, high: float) -> str:
    """Limits on a number as text: 3, 2..4, >= 2."""
    if low == high:
        return f"= {low:g}"
    if high == float("inf"):
        return f">= {low:g}"
    return f"<= {high:g}" if low == 0 else f"{low:g}..{high:g}"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def heavy_atoms(mol: Mol) -> list[tuple[str, int]]:
    """(symbol, hydrogens) of the heavy atoms of a molecule.

    Raises:
        ValueError: if there is none, it has no positions, or two atoms are in one place.
    """
    mol.UpdatePropertyCache(strict=False)
    found = [
        (atom.GetSymbol(), atom.GetTotalNumHs(includeNeighbors=True))
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() > 1
    ]
    if not found or not mol.GetNumConformers():
        raise ValueError("fragment: expected heavy atoms with positions, got none")
    if wrong := crowded(mol.GetConformer().GetPositions()):
        raise ValueError(f"fragment: {wrong}")
    return found
