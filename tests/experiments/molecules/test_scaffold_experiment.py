"""Scaffolds against fragments: the committed table, and what its shares count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.experiments.molecules import scaffolds

FOLDER = Path(scaffolds.__file__).parents[1] / "results" / "scaffold_molecules"
RESULTS = json.loads((FOLDER / "results.json").read_text())


def test_the_committed_table_and_that_of_the_docs_are_the_results() -> None:
    table = (FOLDER / "table.md").read_text()
    assert scaffolds.table(RESULTS) == table
    assert table in (Path(__file__).parents[3] / "docs" / "molecules.md").read_text()


def test_a_scaffold_is_held_where_a_fragment_is_not() -> None:
    for rows in RESULTS["rings"].values():
        assert rows["scaffold"]["held"] >= 0.8 > 0.2 > rows["fragment"]["held"]
        assert rows["free noise"]["whole"] < rows["matched noise"]["whole"]
        assert rows["scaffold"]["whole and held"] >= 0.5 > rows["fragment"]["whole and held"]


def test_shares_are_of_all_and_molecules_count_once() -> None:
    def row(stable: bool, pieces: int, held: bool, key: str | None, error: float) -> dict[str, Any]:
        return {
            "stable (EDM)": stable, "pieces": pieces, "scaffold": held, "inchikey": key,
            "valid": stable, "satisfied (evaluator)": held, "error gap (meV)": error, "smiles": "",
        }  # fmt: skip

    told = scaffolds.measure(
        [
            row(True, 1, True, "A-x", 10.0),
            row(True, 1, True, "A-y", float("nan")),
            row(True, 2, True, "B-x", 30.0),
            row(False, 1, False, None, 40.0),
        ],
        "scaffold",
    )
    assert told["whole"] == 0.5 and told["held"] == 0.75 and told["whole and held"] == 0.5
    assert told["unique"] == 1 and told["error gap of these (meV)"] == pytest.approx(10.0)
