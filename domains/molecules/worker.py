"""The other end of `subprocesses`: one request a line on standard input, one reply a line back.

Runs as a script of its own, so that a call into RDKit, PoseBusters or tblite that hangs, exhausts
the memory or crashes takes nothing with it. Requests and replies are JSON; molecules travel in
RDKit's own binary form, base64. Nothing of ctrlgen is imported.

    hydrogens    places the hydrogens of a heavy skeleton: by the neighbours' geometry, then MMFF94s
                 with the heavy atoms fixed, each terminal OH, SH or NH2 turned by 0, 120, 240
                 degrees in turn and left where the energy is lowest
    relax        MMFF94s to a minimum: strain = E(given) - E(minimum), RMSD after superposition
    bonds        RDKit's DetermineBonds from elements and positions alone
    posebusters  the checks of PoseBusters' configuration "mol"
    xtb          GFN2-xTB single point: dipole, orbital energies, gradient
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import sys
from typing import Any

BOHR, HARTREE, DEBYE = 0.529177211, 27.211386246, 2.541746473


def pack(mol: Any) -> str:
    return base64.b64encode(mol.ToBinary()).decode()


def unpack(text: str) -> Any:
    from rdkit import Chem

    return Chem.Mol(base64.b64decode(text))  # type: ignore[call-overload]


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


def hydrogens(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from rdkit import Chem

    mol = unpack(request["mol"])
    mol.UpdatePropertyCache(strict=False)
    mol = Chem.AddHs(mol, addCoords=True)
    placed = Chem.Mol(mol)
    try:
        forces = field(placed)
    except ValueError as error:  # placed by geometry alone
        return {"mol": pack(mol), "note": str(error)}
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
    if not np.isfinite(conformer.GetPositions()).all():
        return {"mol": pack(mol), "note": "MMFF94s diverged"}
    return {"mol": pack(placed), "note": ""}


def relax(request: dict[str, Any]) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign

    mol = unpack(request["mol"])
    relaxed = Chem.Mol(mol)
    forces = field(relaxed)
    before = forces.CalcEnergy()
    converged = forces.Minimize(maxIts=int(request["steps"])) == 0
    strain = before - forces.CalcEnergy()
    same = [(i, i) for i in range(mol.GetNumAtoms())]
    rmsd = rdMolAlign.AlignMol(relaxed, mol, atomMap=same)
    return {"mol": pack(relaxed), "strain": strain, "rmsd": rmsd, "converged": converged}


def bonds(request: dict[str, Any]) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds
    from rdkit.Geometry import Point3D

    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(request["numbers"]))
    for i, (number, place) in enumerate(zip(request["numbers"], request["positions"], strict=True)):
        mol.AddAtom(Chem.Atom(int(number)))
        conformer.SetAtomPosition(i, Point3D(*map(float, place)))
    mol.AddConformer(conformer, assignId=True)
    rdDetermineBonds.DetermineBonds(mol, charge=int(request["charge"]))
    return {"mol": pack(mol.GetMol())}


def posebusters(request: dict[str, Any]) -> dict[str, Any]:
    from posebusters import PoseBusters
    from rdkit import Chem

    mol = unpack(request["mol"])
    Chem.SanitizeMol(mol)
    table = PoseBusters(config="mol").bust([mol], None, None)
    return {"checks": {str(name): bool(table[name].iloc[0]) for name in table.columns}}


def xtb(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from tblite.interface import Calculator

    positions = np.array(request["positions"], dtype=float) / BOHR
    electrons = int(sum(request["numbers"])) - int(request["charge"])
    calculator = Calculator(
        "GFN2-xTB",
        np.array(request["numbers"]),
        positions,
        charge=float(request["charge"]),
        uhf=electrons % 2,
    )
    calculator.set("verbosity", 0)
    found = calculator.singlepoint()
    energies = np.asarray(found.get("orbital-energies")).ravel() * HARTREE
    filled = np.asarray(found.get("orbital-occupations")).ravel()
    homo = float(energies[filled > 0.5].max())
    lumo = float(energies[filled <= 0.5].min()) if (filled <= 0.5).any() else float("nan")
    gradient = np.asarray(found.get("gradient")) * HARTREE / BOHR
    return {
        "energy": float(found.get("energy")) * HARTREE,
        "mu": float(np.linalg.norm(found.get("dipole"))) * DEBYE,
        "homo": homo,
        "lumo": lumo,
        "gradient": float(np.sqrt((gradient**2).mean())),
    }


def load(request: dict[str, Any]) -> dict[str, Any]:
    importlib.import_module(request["module"])
    return {}


TASKS = {
    "hydrogens": hydrogens,
    "relax": relax,
    "bonds": bonds,
    "posebusters": posebusters,
    "xtb": xtb,
    "load": load,
}


def main() -> None:
    """Answers until the input ends; what libraries print goes nowhere."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with contextlib.suppress(ImportError, ValueError, OSError):  # bounds a runaway search
        import resource

        bytes_allowed = int(float(os.environ["CTRLGEN_WORKER_GB"]) * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (bytes_allowed, bytes_allowed))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = TASKS[request["task"]](request)
        except MemoryError:
            reply = {"error": "out of memory"}
        except Exception as error:  # whatever a library raises belongs to this one molecule
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
