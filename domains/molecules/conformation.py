"""One conformer of a SMILES, and RDKit's scores of it; a task of `chemistry_process`.

Nothing of ctrlgen is imported here. ETKDGv3 with a fixed seed, once more from random coordinates
where it finds nothing, then MMFF94s to its minimum (Riniker and Landrum, J. Chem. Inf. Model. 55,
2562, 2015; Wang et al., ibid. 60, 2044, 2020; Halgren, J. Comput. Chem. 20, 720, 1999). Heavy atoms
come in the order of the SMILES.
"""

from __future__ import annotations

from typing import Any

SEED = 0
ROUNDS, STEPS = 5, 1000  # of the minimiser
SCORES = ("qed", "logp", "sa")


def conformer(smiles: str, field: Any, score: Any) -> dict[str, Any]:
    """Heavy atoms of the conformer and scores, or the status of what has none.

    Args:
        smiles: of one neutral molecule.
        field: `hydrogen_placement.field`.
        score: `score_functions.score`.

    Returns:
        status "done", "not read", "no positions", "no parameters" or "not converged"; scores by
        name where it was read; and where it is done numbers (n,), attached (n,) hydrogens,
        positions (n, 3) in A.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return {"status": "not read"}
    told: dict[str, Any] = {"scores": {name: float(score(name)(mol)) for name in SCORES}}
    whole = Chem.AddHs(mol)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = SEED
    if rdDistGeom.EmbedMolecule(whole, options):
        options.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(whole, options):
            return {**told, "status": "no positions"}
    try:
        forces = field(whole)
    except ValueError:
        return {**told, "status": "no parameters"}
    if all(forces.Minimize(maxIts=STEPS) for _ in range(ROUNDS)):  # zero where it has converged
        return {**told, "status": "not converged"}
    heavy = [atom for atom in whole.GetAtoms() if atom.GetAtomicNum() > 1]
    places = whole.GetConformer().GetPositions()[[atom.GetIdx() for atom in heavy]]
    return {
        **told,
        "status": "done",
        "numbers": [atom.GetAtomicNum() for atom in heavy],
        "attached": [atom.GetTotalNumHs(includeNeighbors=True) for atom in heavy],
        "positions": places.tolist(),
    }
