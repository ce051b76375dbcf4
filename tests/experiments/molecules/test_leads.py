"""How tightly leads are held: the committed sweep, and one cell of it with tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctrlgen.domains.molecules.lead_optimization import LIKENESS
from ctrlgen.experiments.molecules import leads

pytest.importorskip("rdkit")

FOLDER = Path(leads.__file__).parents[1] / "results" / "molecule_leads"
RESULTS = json.loads((FOLDER / "results.json").read_text())


def test_the_defaults_are_the_best_of_the_committed_sweep() -> None:
    import inspect

    from ctrlgen.domains.molecules.cli import optimize

    radius = inspect.signature(optimize).parameters["radius"].default
    assert leads.best(RESULTS) == (radius, LIKENESS)


def test_the_committed_table_and_that_of_the_docs_are_the_results() -> None:
    assert leads.table(RESULTS) == (FOLDER / "table.md").read_text()
    page = (Path(__file__).parents[3] / "docs" / "molecules.md").read_text()
    cells = {(row["radius"], row["likeness"]): row["rows"] for row in RESULTS["cells"]}
    lines = [line for line in page.splitlines() if line.startswith("| 0.")]
    assert len(lines) == 6
    for line in lines:
        words = [word.strip() for word in line.strip("|").split("|")]
        told = leads.shares(cells[float(words[0]), float(words[1].split()[0])])
        keys = ("unchanged", "guide", "guide, 0.25", "evaluator, 0.25", "guide, 0.4")
        shown = [words[2], *words[4:]]
        assert shown == [f"{100 * told[key]:.0f} %" for key in keys]
        assert words[3] == f"{told['tanimoto']:.2f}"


def test_a_cell_counts_every_start(tmp_path: Path) -> None:
    from ctrlgen.domains.molecules.judges import regressor
    from ctrlgen.priors.prior import load
    from tests.molecules.tiny_molecules import save_prior, save_regressor

    prior = load(save_prior(tmp_path, 14, 9))
    guide = regressor(str(save_regressor(tmp_path, "guide", 14, 1)))
    evaluator = regressor(str(save_regressor(tmp_path, "evaluator", 5, 2)))
    signals = prior.bind(counts=torch.tensor([5, 7])).sample([0, 1], prior.solver(2))
    few = leads.Leads(
        signals, torch.tensor([5, 7]), torch.full((2,), -1e9), torch.full((2,), -1e9), [None] * 2,
        ["", ""],
    )  # fmt: skip
    row = leads.cell(prior, guide, evaluator, "gap", few, 2, 0.1, 2.0)
    assert [(r["lead"], r["seed"]) for r in row["rows"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for r in row["rows"]:
        assert r["guide"] == r["valid"]  # so low an aim is met by whatever is a molecule
    told = leads.shares(row["rows"])
    assert told["guide"] == told["valid"] and set(told) >= {"guide, 0.25", "evaluator, 0.4"}
