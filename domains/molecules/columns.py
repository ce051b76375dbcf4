"""The numbers beside each molecule: what a row of a table says, computed where molecules arise.

Columns carry their unit; "guide" is what the optimiser saw, "evaluator" a network that it never
saw, the error is the evaluator's distance from the wanted interval, and the spread that of the two
networks from one another: they were trained on different molecules, and where they differ one of
them errs. One of the columns is the complete molecule itself, as text (`subprocesses.packed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.elements import alphabet, described
from ctrlgen.domains.molecules.metrics import Assessment
from ctrlgen.domains.molecules.perception import Names
from ctrlgen.domains.molecules.perception import name as name_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.rdkit_scores import ScoreWish
from ctrlgen.domains.molecules.readers import Record
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.scoring import Network, Scores, novelty, score
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.domains.molecules.subprocesses import packed
from ctrlgen.domains.molecules.uncertainty import HeadCovariance, features_of
from ctrlgen.domains.molecules.verdicts import likeness, outside, verdicts

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["MOLECULE", "Columns", "interval_text"]

MOLECULE = "molecule"
"""The column of the complete molecule, packed; None where there is none."""


def interval_text(name: str, low: float, high: float) -> str:
    """An interval as text, in the package's unit of the property."""
    digits = PROPERTIES[name].decimals
    if low == high:
        return f"{low:.{digits}f}"
    if math.isinf(high):
        return f">={low:.{digits}f}"
    return f"<={high:.{digits}f}" if math.isinf(low) else f"{low:.{digits}f}..{high:.{digits}f}"


