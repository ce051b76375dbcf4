"""Tables of molecules, one row for each that was asked for, and the files that hold them.

What is said of a molecule was computed with it (`columns`) and lies in the records of a run; here
the records become rows, a skeleton that came before is marked a duplicate, and rows become SDF, XYZ
and CSV.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctrlgen.domains.molecules.columns import MOLECULE
from ctrlgen.domains.molecules.files import write_csv
from ctrlgen.domains.molecules.sdf import write_sdf
from ctrlgen.domains.molecules.subprocesses import unpacked
from ctrlgen.domains.molecules.xyz import write_xyz
from ctrlgen.runs.schema import HISTORY, Record
from ctrlgen.runs.store import Store

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Table", "rows_of", "said"]

_NUMBERS = (
    "guide ",
    "evaluator ",
    "error ",
    "spread ",
    "uncertainty ",
    "xtb ",
    "strain ",
    "MMFF ",
    "shape ",
    "cost",
)
"""Beginnings of the columns that are numbers or not known, as which JSON has no NaN."""

_COUNTS = ("iterations", "evaluations", "backward_passes", "objective_calls")
_FEWEST: dict[str, Any] = {
    "formula": None, "smiles": None, "inchikey": None, "valid": None, "reason": None,
}  # fmt: skip


def said(record: Record) -> dict[str, Any]:
    """What the record of a molecule says of it; of one that failed, why."""
    row = dict(record["metrics"])
    if MOLECULE not in row:  # its columns could not be computed
        row = {**_FEWEST, **{name: value for name, value in row.items() if value is not None}}
    words = [flag for flag in record["flags"] if flag.startswith(("failed: ", "timed out: "))]
    words = [row["reason"], *words] if record["reason"] is None else [record["reason"]]
    return row | {"reason": "; ".join(word for word in words if word) or None}


def rows_of(
    records: Sequence[Record], seeds: Sequence[int], starts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Rows of molecules that were asked for.

    Args:
        records: of the molecules.
        seeds: of all molecules of the run, by the ids of records.
        starts: how many it took, one for each record.
    """
    for record, number in zip(records, starts, strict=True):
        if "record" in record["metrics"]:  # of a file, where nothing was asked for
            yield said(record)
            continue
        yield {
            "name": f"seed-{seeds[record['id']]}",
            "seed": record["seed"],
            "starts": number,
            **said(record),
            "cost": record["cost"],
            "status": record["status"],
            **{name.replace("_", " "): record[name] for name in _COUNTS},  # type: ignore[literal-required]
        }


class Table:
    """Rows of molecules.

    Args:
        rows: what is said of each, with the molecule packed.

    Attributes:
        rows: one mapping each, all of the same columns.
        mols: complete molecules; None where there is none.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        listed = [dict(row) for row in rows]
        texts = [row.pop(MOLECULE, None) for row in listed]
        self.mols: list[Mol | None] = [text and unpacked(text) for text in texts]
        fullest = max(listed, key=len, default={})
        self.rows: list[dict[str, Any]] = []
        skeletons: set[str | None] = set()
        for row in listed:
            own = row if "record" in row else {name: row.get(name) for name in {**fullest, **row}}
            skeleton = own["inchikey"] and own["inchikey"].split("-")[0]
            own["duplicate"] = skeleton in skeletons if skeleton else None
            skeletons.add(skeleton)
            self.rows.append({name: _number(name, value) for name, value in own.items()})

    @classmethod
    def of(cls, store: Store) -> Table:
        """The molecules of a run that are there."""

        def rows() -> Iterator[dict[str, Any]]:
            for unit in store.rows():
                starts = unit.tensors.get(f"{HISTORY}starts")
                counts = [1] * len(unit.records) if starts is None else starts[-1].tolist()
                yield from rows_of(unit.records, store.seeds, counts)

        return cls(rows())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Table({len(self)} molecules)"

    def write(self, file: Path) -> None:
        """Write FILE.sdf, .xyz and .csv, if there are rows."""
        if not self.rows:
            return
        write_sdf(file.with_suffix(".sdf"), self.mols, self.rows)
        write_xyz(file.with_suffix(".xyz"), self.mols, self.rows)
        write_csv(file.with_suffix(".csv"), self.rows)


def _number(name: str, value: Any) -> Any:
    return math.nan if value is None and name.startswith(_NUMBERS) else value
