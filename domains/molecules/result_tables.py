"""The numbers beside each molecule, and the files that hold them: SDF, XYZ, CSV.

A sheet has one row per molecule that was asked for, whatever became of it. Columns carry their
unit; "guide" is what the optimiser saw, "evaluator" a network that it never saw, and the error is
the evaluator's distance from the wanted interval. Files are written whole after every batch, so an
interrupted run leaves readable ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.files import write_csv
from ctrlgen.domains.molecules.molecule_batches import Found
from ctrlgen.domains.molecules.perception import Names
from ctrlgen.domains.molecules.perception import name as name_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.readers import Record
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.scoring import Network, Scores, novelty, score
from ctrlgen.domains.molecules.sdf import write_sdf
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.verdicts import likeness, outside, verdicts
from ctrlgen.domains.molecules.xyz import write_xyz
from ctrlgen.rows.status import Status

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Sheet", "interval_text"]


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
        seeds: of the first starts, one per molecule; they name the rows. Of given molecules their
            numbers in the file.
        guide: network of that alphabet.
        evaluator: network of the alphabet "qm9".
        tolerance: of the guide's verdict, in mean absolute deviations.
        lead: molecule that the run began with; every row tells its likeness to it.
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
        tolerance: float = 0.05,
        lead: Mol | None = None,
        xtb: bool = False,
        posebusters: bool = False,
    ) -> None:
        self.wish, self.name, self.seeds = wish, name, list(seeds)
        self.guide, self.evaluator = guide, evaluator
        self.tolerance, self.lead = tolerance, lead
        self.xtb, self.posebusters = xtb, posebusters
        self._rows: dict[int, tuple[tuple[int, int], dict[str, Any], Mol | None]] = {}

    def __repr__(self) -> str:
        return f"Sheet({len(self._rows)} of {len(self.seeds)} rows, {self.name!r})"

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
        scores = score(part.signals, self.name, guide=self.guide, evaluator=self.evaluator)
        told = self._told(scores, part.signals, part.counts)
        for place, (i, row) in enumerate(zip(new, told, strict=True)):
            own = rows[i]
            run = {
                "name": f"seed-{self.seeds[own]}",
                "seed": int(part.seeds[place]),
                "starts": int(part.starts[place]),
            }
            end = {
                "cost": float(part.costs[place]),
                "status": Status(int(part.status[place])).label,
                "iterations": int(part.iterations[place]),
                "evaluations": int(part.evaluations[place]),
                "backward passes": int(part.backward_passes[place]),
                "objective calls": int(part.objective_calls[place]),
            }
            self._rows[own] = (marks[i], {**run, **row, **end}, scores.mols[place])

    def add_given(self, records: Sequence[Record]) -> None:
        """Take in molecules of a file, one row each: what cannot be scored has its reason."""
        fitting: list[int] = []
        reasons = {}
        for place, record in enumerate(records):
            try:
                if record.mol is None:
                    raise ValueError(record.reason)
                tensors([record.mol], self.name)
                fitting.append(place)
            except ValueError as error:
                reasons[place] = str(error).removeprefix("molecule 1: ")
        rows: dict[int, tuple[dict[str, Any], Mol | None]] = {}
        if fitting:
            given = [cast("Mol", records[place].mol) for place in fitting]
            positions, classes, counts = tensors(given, self.name)
            signals = join(positions, classes, len(alphabet(self.name)))
            scores = score(
                signals, self.name, guide=self.guide, evaluator=self.evaluator, mols=given
            )
            told = self._told(scores, signals, counts)
            rows |= dict(zip(fitting, zip(told, scores.mols, strict=True), strict=True))
        rows |= self._refused(records, reasons)
        for place, record in enumerate(records):
            row, mol = rows[place]
            mark = {"name": record.title or f"record-{record.number}", "record": record.number}
            extra = {k if k not in {**mark, **row} else f"given {k}": v for k, v in record.tags}
            self._rows[place] = ((record.number, 0), {**mark, **row, **extra}, mol)

    def _refused(
        self, records: Sequence[Record], reasons: Mapping[int, str]
    ) -> dict[int, tuple[dict[str, Any], Mol | None]]:
        """Rows of what the networks cannot read: names where it has some, and the reason."""
        places = list(reasons)
        named = name_of([records[place].mol for place in places], stereo=False)
        fresh, rows = novelty(named), {}
        for i, (place, own) in enumerate(zip(places, named, strict=True)):
            row = _names(own, own.formula, {key: flags[i] for key, flags in fresh.items()})
            rows[place] = ({**row, "valid": False, "reason": reasons[place]}, own.mol)
        return rows

    @property
    def mols(self) -> list[Mol | None]:
        """Complete molecules of the rows that are there, by place; None where there is none."""
        return [self._rows[row][2] for row in sorted(self._rows)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows that are there, by place; a skeleton that came before is marked a duplicate."""
        seen: set[str] = set()
        rows = []
        for place in sorted(self._rows):
            row = dict(self._rows[place][1])
            skeleton = row["inchikey"] and row["inchikey"].split("-")[0]
            row["duplicate"] = skeleton in seen if skeleton else None
            seen.add(skeleton)
            rows.append(row)
        return rows

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

    def _told(self, scores: Scores, signals: Tensor, counts: Tensor) -> list[dict[str, Any]]:
        """What is known of molecules, however they came to be."""
        told = scores.assessment
        dipoles = chemistry.xtb(scores.mols) if self.xtb else None
        relaxed = chemistry.relax(scores.mols)
        busted = chemistry.posebusters(scores.mols) if self.posebusters else None
        bounds = self.wish.intervals(self.name, counts.cpu()) if self.wish else {}
        asked = [{}] * len(counts) if self.wish is None else verdicts(
            self.wish, self.name, scores, signals, counts, self.tolerance
        )  # fmt: skip
        rows = []
        for i, mol in enumerate(scores.mols):
            fresh = {key: flags[i] for key, flags in scores.novel.items()}
            row = _names(scores.names[i], scores.formulas[i], fresh)
            row |= {
                "atoms": None if mol is None else mol.GetNumAtoms(),
                "atoms of the prior": int(counts[i]),
                "stable (EDM)": bool(told.stable[i]),
                "valid (EDM)": bool(told.valid[i]),
                **asked[i],
            }
            if self.lead is not None:
                row["similarity to the lead"] = likeness(self.lead, scores.names[i].mol)
            row |= self._values(bounds, scores.guide[i], scores.evaluator[i], i)
            if dipoles is not None:
                row["xtb mu (D)"] = dipoles[i].mu
            row |= {"strain (kcal/mol)": relaxed[i].strain, "MMFF rmsd (A)": relaxed[i].rmsd}
            if busted is not None:
                checks = busted[i].checks.items()
                failed = [name for name, passed in checks if passed is False]
                failed += [f"{name} unknown" for name, passed in checks if passed is None]
                row["posebusters"] = busted[i].passed
                row["posebusters fails"] = busted[i].error or ", ".join(failed) or None
            rows.append(row)
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


def _names(names: Names, formula: str | None, novel: Mapping[str, bool | None]) -> dict[str, Any]:
    return {
        "formula": formula,
        "smiles": names.smiles,
        "inchikey": names.inchikey,
        "valid": names.valid,
        "reason": names.reason or None,
        "charge": names.charge,
        "radicals": names.radicals,
        "pieces": names.pieces,
        **{f"novel ({table})": flag for table, flag in novel.items()},
        "duplicate": None,
    }
