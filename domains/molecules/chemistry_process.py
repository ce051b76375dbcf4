"""The other end of `subprocesses`: one request a line on standard input, one reply a line back.

Runs as a script of its own, so that a call into RDKit, PoseBusters or tblite that hangs, exhausts
the memory or crashes takes nothing with it. Requests and replies are JSON; molecules travel in
RDKit's own binary form, base64.

    hydrogens    places the hydrogens of a heavy skeleton (`hydrogen_placement`)
    bonds        bond orders and charges of bound atoms (`bond_perception`)
    name         SMILES, InChIKey, formula, charges, radicals, pieces (`bond_perception`)
    conformer    of a SMILES: positions by ETKDGv3 and MMFF94s, scores (`conformation`)
    embed        hydrogens and positions by ETKDG, then MMFF94s (Riniker and Landrum 2015)
    relax        MMFF94s to a minimum: strain = E(given) - E(minimum), RMSD after superposition
    posebusters  the checks of PoseBusters' configuration "mol"
    xtb          GFN2-xTB single point: dipole, orbital energies, gradient
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

BOHR, HARTREE, DEBYE = 0.529177211, 27.211386246, 2.541746473


def pack(mol: Any) -> str:
    from rdkit import Chem

    options = Chem.PropertyPickleOptions  # without, positions are rounded to float32
    return base64.b64encode(mol.ToBinary(int(options.AllProps | options.CoordsAsDouble))).decode()


def unpack(text: str) -> Any:
    from rdkit import Chem

    return Chem.Mol(base64.b64decode(text))  # type: ignore[call-overload]


@cache
def sibling(name: str) -> Any:
    """A module of this folder, by its file: the folder itself is not searched for modules."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relax(request: dict[str, Any]) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign

    mol = unpack(request["mol"])
    relaxed = Chem.Mol(mol)
    forces = sibling("hydrogen_placement").field(relaxed)
    before = forces.CalcEnergy()
    converged = forces.Minimize(maxIts=int(request["steps"])) == 0
    strain = before - forces.CalcEnergy()
    same = [(i, i) for i in range(mol.GetNumAtoms())]
    rmsd = rdMolAlign.AlignMol(relaxed, mol, atomMap=same)
    return {"mol": pack(relaxed), "strain": strain, "rmsd": rmsd, "converged": converged}


def hydrogens(request: dict[str, Any]) -> dict[str, Any]:
    mol, note = sibling("hydrogen_placement").place(unpack(request["mol"]), request["field"])
    return {"mol": pack(mol), "note": note}


def bonds(request: dict[str, Any]) -> dict[str, Any]:
    perceive = sibling("bond_perception").perceive
    return {"mol": pack(perceive(unpack(request["mol"]), request["longer"], request["charge"]))}


def name(request: dict[str, Any]) -> dict[str, Any]:
    mol = unpack(request["mol"])
    names: dict[str, Any] = sibling("bond_perception").name(mol, bool(request["stereo"]))
    return {"mol": pack(mol), **names}


def embed(request: dict[str, Any]) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.AddHs(unpack(request["mol"]))
    if rdDistGeom.EmbedMolecule(mol, randomSeed=int(request["seed"])):
        raise ValueError("ETKDG found no positions")
    field = sibling("hydrogen_placement").field
    with contextlib.suppress(ValueError):  # no parameters: ETKDG's own positions
        field(mol).Minimize(maxIts=500)
    return {"mol": pack(mol)}


def conformer(request: dict[str, Any]) -> dict[str, Any]:
    field = sibling("hydrogen_placement").field
    make, score = sibling("conformation").conformer, sibling("score_functions").score
    told: dict[str, Any] = make(request["smiles"], field, score)
    return told


def posebusters(request: dict[str, Any]) -> dict[str, Any]:
    from posebusters import PoseBusters
    from rdkit import Chem

    mol = unpack(request["mol"])
    Chem.SanitizeMol(mol)
    table = PoseBusters(config="mol").bust([mol], None, None)
    checks = {str(name): table[name].iloc[0] for name in table.columns}
    # A check that could not be made is NaN, and bool(NaN) is True.
    return {"checks": {key: None if v is None or v != v else bool(v) for key, v in checks.items()}}


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
    "name": name,
    "conformer": conformer,
    "embed": embed,
    "posebusters": posebusters,
    "xtb": xtb,
    "load": load,
}


if __name__ == "__main__":
    own = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != own]  # files.py here is no library's
    from ctrlgen.runs.serving import serve

    serve(TASKS)
