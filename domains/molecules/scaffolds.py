r"""Scaffolds: atoms that every molecule of a run holds, at the places that a file gives them.

Decoration, linkers and R-groups are one problem: the first K atoms of every molecule are those of
the scaffold, in one piece or several, and the flow makes the others. They are no cost that can be
missed but part of the prior (`scaffold_pins`, `ctrlgen.priors.pins`), so that whatever steers a
prior steers this one.

    qm9-heavy   K heavy atoms; one that gives up a hydrogen has the class with one hydrogen fewer.
                Where nobody says which ones do, each may have any number up to its own
    qm9         these and their hydrogens, without those that are given up; where nobody says which
                ones are, no hydrogen is part of the scaffold
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.scaffold_pins import ScaffoldAtoms, ScaffoldPins
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import Atoms
from ctrlgen.extras import require
from ctrlgen.priors.pins import pinned
from ctrlgen.priors.prior import Prior

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Places", "Scaffold", "parse_attach"]

KEPT = 1e-3
"""Distance in Å within which an atom is at its place."""


def parse_attach(text: str) -> tuple[int, ...]:
    """Atoms as in "3" or "1,4": their numbers in the file, from 1.

    Raises:
        ValueError: for anything else.
    """
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"attach: expected atoms as in 1,4, got {text!r}") from error
    if any(number < 1 for number in numbers):
        raise ValueError(f"attach: expected numbers of atoms, counted from 1, got {text!r}")
    return numbers


class Places(NamedTuple):
    """A scaffold in an alphabet.

    Attributes:
        positions: Å, centred, float64, shape (K, 3).
        allowed: classes that each atom may have, bool, shape (K, C).
        sites: where atoms may come: an atom and the direction of its hydrogen, shape (S, 2, 3).
    """

    positions: Tensor
    allowed: Tensor
    sites: Tensor


@dataclass(frozen=True)
class Scaffold:
    """Atoms that molecules hold, and those among them that give up a hydrogen.

    Args:
        mol: with positions and valences filled by hydrogens; several pieces are one scaffold.
        attach: atoms that give up one hydrogen each, counted from 1 as in the file; twice for two;
            the number of a hydrogen stands for its atom and itself. None: any that has one may.

    Raises:
        ValueError: an element, a charge, a number of atoms or positions that no prior could write;
            an atom that is not there or has not as many hydrogens to give up.
    """

    mol: Mol
    attach: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        try:
            tensors([self.mol], "qm9-heavy")
        except ValueError as error:
            raise ValueError(f"scaffold: {str(error).removeprefix('molecule 1: ')}") from error
        self.places("qm9-heavy")

    @property
    def _whole(self) -> Any:
        """The molecule with every hydrogen as an atom, behind those that are."""
        return require("rdkit.Chem", "molecules").AddHs(self.mol, addCoords=True)

    def places(self, name: str) -> Places:
        """The scaffold in an alphabet, "qm9" or "qm9-heavy"."""
        mol, heavy = self._whole, name == "qm9-heavy"
        place = torch.from_numpy(mol.GetConformer().GetPositions())
        atoms = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
        own = {
            atom.GetIdx(): [b.GetIdx() for b in atom.GetNeighbors() if b.GetAtomicNum() == 1]
            for atom in atoms
        }
        lost = self._lost(mol, own)
        kept = {i: [h for h in all_of if h not in lost[i]] for i, all_of in own.items()}
        rows, places = [], []
        for atom in atoms:
            i, most = atom.GetIdx(), len(own[atom.GetIdx()])
            counts = [len(kept[i])] if self.attach is not None else range(most + 1)
            kinds = {(atom.GetSymbol(), count if heavy else 0) for count in counts}
            rows.append([kind in kinds for kind in alphabet(name)])
            places.append(i)
        if not heavy and self.attach is not None:
            for h in (h for i in kept for h in kept[i]):
                rows.append([symbol == "H" for symbol, _ in alphabet(name)])
                places.append(h)
        pairs = [(i, h) for i, all_of in lost.items() for h in all_of]
        ends = place[[i for i, _ in pairs]], place[[h for _, h in pairs]]
        away = ends[1] - ends[0]
        away = away / away.norm(dim=1, keepdim=True).clamp_min(1e-6)
        centre = place[places].mean(0)
        return Places(
            place[places] - centre, torch.tensor(rows), torch.stack((ends[0] - centre, away), 1)
        )

    def _lost(self, mol: Any, own: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Hydrogens that each atom gives up, or may where it is not said."""
        if self.attach is None:
            if not any(own.values()):
                raise ValueError("scaffold: expected an atom with a hydrogen to give up, got none")
            return {i: list(all_of) for i, all_of in own.items()}
        if not self.attach:
            raise ValueError("attach: expected at least one atom, got none")
        lost: dict[int, list[int]] = {i: [] for i in own}
        for number, times in Counter(self.attach).items():
            if not 1 <= number <= self.mol.GetNumAtoms():
                raise ValueError(
                    f"attach: expected atoms from 1 to {self.mol.GetNumAtoms()}, got {number}"
                )
            atom = mol.GetAtomWithIdx(number - 1)
            itself = atom.GetAtomicNum() == 1
            parent = atom.GetNeighbors()[0].GetIdx() if itself else number - 1
            free = [h for h in own[parent] if h not in lost[parent]]
            free = [h for h in free if h == number - 1] if itself else free
            if len(free) < times:
                have = f"{len(free)} hydrogens" if free else "no hydrogen"
                raise ValueError(
                    f"attach: atom {number} ({atom.GetSymbol()}) has {have} to give up, "
                    f"{times} wanted"
                )
            lost[parent] += free[:times]
        return lost

    def unstable(self) -> list[int]:
        """Atoms, from 1, whose bonds the table of `bonds` does not read as their valence."""
        positions, classes, _ = tensors([self.mol], "qm9-heavy")
        wrong = ~stability(positions, classes, "qm9-heavy").atoms[0]
        heavy = [atom.GetIdx() + 1 for atom in self.mol.GetAtoms() if atom.GetAtomicNum() > 1]
        return [number for number, bad in zip(heavy, wrong.tolist(), strict=False) if bad]

    def hold(self, prior: Prior) -> Prior:
        """The prior of molecules that hold the scaffold."""
        known, source = self.places(alphabet_of(prior)), prior.source
        assert isinstance(source, Atoms)
        weights = known.allowed / known.allowed.sum(1, keepdim=True)
        signal = torch.cat((known.positions, weights), 1).unsqueeze(0)
        pins = ScaffoldPins(prior.codec.encode(signal), known.allowed)
        held = pinned(prior, pins)
        stand_ins = ScaffoldAtoms(
            source.places, source.features, known.positions, known.sites,
            self.attach is not None, source.counts,
        )  # fmt: skip
        held.source = stand_ins
        return held

    def kept(self, mol: Mol | None) -> bool:
        """Whether the first heavy atoms of a molecule are these, bound so and at their places."""
        if mol is None:
            return False
        chem = require("rdkit.Chem", "molecules")
        piece = chem.RWMol(chem.RemoveHs(self.mol, sanitize=False))
        for atom in piece.GetAtoms():
            atom.SetNumRadicalElectrons(0)
        same = tuple(range(piece.GetNumAtoms()))
        if mol.GetNumAtoms() < len(same):
            return False
        own, given = (m.GetConformer().GetPositions()[: len(same)] for m in (mol, piece))
        gaps = (own - own.mean(0)) - (given - given.mean(0))
        if not np.linalg.norm(gaps, axis=1).max() <= KEPT:
            return False
        matches = mol.GetSubstructMatches(piece.GetMol(), uniquify=False, maxMatches=10_000)
        return same in matches
