"""`ctrlgen molecule generate` and `optimize`: what they write and show; tiny random networks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_molecules import Cards, Command, ethanol, solved

from ctrlgen.domains.molecules import judges
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.sdf import read_sdf
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import split

rdkit = pytest.importorskip("rdkit")


def test_generate_writes_sdf_xyz_csv_json_and_figure(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    content = solved(
        ctrlgen, "generate", "-p", "gap=6.8eV", "--element", "N<=2", "--atoms", "5..7",
        "-n", 3, "-o", "out.sdf", *cards.options, "--batch", 2,
    )  # fmt: skip
    files = {file.name for file in tmp_path.iterdir()}
    whole = {"out.sdf", "out.xyz", "out.csv", "out.json", "out.png", "out.html", "out.run"}
    assert files == whole
    on_disk = json.loads((tmp_path / "out.json").read_text())
    assert {k: v for k, v in content.items() if k not in ("file", "folder")} == on_disk
    assert content["complete"] and content["missing"] == []
    assert content["asked"] == ["gap = 6800 meV", "N <= 2"]
    rows = read_csv(tmp_path / "out.csv")
    entries = read_sdf(tmp_path / "out.sdf")
    assert [row["name"] for row in rows] == ["seed-0", "seed-1", "seed-2"]
    guide, prior = judges.regressor(str(cards.guide)), cards.prior
    for row, entry, known in zip(rows, entries, content["molecules"], strict=True):
        assert row["target gap (meV)"] == "6800" and entry.tags["target gap (meV)"] == "6800"
        assert 5 <= int(row["atoms of the prior"]) <= 7
        for table in ("D_b", "QM9"):
            assert (row[f"novel ({table})"] in ("true", "false")) == bool(row["inchikey"])
        assert row["stable (EDM)"] in ("true", "false") and row["composition"] in ("true", "false")
        assert row["valid"] == "true" or row["reason"]
        if row["valid"] == "false":
            assert row["satisfied (guide)"] == row["satisfied (evaluator)"] == "false"
        assert int(row["evaluations"]) >= 2 and row["starts"] == "1"
        value = known["evaluator gap (meV)"]
        if value is not None:
            assert known["error gap (meV)"] == pytest.approx(abs(value - 6800))
            assert known["spread gap (meV)"] == pytest.approx(abs(value - known["guide gap (meV)"]))
        assert (entry.mol is not None) == (row["atoms"] != "")
    # the guide's column is the guide's value of the molecule, hard classes, in a separate pass
    designer = Designer(
        wish_of(["gap=6.8eV"], elements=["N<=2"]), str(prior), atoms="5..7",
        guide=str(cards.guide), evaluator=str(cards.evaluator),
    )  # fmt: skip
    settings = Settings(steps=2, evaluations=2, restarts=0, batch=3)
    again = designer.run(designer.task(), [0, 1, 2], settings)
    parts = split(again.result.samples)
    values = guide.of(parts, "hard")[:, list(PROPERTIES).index("gap")]
    for value, row in zip(values.tolist(), content["molecules"], strict=True):
        assert row["guide gap (meV)"] == pytest.approx(value, abs=1.0)  # other batches, same rows


def test_generate_shows_a_table(ctrlgen: Command, cards: Cards) -> None:
    outcome = ctrlgen("generate", "-p", "gap>=6eV", "-n", 1, "-o", "out.sdf", *cards.options)
    assert outcome.code == 0, outcome.err
    assert "gap wanted" in outcome.out and ">=6000" in outcome.out and "out.sdf" in outcome.out
    refused = ctrlgen("generate", "-p", "gap>=6eV", "-n", 1, "-o", "out.sdf", *cards.options)
    assert refused.code == 2 and "exists; name another file or add --overwrite" in refused.err


def test_optimize_keeps_the_size_and_the_ball(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    content = solved(
        ctrlgen, "optimize", lead, "-p", "mu=2D", "-n", 2, "--radius", 0.2, "-o", "better.sdf",
        *cards.options,
    )  # fmt: skip
    assert [row["atoms of the prior"] for row in content["molecules"]] == [3, 3]
    assert "xtb mu (D)" in content["molecules"][0]
    assert content["lead"]["smiles"] == "CCO" and content["lead"]["guide mu (D)"] > 0
    designer = Designer(
        wish_of(["mu=2D"]), str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator),
    )  # fmt: skip
    settings = Settings(steps=2, iterations=4, tolerance=1e-3, restarts=0)
    task = designer.lead_task(read_sdf(lead)[0].mol, 0.2, settings)
    rows, seeds = torch.arange(2), torch.tensor([0, 1])
    counts = task.counts(rows, seeds)
    assert task.start is not None and counts.tolist() == [3, 3]
    _, ball = task.start(rows, seeds, counts)
    assert ball.radius.tolist() == pytest.approx([0.2 * math.sqrt(2 * (3 * 17 - 3))] * 2)
    found = designer.run(task, [0, 1], settings).result
    assert (ball.distance(found.controls) <= ball.radius * (1 + 1e-5)).all()


def test_a_user_ranks_the_starts(cards: Cards, tmp_path: Path, ctrlgen: Command) -> None:
    (tmp_path / "mine.py").write_text(
        "def heaviest(mols):\n    return [None if m is None else -m.GetNumAtoms() for m in mols]\n"
    )
    words = ["generate", "-p", "gap=6.8eV", "-n", 1, *cards.options[:-1], 1]
    content = solved(ctrlgen, *words, "--rank", "mine.py:heaviest", "-o", "out.sdf")
    assert content["molecules"][0]["starts"] == 2
    refused = ctrlgen(*words, "--rank", "mine.py:lightest", "-o", "other.sdf")
    assert refused.code == 2 and "rank: mine.py has no function 'lightest'" in refused.err


def test_the_options_of_a_run_are_its_settings(ctrlgen: Command, cards: Cards) -> None:
    words = ["-p", "gap=6.8eV", "-n", 1, *cards.options, "--valence", 0.5, "--tolerance", 0.2]
    begins = ["--draws", 3, "--normalise", "isotropic", "--atoms", "4"]
    content = solved(ctrlgen, "generate", *words, *begins, "-o", "out.sdf")
    wanted = {
        "steps": 2, "evaluations": 2, "restarts": 0, "valence": 0.5, "tolerance": 0.2,
        "draws": 3, "normalise": "isotropic",
    }  # fmt: skip
    assert {key: content["settings"][key] for key in wanted} == wanted
    # three draws and at most two calls more; of four midpoint evaluations each
    molecule = content["molecules"][0]
    assert 3 < molecule["objective calls"] <= 5
    assert molecule["backward passes"] == 4 * (molecule["objective calls"] - 3)
    assert content["network"]["forward_rows"] == molecule["evaluations"]
    assert molecule["evaluations"] == 4 * molecule["objective calls"]


def test_a_function_that_fails_and_a_network_of_the_wrong_kind_are_named(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def divide(mols):\n    return 1 / 0\ndef words(mols):\n    return ['a' for m in mols]\n"
    )
    words = ["generate", "-p", "gap=6.8eV", "-n", 1, "--atoms", 3, *cards.options]
    refused = ctrlgen(*words, "--rank", "mine.py:divide", "-o", "a.sdf")
    assert refused.code == 2
    assert "rank: mine.py:divide raised ZeroDivisionError" in " ".join(refused.err.split())
    refused = ctrlgen(*words, "--rank", "mine.py:words", "-o", "b.sdf")
    assert refused.code == 2
    assert "rank: expected numbers or None, got 'a'" in " ".join(refused.err.split())
    words[words.index("--evaluator") + 1] = cards.guide
    refused = ctrlgen(*words, "-o", "c.sdf")
    assert refused.code == 2 and "evaluator: " in refused.err
    assert "reads heavy atoms alone" in " ".join(refused.err.split())


def test_the_seed_in_the_file_gives_the_row_again(ctrlgen: Command, cards: Cards) -> None:
    """Further draws and further starts, of other numbers of atoms, by their own seeds."""
    words = ["-p", "gap=6.8eV", *cards.options[:-1], 1, "--draws", 3]
    content = solved(ctrlgen, "generate", *words, "-n", 3, "-o", "out.sdf")
    rows = [row for row in content["molecules"] if row["seed"] >= 2**32]
    assert rows and all(row["starts"] == 2 for row in content["molecules"])
    seeds = ",".join(str(row["seed"]) for row in rows)
    again = solved(ctrlgen, "generate", *words, "--seeds", seeds, "-o", "again.sdf")
    for row, other in zip(rows, again["molecules"], strict=True):
        for key in ("seed", "smiles", "formula", "atoms of the prior", "cost", "reason"):
            assert other[key] == row[key], key
        assert other["starts"] == 1


def test_a_fragment_and_a_likeness_have_columns_and_count(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    wish = ["--fragment", lead, "--similar", lead, "--element", "N=0"]
    content = solved(ctrlgen, "generate", *wish, "-n", 2, "--atoms", 4, "-o", "o.sdf",
                     *cards.options)  # fmt: skip
    for row in content["molecules"]:
        assert {"fragment", "composition", "shape similarity", "satisfied (guide)"} <= set(row)
        if not row["fragment"]:
            assert not row["satisfied (guide)"] and not row["satisfied (evaluator)"]
    assert content["summary"]["fragment"] is not None
