"""The numbers beside each molecule, and the files that hold them: SDF, XYZ, CSV.

A sheet has one row per molecule that was asked for, whatever became of it. Columns carry their
unit; "guide" is what the optimiser saw, "evaluator" a network that it never saw, and the error is
the evaluator's distance from the wanted interval. Files are written whole after every batch, so an
interrupted run leaves readable ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.files import write_csv, write_sdf, write_xyz
from ctrlgen.domains.molecules.known import known
from ctrlgen.domains.molecules.metrics import reference_smiles
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.ragged import Found
from ctrlgen.domains.molecules.scoring import Network, score
from ctrlgen.domains.molecules.wishes import Wish
from ctrlgen.results import Status

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Sheet", "interval_text", "outside", "reference_of", "summary"]


def reference_of(data: Path | None, name: str) -> Collection[str] | None:
    """SMILES that are not novel: those of a folder of QM9, or those that come with the package.

    None, and novelty unknown, where neither is there.
    """
    if data is not None:
        return reference_smiles(data, name)
    try:
        return known()
    except OSError:
        return None


def outside(value: float, low: float, high: float) -> float:
    """Distance of a value from an interval, in its unit; NaN for NaN."""
    return math.nan if math.isnan(value) else max(value - high, low - value, 0.0)


def interval_text(name: str, low: float, high: float) -> str:
    """An interval as text, in the package's unit of the property."""
    digits = PROPERTIES[name].decimals
    if low == high:
        return f"{low:.{digits}f}"
    if math.isinf(high):
        return f">={low:.{digits}f}"
    return f"<={high:.{digits}f}" if math.isinf(low) else f"{low:.{digits}f}..{high:.{digits}f}"


