"""Hydrogens for heavy skeletons, and MMFF94s; tasks of `chemistry_process`, nothing of ctrlgen.

Hydrogens are placed by the geometry of the neighbours. Where RDKit has none for an atom (a valence
that is exceeded, no known hybridisation) it leaves them at the origin; they then go to the points
of a sphere about their atom that are farthest from everything about it. MMFF94s follows with the
heavy atoms fixed, each terminal OH, SH or NH2 turned by 0, 120, 240 degrees in turn and left where
the energy is lowest. No hydrogen ends farther from its atom than `REACH`.
"""

from __future__ import annotations

from typing import Any

NEAR, REACH = 0.7, 1.3  # A, of a hydrogen from its atom
LENGTHS = {6: 1.09, 7: 1.01, 8: 0.96, 9: 0.92}
AROUND = 2.2  # A, within which atoms are in the way of a hydrogen
POINTS = 256  # directions that are tried


def field(mol: Any) -> Any:
    """MMFF94s for a molecule with all its atoms."""
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers as helpers

    Chem.SanitizeMol(mol)
    parameters = helpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    if parameters is None:
        raise ValueError("no MMFF94s parameters for this molecule")
    found = helpers.MMFFGetMoleculeForceField(mol, parameters)
    found.Initialize()
    return found


def rotors(mol: Any) -> list[tuple[int, int, list[int]]]:
    """Terminal heavy atoms with one or two hydrogens: the atom, its neighbour, the hydrogens."""
    found = []
    for atom in mol.GetAtoms():
        near = atom.GetNeighbors()
        hydrogens = [other.GetIdx() for other in near if other.GetAtomicNum() == 1]
        heavy = [other for other in near if other.GetAtomicNum() > 1]
        turns = len(heavy) == 1 and heavy[0].GetDegree() > 1 and len(hydrogens) in (1, 2)
        if atom.GetAtomicNum() > 1 and turns:
            found.append((atom.GetIdx(), heavy[0].GetIdx(), hydrogens))
    return found


def turned(places: Any, atom: int, axis: int, hydrogens: list[int], angle: float) -> Any:
    """Positions with hydrogens rotated about the bond axis-atom (Rodrigues)."""
    import numpy as np

    unit = places[atom] - places[axis]
    unit = unit / max(np.linalg.norm(unit), 1e-6)
    arms = places[hydrogens] - places[atom]
    along = (arms @ unit)[:, None] * unit
    moved = places.copy()
    moved[hydrogens] = (
        places[atom] + along + (arms - along) * np.cos(angle) + np.cross(unit, arms) * np.sin(angle)
    )
    return moved


def sphere() -> Any:
    """Unit vectors spread evenly (a Fibonacci lattice), shape (POINTS, 3)."""
    import numpy as np

    place = np.arange(POINTS) + 0.5
    height = 1 - 2 * place / POINTS
    angle, radius = np.pi * (1 + 5**0.5) * place, np.sqrt(1 - height**2)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle), height), 1)


def stray(mol: Any) -> dict[int, list[int]]:
    """By atom, its hydrogens, where one is too near, too far away, nowhere, or on another."""
    import numpy as np

    places, lost = mol.GetConformer().GetPositions(), {}
    for atom in mol.GetAtoms():
        own = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
        if atom.GetAtomicNum() < 2 or not own:
            continue
        gaps = np.linalg.norm(places[own, None] - places, axis=2)
        reach = gaps[:, atom.GetIdx()].copy()
        gaps[range(len(own)), own] = np.inf
        if not ((gaps > NEAR).all() and (reach < REACH).all()):  # NaN is neither
            lost[atom.GetIdx()] = own
    return lost


def mend(mol: Any) -> None:
    """Move the hydrogens that are astray to free directions about their atoms."""
    import numpy as np

    for parent, lost in stray(mol).items():
        atom, conformer = mol.GetAtomWithIdx(parent), mol.GetConformer()
        centre = np.array(conformer.GetAtomPosition(parent))
        length = LENGTHS.get(atom.GetAtomicNum(), 1.05)
        places = conformer.GetPositions()
        away = np.linalg.norm(places - centre, axis=1)
        near = [i for i in np.flatnonzero(away < AROUND) if i not in lost and i != parent]
        arms = places[near] - centre
        size = np.linalg.norm(arms, axis=1, keepdims=True)
        directions, taken = sphere(), list(arms / np.maximum(size, 1e-6))
        for hydrogen in lost:
            nearest = (directions @ np.array(taken).T).max(1) if taken else directions[:, 2]
            free = directions[nearest.argmin()]
            taken.append(free)
            conformer.SetAtomPosition(hydrogen, centre + length * free)


def place(mol: Any, minimise: bool = True) -> tuple[Any, str]:
    """A copy with every counted hydrogen as an atom, and what kept MMFF94s from moving them."""
    import numpy as np
    from rdkit import Chem

    mol = Chem.Mol(mol)
    mol.UpdatePropertyCache(strict=False)
    # Not the check of valences: hybridisation, which says where hydrogens go, comes after it.
    steps = Chem.SanitizeFlags.SANITIZE_ALL ^ Chem.SanitizeFlags.SANITIZE_PROPERTIES
    Chem.SanitizeMol(mol, steps, catchErrors=True)
    mol = Chem.AddHs(mol, addCoords=True)
    mend(mol)
    if not minimise:
        return mol, ""
    placed = Chem.Mol(mol)
    try:
        forces = field(placed)
    except ValueError as error:
        return mol, str(error)
    for atom in placed.GetAtoms():
        if atom.GetAtomicNum() > 1:
            forces.AddFixedPoint(atom.GetIdx())
    forces.Minimize(maxIts=200)
    conformer = placed.GetConformer()
    for end, axis, moving in rotors(placed):
        start, best = conformer.GetPositions(), (np.inf, conformer.GetPositions())
        for turn in range(3):
            angle = 2 * np.pi * turn / 3
            conformer.SetPositions(turned(start, end, axis, moving, angle))
            forces.Minimize(maxIts=200)
            energy = forces.CalcEnergy()
            if energy < best[0] - 1e-6:
                best = (energy, conformer.GetPositions())
        conformer.SetPositions(best[1])
    if stray(placed):  # a position that is NaN is astray as well
        return mol, "MMFF94s diverged"
    return placed, ""
