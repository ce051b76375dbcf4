"""Bond orders of bound atoms, and names of molecules; tasks of `chemistry_process`.

Nothing of ctrlgen is imported here. A graph that says which atoms are bound, with the hydrogens
that its atoms count, becomes a molecule by RDKit's search for bond orders and charges
(DetermineBondOrders, after Kim and Kim, Bull. Korean Chem. Soc. 36, 1769, 2015). Tried in turn,
until one has neither charges nor radicals:

    1. the bonds as they are, formal charges allowed, their sum the charge of the molecule
    2. the same with bonds added that are a little too long (strained rings)

Where both leave charges, the first that has an answer at all; where none has, piece by piece:
neutral with charges, neutral with radicals, a cation, an anion.
"""

from __future__ import annotations

from typing import Any

STEPS = 200_000  # of the search, far above what 30 atoms take


def expanded(graph: Any) -> Any:
    """A copy whose counted hydrogens are atoms, all bonds single and nothing charged."""
    from rdkit import Chem

    mol = Chem.RWMol(graph)
    for bond in mol.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    where = mol.GetConformer()
    for atom in list(mol.GetAtoms()):
        index, count = atom.GetIdx(), atom.GetNumExplicitHs()
        atom.SetNumExplicitHs(0)
        atom.SetNoImplicit(True)
        atom.SetFormalCharge(0)
        atom.SetNumRadicalElectrons(0)
        atom.SetIsAromatic(False)
        for _ in range(count):
            hydrogen = mol.AddAtom(Chem.Atom(1))
            mol.GetAtomWithIdx(hydrogen).SetNoImplicit(True)
            mol.AddBond(index, hydrogen, Chem.BondType.SINGLE)
            where.SetAtomPosition(hydrogen, where.GetAtomPosition(index))
    return mol


def counted(mol: Any, atoms: int) -> Any:
    """The inverse of `expanded`: hydrogens beyond the first `atoms` become counts."""
    from rdkit import Chem

    own = Chem.RWMol(mol)
    for index in range(own.GetNumAtoms() - 1, atoms - 1, -1):
        parent = own.GetAtomWithIdx(index).GetNeighbors()[0]
        count = parent.GetNumExplicitHs() + 1
        own.RemoveAtom(index)
        parent.SetNumExplicitHs(count)
        parent.SetNoImplicit(True)
    for atom in own.GetAtoms():
        atom.SetNoImplicit(True)
    return own


def solved(mol: Any, charge: int, ions: bool) -> Any:
    """A copy with bond orders, None where the valences have no solution of this charge."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    own = Chem.RWMol(mol)
    try:
        rdDetermineBonds.DetermineBondOrders(
            own, charge=charge, allowChargedFragments=ions, embedChiral=False, maxIterations=STEPS
        )
        Chem.SanitizeMol(own)
    except (RuntimeError, ValueError):
        return None
    return own if Chem.GetFormalCharge(own) == charge else None


def opened(mol: Any) -> Any:
    """A copy as a neutral radical: the anion's solution, its one charge an unpaired electron."""
    from rdkit import Chem

    own = solved(mol, -1, True)
    charged = [] if own is None else [a for a in own.GetAtoms() if a.GetFormalCharge()]
    if len(charged) != 1:
        return None
    charged[0].SetFormalCharge(0)
    charged[0].SetNumRadicalElectrons(charged[0].GetNumRadicalElectrons() + 1)
    return None if Chem.SanitizeMol(own, catchErrors=True) else own


def by_pieces(mol: Any) -> Any:
    """A copy solved piece by piece, each of the charge that it needs; None where one has none."""
    from rdkit import Chem

    own = Chem.RWMol(mol)
    indices: list[Any] = []
    parts = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=indices)
    for part, places in zip(parts, indices, strict=True):
        answer = solved(part, 0, True) or opened(part)
        for charge, ions in ((0, False), (1, True), (-1, True)):
            answer = answer or solved(part, charge, ions)
        if answer is None:
            return None
        Chem.Kekulize(answer, clearAromaticFlags=True)
        for atom in answer.GetAtoms():
            other = own.GetAtomWithIdx(places[atom.GetIdx()])
            other.SetFormalCharge(atom.GetFormalCharge())
            other.SetNumRadicalElectrons(atom.GetNumRadicalElectrons())
        for bond in answer.GetBonds():
            ends = places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()]
            own.GetBondBetweenAtoms(*ends).SetBondType(bond.GetBondType())
    return None if Chem.SanitizeMol(own, catchErrors=True) else own


def plain(mol: Any) -> bool:
    """Whether no atom has a charge or an unpaired electron."""
    return not any(a.GetFormalCharge() or a.GetNumRadicalElectrons() for a in mol.GetAtoms())


def perceive(graph: Any, longer: list[list[int]], charge: int | None) -> Any:
    """The molecule of a graph.

    Args:
        graph: bound atoms with their hydrogens, atoms or counts, and positions.
        longer: pairs of atoms that may be bound as well.
        charge: of the whole; None for neutral, or what its pieces need.

    Raises:
        ValueError: no bond orders fit the valences.
    """
    from rdkit import Chem

    first, whole = None, expanded(graph)
    for pairs in ([], longer) if longer else ([],):
        mol = Chem.RWMol(whole)
        for i, j in pairs:
            mol.AddBond(i, j, Chem.BondType.SINGLE)
        answer = solved(mol, charge or 0, True)
        if answer is not None and plain(answer):
            first = answer
            break
        first = answer if first is None else first
    if first is None:
        lone = opened(whole) if charge == 0 else None
        first = by_pieces(whole) if charge is None else lone or solved(whole, charge, False)
    if first is None:
        raise ValueError("no bond orders fit the valences of its atoms")
    mol = counted(first, graph.GetNumAtoms())
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def name(mol: Any, stereo: bool) -> dict[str, Any]:
    """Names of a molecule, and what is odd about it.

    Args:
        mol: with all hydrogens as atoms or counts.
        stereo: take the stereo marks from the positions; those that it has are kept otherwise.

    Raises:
        ValueError: RDKit does not sanitise it.
    """
    from rdkit import Chem
    from rdkit.Chem import rdMolDescriptors

    Chem.SanitizeMol(mol)
    if stereo and mol.GetNumConformers():
        Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
    return {
        "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
        "inchikey": Chem.MolToInchiKey(mol) or None,
        "formula": rdMolDescriptors.CalcMolFormula(mol),
        "charge": Chem.GetFormalCharge(mol),
        "charged": sum(bool(atom.GetFormalCharge()) for atom in mol.GetAtoms()),
        "radicals": sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()),
        "pieces": len(Chem.GetMolFrags(mol)),
    }
