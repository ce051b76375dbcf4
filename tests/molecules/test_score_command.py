"""`ctrlgen molecule sample`, `score` and `properties`; tiny random networks kept as cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_molecules import Cards, Command, ethanol, save_prior, solved

from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.elements import DRUG
from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.networks import MoleculeVelocity
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.sdf import read_sdf, write_sdf
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.xyz import write_xyz

rdkit = pytest.importorskip("rdkit")
for _module in ("Chem.Crippen", "Chem.QED", "Chem.rdDistGeom", "Chem.rdForceFieldHelpers"):
    pytest.importorskip(f"rdkit.{_module}")


def test_sample_draws_and_score_says_the_same_of_the_file(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    told = solved(
        ctrlgen, "score", lead, "--evaluator", cards.evaluator, "--posebusters", "-o", "told.sdf"
    )
    (row,) = told["molecules"]
    assert row["posebusters"] and row["posebusters fails"] is None
    assert 0 <= row["strain (kcal/mol)"] < 30 and 0 <= row["MMFF rmsd (A)"] < 0.5
    assert told["summary"]["posebusters"] == 1 and told["summary"]["without strain"] == 0
    assert told["summary"]["median strain (kcal/mol)"] == row["strain (kcal/mol)"]
    assert row["smiles"] == "CCO" and row["formula"] == "C2H6O" and row["record"] == 1
    assert row["stable (EDM)"] and row["valid"] and row["pieces"] == 1 and row["atoms"] == 9
    assert row["novel (QM9)"] is False and "satisfied (guide)" not in row
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 2]
    drawn = solved(ctrlgen, "sample", "-n", 2, "--atoms", "3", *words, "-o", "out.sdf")
    assert [r["atoms of the prior"] for r in drawn["molecules"]] == [3, 3]
    assert drawn["network"]["forward"] == 2 and drawn["complete"]
    assert "2 molecules with tiny14" in ctrlgen(
        "sample", "-n", 2, "--atoms", "3", *words, "-o", "out.sdf", "--overwrite"
    ).out  # fmt: skip


def test_a_drug_like_prior_is_drawn_with_the_scores_of_rdkit(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    words = ["--prior", save_prior(tmp_path, 13, 27), "--steps", 1]
    refused = ctrlgen("generate", "--property", "gap=5eV", *words, "-o", "never.sdf")
    assert refused.code == 2 and "expected one of QM9's molecules" in " ".join(refused.err.split())
    drawn = solved(ctrlgen, "sample", "-n", 3, *words, "-o", "out.sdf")
    for row in drawn["molecules"]:  # of a network that knows nothing: nothing, but they are there
        assert {"score qed", "score logp", "score tpsa", "score sa", "stable"} <= row.keys()
        assert not any(key.startswith(("evaluator ", "novel ")) for key in row)
        assert 14 <= row["atoms of the prior"] <= 27 and row["valid"] is False and row["reason"]
    asked = ["--score", "logp<=2", "--method", "best-of", "--calls", 8, "-n", 1, "-o", "best.sdf"]
    assert "qed" in ctrlgen("sample", "--atoms", "9..10", *words, *asked).out
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 1, "--atoms", 2]
    (row,) = solved(ctrlgen, "sample", *words, *asked, "--overwrite")["molecules"]
    assert [key for key in row if key.startswith("score ")] == ["score logp"]
    both = ["--score", "logp<=2, sa<=4", *asked[2:-1], "both.sdf"]
    (row,) = solved(ctrlgen, "sample", *words, *both)["molecules"]
    assert [key for key in row if key.startswith("score ")] == ["score logp", "score sa"]
    refused = ctrlgen("sample", *words, "--score", "sa<=4,sa>=2", *both[2:], "--overwrite")
    assert refused.code == 2 and "score: expected each score once, got sa twice" in refused.err


def test_columns_of_a_drug_like_molecule() -> None:
    mol = rdkit.Chem.AddHs(rdkit.Chem.MolFromSmiles("Clc1ccc(CN2CCNCC2)s1"))
    assert rdkit.Chem.rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    assert rdkit.Chem.rdForceFieldHelpers.MMFFOptimizeMolecule(mol) == 0
    positions, classes, counts = tensors([mol], "moses-heavy")
    (row,) = Columns("moses-heavy", scores=("qed", "logp"))(join(positions, classes, len(DRUG)))
    bare = rdkit.Chem.MolFromSmiles(row["smiles"])
    assert row["smiles"] == rdkit.Chem.CanonSmiles("Clc1ccc(CN2CCNCC2)s1") and counts == 13
    assert row["valid"] and row["stable"] and row["score qed"] == rdkit.Chem.QED.qed(bare)
    assert row["score logp"] == pytest.approx(rdkit.Chem.Crippen.MolLogP(bare))


def test_what_rdkit_cannot_read_has_no_score() -> None:
    """One piece, five valences at its middle: a row with its reason, and its mate has a score."""
    positions = torch.zeros(2, 3, 3)
    positions[:, :, 0] = torch.tensor([0.0, 1.53, 3.06])
    classes = torch.tensor([[3, 3, 3], [3, 2, 3]])  # CH3 CH3 CH3, and propane
    bad, good = Columns("moses-heavy", scores=("qed",))(join(positions, classes, len(DRUG)))
    assert bad["score qed"] is None and not bad["valid"] and bad["reason"]
    assert good["valid"] and 0 < good["score qed"] < 1


def test_properties_are_listed_with_units_and_ranges(ctrlgen: Command) -> None:
    found = json.loads(ctrlgen("properties", "--json").out)
    assert [p["name"] for p in found] == list(PROPERTIES)
    assert all(p["low"] < p["high"] and p["unit"] in p["units"] for p in found)
    assert "polarizability" in ctrlgen("properties").out


def test_outputs_are_never_inputs_and_are_tried_first(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    before = lead.read_bytes()
    words = ["score", lead, "--evaluator", cards.evaluator]
    refused = ctrlgen(*words, "-o", lead, "--overwrite")
    assert refused.code == 2 and "which is read; name another file" in " ".join(refused.err.split())
    write_xyz(tmp_path / "one.xyz", [read_sdf(lead)[0].mol])
    refused = ctrlgen("score", "one.xyz", "-o", "one.sdf", "--overwrite")
    assert refused.code == 2 and "one.xyz, which is read" in " ".join(refused.err.split())
    (tmp_path / "afile").write_text("")
    refused = ctrlgen(*words, "-o", "afile/out.sdf")
    assert refused.code == 2 and "out: cannot write afile/out.sdf" in " ".join(refused.err.split())
    assert lead.read_bytes() == before
    assert solved(ctrlgen, *words, "-o", "new/folder/out.sdf")["complete"]
    assert (tmp_path / "new" / "folder" / "out.csv").is_file()


def test_a_bad_record_is_a_row_with_its_reason(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mols = []
    for text in ("CO", "CCl", "C[NH3+]", "CCCCCCCCCC", "C[C@H](O)F"):
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mols.append(mol)
    tags = [{"name": f"no. {i}", "mine": i} for i in range(1, 6)]
    write_sdf(tmp_path / "in.sdf", mols, tags)
    text = (tmp_path / "in.sdf").read_text()
    (tmp_path / "in.sdf").write_text(text + "broken\n$$$$\n")
    words = ["score", "in.sdf", "--evaluator", cards.evaluator]
    content = solved(ctrlgen, *words, "-o", "out.sdf")
    rows = content["molecules"]
    assert [row["record"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["name"] for row in rows[:5]] == [tag["name"] for tag in tags]
    assert [row.get("mine") for row in rows] == ["1", "2", "3", "4", "5", None]
    reasons = [row["reason"] or "" for row in rows]
    assert reasons[0] == reasons[4] == "" and "complete V2000" in reasons[5]
    assert "got Cl" in reasons[1] and "got charge +1" in reasons[2] and "got 32" in reasons[3]
    assert [row["valid"] for row in rows] == [True, False, False, False, True, False]
    assert rows[4]["smiles"] == Chem.CanonSmiles("C[C@H](O)F") and rows[2]["charge"] == 1
    assert rows[1]["smiles"] == "CCl" and rows[1].get("evaluator gap (meV)") is None
    assert len(read_sdf(tmp_path / "out.sdf")) == 6
    assert read_csv(tmp_path / "out.csv")[1]["mine"] == "2"
    strict = ctrlgen(*words, "-o", "strict.sdf", "--strict")
    assert strict.code == 2 and "record 2 (no. 2)" in " ".join(strict.err.split())
    assert "got Cl" in " ".join(ctrlgen(*words, "-o", "shown.sdf").out.split())


def test_a_network_that_is_no_number_is_an_error_with_its_step(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MoleculeVelocity.forward

    def singular(self: Any, x: torch.Tensor, t: torch.Tensor, **more: Any) -> torch.Tensor:
        value = forward(self, x, t, **more)
        late = (t > 0.6) & (x[:, 0, 0] > 0)  # some molecules, not before that time
        return torch.where(late[:, None, None], torch.nan, value)

    monkeypatch.setattr(MoleculeVelocity, "forward", singular)
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 4, "--batch", 3]
    outcome = ctrlgen("sample", "-n", 6, "--atoms", 3, *words, "--churn", 0, "-o", "out.sdf")
    assert outcome.code == 2
    content = json.loads((tmp_path / "out.json").read_text())
    lost = {item["seed"]: item["step"] for item in content["lost"]}
    assert lost and len(content["molecules"]) == 6  # none is left out, none harms another
    assert set(lost.values()) == {3}  # whose middle is 0.625
    said = " ".join(outcome.err.split())
    assert "error prior: its network gives what is no number from step 3 of 4 (t = 0.75)" in said
    for row in content["molecules"]:
        assert (row["reason"] == "positions are not finite") == (row["seed"] in lost)

    outcome = ctrlgen("sample", "-n", 6, "--atoms", 3, *words, "--churn", 1, "-o", "own.sdf")
    content = json.loads((tmp_path / "own.json").read_text())
    assert outcome.code == 2 and "what is no number on the way; seeds" in outcome.err
    assert content["lost"] and set(content["lost"][0]) == {"seed"}
    assert len(content["molecules"]) == 6


def test_stochastic_steps_are_another_draw_of_the_same_seed(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 4, "--atoms", 3]
    for name, more in (("a", ["--churn", 0]), ("b", ["--churn", 1]), ("c", [])):
        assert ctrlgen("sample", "-n", 2, *words, *more, "-o", f"{name}.sdf").code == 0
    one, other, usual = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc")
    assert [row["seed"] for row in one["molecules"]] == [row["seed"] for row in other["molecules"]]
    assert "Sampler(steps=4" in other["solver"] and "Sampler" not in one["solver"]
    assert "Ancestral(rate=16.0)" in usual["solver"]
    assert (tmp_path / "a.xyz").read_text() != (tmp_path / "b.xyz").read_text()
    score = ["--score", "qed>=0.5", "--calls", 8]
    outcome = ctrlgen("sample", *words, *score, "--method", "evolution", "--churn", 1)
    assert outcome.code == 2 and "churn: expected none with evolution, which solves" in outcome.err
    for name, more in (("d", []), ("e", ["--churn", 0]), ("f", ["--method", "evolution"])):
        outcome = ctrlgen("sample", "-n", 1, *words, *score, *more, "-o", f"{name}.sdf")
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert ("Ancestral(rate=16.0)" in content["method"]) == (name == "d")