class Sheet:
    """Rows of molecules, scored as they come in.

    Args:
        wish: what was asked; None for molecules that nobody steered.
        name: alphabet of the signals, "qm9" or "qm9-heavy".
        seeds: of the first starts, one per molecule; they name the rows.
        guide: network of that alphabet.
        evaluator: network of the alphabet "qm9".
        reference: SMILES that are not novel; novelty is unknown without.
        xtb: compute the dipole by GFN2-xTB as well.
        posebusters: make PoseBusters' checks as well.
    """

    def __init__(
        self,
        wish: Wish | None,
        name: str,
        seeds: Sequence[int],
        *,
        guide: Network | None = None,
        evaluator: Network | None = None,
        reference: Collection[str] | None = None,
        xtb: bool = False,
        posebusters: bool = False,
    ) -> None:
        self.wish, self.name, self.seeds = wish, name, list(seeds)
        self.guide, self.evaluator, self.reference = guide, evaluator, reference
        self.xtb, self.posebusters = xtb, posebusters
        self._rows: dict[int, tuple[tuple[int, int], dict[str, Any], Mol | None]] = {}

    def add(self, found: Found, rows: Sequence[int]) -> None:
        """Take in molecules of the places `rows`; what is known already is not scored again."""
        marks = list(zip(found.seeds.tolist(), found.evaluations.tolist(), strict=True))
        new = [
            i
            for i, row in enumerate(rows)
            if row not in self._rows or self._rows[row][0] != marks[i]
        ]
        if not new:
            return
        part = found.take(torch.tensor(new))
        for i, (row, mol) in zip(new, self._score(part), strict=True):
            own = rows[i]
            self._rows[own] = (marks[i], {"name": f"seed-{self.seeds[own]}", **row}, mol)

    @property
    def mols(self) -> list[Mol | None]:
        """Complete molecules of the rows that are there, by place; None where there is none."""
        return [self._rows[row][2] for row in sorted(self._rows)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows that are there, by place; a SMILES that came before is marked a duplicate."""
        seen: set[str] = set()
        found = []
        for place in sorted(self._rows):
            row = dict(self._rows[place][1])
            row["duplicate"] = row["smiles"] in seen if row["smiles"] else None
            seen.add(row["smiles"])
            found.append(row)
        return found

    @property
    def missing(self) -> list[int]:
        """Seeds of molecules that have no row yet."""
        return [seed for place, seed in enumerate(self.seeds) if place not in self._rows]

    def write(self, file: Path) -> None:
        """Write FILE.sdf, .xyz and .csv of the rows that are there, if there are any."""
        if not self._rows:
            return
        rows = self.rows
        write_sdf(file.with_suffix(".sdf"), self.mols, rows)
        write_xyz(file.with_suffix(".xyz"), self.mols, rows)
        write_csv(file.with_suffix(".csv"), rows)

    def _score(self, found: Found) -> list[tuple[dict[str, Any], Mol | None]]:
        scores = score(
            found.signals,
            self.name,
            guide=self.guide,
            evaluator=self.evaluator,
            reference=self.reference,
        )
        told = scores.assessment
        dipoles = chemistry.xtb(scores.mols) if self.xtb else None
        relaxed = chemistry.relax(scores.mols)
        busted = chemistry.posebusters(scores.mols) if self.posebusters else None
        bounds = self.wish.intervals(self.name, found.counts.cpu()) if self.wish else {}
        rows = []
        for i, mol in enumerate(scores.mols):
            row: dict[str, Any] = {
                "seed": int(found.seeds[i]),
                "starts": int(found.starts[i]),
                "formula": scores.formulas[i],
                "smiles": told.smiles[i],
                "inchikey": scores.keys[i],
                "atoms": None if mol is None else mol.GetNumAtoms(),
                "atoms of the prior": int(found.counts[i]),
                "stable": bool(told.stable[i]),
                "valid": bool(told.valid[i]),
                "connected": bool(told.connected[i]),
                "novel": None if told.novel is None else bool(told.novel[i]),
                "duplicate": None,
                "satisfied": bool(found.satisfied[i]) if self.wish else None,
            }
            row |= self._values(bounds, scores.guide[i], scores.evaluator[i], i)
            if dipoles is not None:
                row["xtb mu (D)"] = dipoles[i].mu
            row |= {"strain (kcal/mol)": relaxed[i].strain, "MMFF rmsd (A)": relaxed[i].rmsd}
            if busted is not None:
                failed = [name for name, passed in busted[i].checks.items() if not passed]
                row["posebusters"] = busted[i].passed
                row["posebusters fails"] = busted[i].error or ", ".join(failed) or None
            row |= {
                "cost": float(found.costs[i]),
                "status": Status(int(found.status[i])).label,
                "iterations": int(found.iterations[i]),
                "evaluations": int(found.evaluations[i]),
                "backward passes": int(found.backward_passes[i]),
                "objective calls": int(found.objective_calls[i]),
            }
            rows.append((row, mol))
        return rows

    def _values(
        self,
        bounds: Mapping[str, tuple[Tensor, Tensor]],
        guide: Tensor,
        evaluator: Tensor,
        place: int,
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for column, (name, about) in enumerate(PROPERTIES.items()):
            unit, value = f" ({about.unit})", float(evaluator[column])
            if name in bounds:
                low, high = (float(bound[place]) for bound in bounds[name])
                found[f"target {name}{unit}"] = interval_text(name, low, high)
                found[f"guide {name}{unit}"] = float(guide[column])
            found[f"evaluator {name}{unit}"] = value
            if name in bounds:
                found[f"error {name}{unit}"] = outside(value, low, high)
        return found


def summary(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The sheet in numbers: shares over all rows, none left out, and mean errors per property."""
    found: dict[str, Any] = {"molecules": len(rows)}
    flags = ("satisfied", "stable", "valid", "connected", "novel", "duplicate", "posebusters")
    for flag in flags:
        told = [row[flag] for row in rows if row.get(flag) is not None]
        # what is not valid is no duplicate; what was never asked has no share
        found[flag] = sum(told) / len(rows) if told and rows else None
    strains = [row["strain (kcal/mol)"] for row in rows]
    strains = [strain for strain in strains if not math.isnan(strain)]
    found["median strain (kcal/mol)"] = statistics.median(strains) if strains else None
    found["without strain"] = len(rows) - len(strains)
    for name in names:
        unit = PROPERTIES[name].unit
        errors = [row[f"error {name} ({unit})"] for row in rows]
        known = [error for error in errors if not math.isnan(error)]
        found[f"evaluator MAE {name} ({unit})"] = sum(known) / len(known) if known else None
        found[f"without evaluator {name}"] = len(errors) - len(known)
    return found
