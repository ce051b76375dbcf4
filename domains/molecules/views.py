"""What scorers are given in place of signals: RDKit molecules, or files of them.

    cg.BlackBoxCost("mine.py:score", view=cg.molecules.Molecules("qm9-heavy"), workers=2)
    cg.BlackBoxCost(cg.Command(["tool", "{file}"], cg.molecules.MoleculeFile("qm9-heavy")))

Bonds are perceived from positions and elements, and hydrogens placed where the alphabet has none
(`perception`, `chemistry`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ctrlgen.domains.molecules.elements import MAX_ATOMS
from ctrlgen.rows.errors import UnknownName

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["MoleculeFile", "Molecules"]


@dataclass(frozen=True)
class Molecules:
    """Signals (B, N, 3 + K) as RDKit molecules with all hydrogens; None where no bonds fit.

    Args:
        alphabet: of the signals, "qm9" or "qm9-heavy".

    Raises:
        UnknownName: for another one.
        MissingExtra: when it is called and RDKit is not installed.
    """

    alphabet: str = "qm9"

    def __post_init__(self) -> None:
        if self.alphabet not in MAX_ATOMS:
            raise UnknownName("alphabet", self.alphabet, MAX_ATOMS)

    def __call__(self, signals: Tensor) -> list[Mol | None]:
        from ctrlgen.domains.molecules.chemistry import place_hydrogens
        from ctrlgen.domains.molecules.perception import perceive
        from ctrlgen.domains.molecules.states import split

        parts = split(signals.detach())
        mols = perceive(parts.positions.cpu().float(), parts.hard.cpu(), self.alphabet)
        return mols if self.alphabet == "qm9" else place_hydrogens(mols)


@dataclass(frozen=True)
class MoleculeFile:
    """How a `Command` is given a molecule, a signal (N, 3 + K): as a file.

    Args:
        alphabet: as of `Molecules`.
        suffix: ".sdf" or ".xyz".

    Raises:
        UnknownName: for another alphabet.
        ValueError: for another suffix; when it is called, where no bonds fit.
    """

    alphabet: str = "qm9"
    suffix: str = ".sdf"

    def __post_init__(self) -> None:
        Molecules(self.alphabet)
        if self.suffix not in (".sdf", ".xyz"):
            raise ValueError(f"suffix: expected .sdf or .xyz, got {self.suffix!r}")

    def __call__(self, file: Path, signal: Tensor) -> None:
        from ctrlgen.domains.molecules.sdf import write_sdf
        from ctrlgen.domains.molecules.xyz import write_xyz

        (mol,) = Molecules(self.alphabet)(signal.unsqueeze(0))
        if mol is None:
            raise ValueError("no bond orders fit the valences of its atoms")
        (write_sdf if self.suffix == ".sdf" else write_xyz)(file, [mol])
