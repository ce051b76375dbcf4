"""Molecules as a chemist reads them: bonds solved for, names that agree with the structure.

    bound      by the distance table (`bonds`): which atoms touch, not how
    orders     solved for by RDKit under the valences, aromatic where they are, charges and radicals
               where nothing else fits; rings strained a little beyond the table are closed where
               that leaves neither (`bond_perception`); of drug-like molecules, with sulphur of two,
               four or six bonds, first by the valences alone (`kekule`)
    names      SMILES with stereo marks from the positions, InChIKey, formula: of all pieces

A molecule that comes with a bond table keeps it. `valid` asks for what a flask could hold: RDKit
sanitises it, one piece, no unpaired electron, no net charge; `reason` says what is missing.
EDM's stability and validity read the table's orders instead and are kept apart (`metrics`): there
benzene has six single bonds and no validity, or counts as cyclohexane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from ctrlgen.domains.molecules.bonds import bond_orders, thresholds
from ctrlgen.domains.molecules.elements import atomic_numbers, described, hydrogens
from ctrlgen.domains.molecules.kekule import fitting_orders
from ctrlgen.domains.molecules.rdkit import build, mols
from ctrlgen.domains.molecules.subprocesses import Helper, each, packed, unpacked

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Names", "embed", "name", "perceive"]

LONGER = 0.10
"""Beyond the table's distances, in A, up to which a bond is tried where valences are open."""


class Names(NamedTuple):
    """What a molecule is called, and what is odd about it.

    Attributes:
        smiles: canonical, stereo marks kept; None where RDKit does not sanitise the molecule.
        inchikey: None as well where InChI has no answer.
        formula: in Hill's order, with the charge.
        charge: net charge.
        charged: atoms with a formal charge, 2 for a zwitterion.
        radicals: unpaired electrons.
        pieces: connected parts.
        error: why there are no names.
        mol: sanitised, with its stereo marks; None without names.
    """

    smiles: str | None = None
    inchikey: str | None = None
    formula: str | None = None
    charge: int | None = None
    charged: int = 0
    radicals: int = 0
    pieces: int = 0
    error: str = ""
    mol: Mol | None = None

    @property
    def skeleton(self) -> str | None:
        """First block of the InChIKey: the same for all stereoisomers and tautomers."""
        return self.inchikey and self.inchikey.split("-")[0]

    @property
    def reason(self) -> str:
        """Why it is not valid; empty where it is."""
        if self.smiles is None:
            return self.error or "no molecule"
        told = [f"{self.pieces} pieces"] if self.pieces > 1 else []
        if self.radicals:
            told.append("a radical" if self.radicals == 1 else f"{self.radicals} open valences")
        if self.charge:
            told.append(f"charge {self.charge:+d}")
        return ", ".join(told)

    @property
    def valid(self) -> bool:
        """Named, in one piece, without unpaired electrons or net charge."""
        return not self.reason


def perceive(
    positions: Tensor,
    classes: Tensor,
    alphabet: str = "qm9",
    *,
    charges: Sequence[int | None] | None = None,
    timeout: float = 20.0,
) -> list[Mol | None]:
    """Molecules with bond orders from positions; None where nothing fits.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A) class indices of the alphabet, -1 on padding.
        alphabet: of the classes; the hydrogens of heavy ones stay counts.
        charges: of each molecule; None for neutral, or else what its pieces need.
        timeout: seconds for one molecule.

    Raises:
        ValueError: shapes that do not match, or a class outside the alphabet.
        MissingExtra: RDKit is not installed.
    """
    orders = bond_orders(positions, classes, alphabet)
    numbers = atomic_numbers(classes, alphabet)
    limits = thresholds(positions.device)[0][numbers.unsqueeze(2), numbers.unsqueeze(1)] + LONGER
    gaps = (positions.unsqueeze(2) - positions.unsqueeze(1)).square().sum(3).sqrt()
    heavy = (numbers.unsqueeze(2) > 1) & (numbers.unsqueeze(1) > 1)
    longer = ((gaps < limits) & (orders == 0) & heavy).triu(1).cpu().numpy()
    attached = hydrogens(classes, alphabet).cpu().numpy()
    bound, elements = (orders > 0).long().cpu().numpy(), numbers.cpu().numpy()
    where = positions.detach().cpu().double().numpy()
    graphs: list[Mol | None] = []
    pairs: list[list[list[int]]] = []
    for row, number in enumerate(elements):
        own = np.flatnonzero(number)
        finite = len(own) > 0 and bool(np.isfinite(where[row, own]).all())
        square = np.ix_(own, own)
        graphs.append(
            build(number[own], where[row, own], bound[row][square], attached[row, own])
            if finite
            else None
        )
        pairs.append(np.argwhere(longer[row][square]).tolist())
    given = list(charges) if charges is not None else [None] * len(graphs)
    ready = _fitting(positions, classes, alphabet) if described(alphabet).aromatic else {}
    graphs = [None if row in ready else graph for row, graph in enumerate(graphs)]

    def ask(helper: Helper, row: int, mol: Mol) -> Mol | None:
        fields: dict[str, Any] = {"longer": pairs[row], "charge": given[row]}
        return unpacked(helper.ask("bonds", mol=packed(mol), **fields)["mol"])

    answers: list[Mol | None] = each(graphs, timeout, ask, lambda error: None)
    return [ready.get(row, answer) for row, answer in enumerate(answers)]


def _fitting(positions: Tensor, classes: Tensor, alphabet: str) -> dict[int, Mol]:
    """Sanitised molecules of the rows whose valences are all met by whole orders (`kekule`)."""
    orders, rest = fitting_orders(positions, classes, alphabet)
    whole = (rest == 0).all(1) & (classes >= 0).any(1)
    built = mols(positions, classes, alphabet, orders)
    return {
        row: mol
        for row, mol in enumerate(built)
        if mol is not None and bool(whole[row]) and not mol.NeedsUpdatePropertyCache()
    }


def name(mols: Sequence[Mol | None], *, stereo: bool = True, timeout: float = 20.0) -> list[Names]:
    """Names of molecules.

    Args:
        mols: sanitised or not, hydrogens as atoms or counts.
        stereo: take the stereo marks from the positions; those that are there are kept otherwise.
        timeout: seconds for one molecule.
    """

    def ask(helper: Helper, row: int, mol: Mol) -> Names:
        reply = helper.ask("name", mol=packed(mol), stereo=stereo)
        return Names(**{**reply, "mol": unpacked(reply["mol"])})

    return each(mols, timeout, ask, lambda error: Names(error=error.removeprefix("name: ")))


def embed(mols: Sequence[Mol | None], timeout: float = 60.0) -> list[Mol | None]:
    """Molecules with all hydrogens and positions by ETKDG and MMFF94s, seed 0; None where it fails.

    Source: Riniker and Landrum, J. Chem. Inf. Model. 55, 2562 (2015).
    """

    def ask(helper: Helper, row: int, mol: Mol) -> Mol | None:
        return unpacked(helper.ask("embed", mol=packed(mol), seed=0)["mol"])

    return each(mols, timeout, ask, lambda error: None)