@dataclass(frozen=True)
class Columns:
    """What is said of molecules, a metric of their signals: one mapping each.

    Attributes:
        name: alphabet of the signals; properties are told where they are known of it.
        wish: what was asked; None for molecules that nobody steered.
        guide: network of that alphabet.
        evaluator: network of the alphabet "qm9".
        tolerance: of the guide's verdict, in mean absolute deviations.
        lead: molecule that the run began with; every row tells its likeness to it.
        xtb: compute the dipole by GFN2-xTB as well.
        posebusters: make PoseBusters' checks as well.
        traded: properties of a front, which no verdict asks for.
        covariance: of the guide's head, from which its uncertainty is told.
        scores: RDKit's that are told, keys of `rdkit_scores.SCALES`.
    """

    name: str
    wish: Wish | None = None
    guide: Network | None = None
    evaluator: Network | None = None
    tolerance: float = Settings.tolerance
    lead: Mol | None = None
    xtb: bool = False
    posebusters: bool = False
    traded: tuple[str, ...] = ()
    covariance: HeadCovariance | None = None
    scores: tuple[str, ...] = ()

    def __call__(self, signals: Tensor) -> list[dict[str, Any]]:
        """Columns of signals (B, N, 3 + K)."""
        scores = score(signals, self.name, guide=self.guide, evaluator=self.evaluator)
        return self._rows(scores, signals, split(signals).counts)

    def given(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """Columns of molecules of a file: what cannot be scored has its reason."""
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
        rows: dict[int, dict[str, Any]] = {}
        if fitting:
            given = [cast("Mol", records[place].mol) for place in fitting]
            positions, classes, counts = tensors(given, self.name)
            signals = join(positions, classes, len(alphabet(self.name)))
            scores = score(
                signals, self.name, guide=self.guide, evaluator=self.evaluator, mols=given
            )
            rows |= dict(zip(fitting, self._rows(scores, signals, counts), strict=True))
        rows |= _refused(records, reasons)
        listed = []
        for place, record in enumerate(records):
            row = rows[place]
            mark = {"name": record.title or f"record-{record.number}", "record": record.number}
            extra = {k if k not in {**mark, **row} else f"given {k}": v for k, v in record.tags}
            listed.append({**mark, **row, **extra})
        return listed

    def _rows(self, scores: Scores, signals: Tensor, counts: Tensor) -> list[dict[str, Any]]:
        """What is known of molecules, however they came to be."""
        stable = scores.assessment
        dipoles = chemistry.xtb(scores.mols) if self.xtb else None
        relaxed = chemistry.relax(scores.mols)
        busted = chemistry.posebusters(scores.mols) if self.posebusters else None
        bounds = self.wish.intervals(self.name, counts.cpu()) if self.wish else {}
        asked = [{}] * len(counts) if self.wish is None else verdicts(
            self.wish, self.name, scores, signals, counts, self.tolerance, self.traded
        )  # fmt: skip
        unsure = self._unsure(signals)
        shown = {key: ScoreWish(key).values(scores.mols) for key in self.scores}
        rows = []
        for i, mol in enumerate(scores.mols):
            fresh = {key: flags[i] for key, flags in scores.novel.items()}
            row = _names(scores.names[i], scores.formulas[i], fresh)
            row |= {
                "atoms": None if mol is None else mol.GetNumAtoms(),
                "atoms of the prior": int(counts[i]),
                **self._whole(stable, i),
                **asked[i],
            }
            if self.lead is not None:
                row["similarity to the lead"] = likeness(self.lead, scores.names[i].mol)
            row |= {f"score {key}": values[i] for key, values in shown.items()}
            if described(self.name).properties:
                row |= _values(bounds, scores.guide[i], scores.evaluator[i], i, unsure)
            if dipoles is not None:
                row["xtb mu (D)"] = dipoles[i].mu
            row |= {"strain (kcal/mol)": relaxed[i].strain, "MMFF rmsd (A)": relaxed[i].rmsd}
            if busted is not None:
                checks = busted[i].checks.items()
                failed = [name for name, passed in checks if passed is False]
                failed += [f"{name} unknown" for name, passed in checks if passed is None]
                row["posebusters"] = busted[i].passed
                row["posebusters fails"] = busted[i].error or ", ".join(failed) or None
            rows.append(row | {MOLECULE: None if mol is None else packed(mol)})
        return rows

    def _whole(self, stable: Assessment, place: int) -> dict[str, bool]:
        """Columns of a molecule's bonds; EDM's table has none for aromatic rings and S."""
        fits = bool(stable.stable[place])
        if described(self.name).aromatic:
            return {"stable": fits}
        return {"stable (EDM)": fits, "valid (EDM)": bool(stable.valid[place])}

    def _unsure(self, signals: Tensor) -> Tensor | None:
        """Half widths (B, 6) of the guide's 68 % intervals, in the units of the properties."""
        if self.covariance is None or not isinstance(self.guide, PropertyNetwork):
            return None
        with torch.no_grad():
            widths = self.covariance.widths(features_of(self.guide, "hard")(signals)).cpu()
        return widths * torch.tensor([DEVIATION[name] for name in PROPERTIES])


def _refused(records: Sequence[Record], reasons: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    """Columns of what the networks cannot read: names where it has some, and the reason."""
    places = list(reasons)
    named = name_of([records[place].mol for place in places], stereo=False)
    fresh, rows = novelty(named), {}
    for i, (place, own) in enumerate(zip(places, named, strict=True)):
        row = _names(own, own.formula, {key: flags[i] for key, flags in fresh.items()})
        mol = None if own.mol is None else packed(own.mol)
        rows[place] = {**row, "valid": False, "reason": reasons[place], MOLECULE: mol}
    return rows


def _values(
    bounds: Mapping[str, tuple[Tensor, Tensor]],
    guide: Tensor,
    evaluator: Tensor,
    place: int,
    unsure: Tensor | None,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column, (name, about) in enumerate(PROPERTIES.items()):
        unit, value = f" ({about.unit})", float(evaluator[column])
        if name in bounds:
            low, high = (float(bound[place]) for bound in bounds[name])
            values[f"target {name}{unit}"] = interval_text(name, low, high)
            values[f"guide {name}{unit}"] = float(guide[column])
            if unsure is not None:
                values[f"uncertainty {name}{unit}"] = float(unsure[place, column])
        values[f"evaluator {name}{unit}"] = value
        if name in bounds:
            values[f"error {name}{unit}"] = outside(value, low, high)
            values[f"spread {name}{unit}"] = abs(float(guide[column]) - value)
    return values


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
