"""The reference page has every column and key that the commands write."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_molecules import Cards, Command, ethanol, save_prior, solved, unsure

from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.properties import PROPERTIES

rdkit = pytest.importorskip("rdkit")


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "reference-molecules.md").read_text()


def documented(title: str) -> set[str]:
    """The first cells of the tables of a section, and what it lists in words."""
    section = DOCUMENTED.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def general(name: str) -> str:
    """A column with a property's name and unit in it as the page writes it."""
    for own, about in PROPERTIES.items():
        if name == f"xtb mu ({about.unit})":
            return name
        name = name.replace(f" {own} ({about.unit})", " NAME (UNIT)")
        name = re.sub(rf"^without evaluator {own}$", "without evaluator NAME", name)
    return re.sub(r"^score \w+$", "score NAME", name)


def unsurely(ctrlgen: Command, cards: Cards, *words: object) -> dict[str, Any]:
    """With a guide that says how unsure it is."""
    with unsure(cards.guide):
        return solved(ctrlgen, *words)


def test_the_reference_page_has_every_column_and_key(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    pytest.importorskip("posebusters")
    lead, words = ethanol(tmp_path), ["-p", "mu=2D", "-n", 1, *cards.options]
    (tmp_path / "mine.py").write_text("def same(mols):\n    return [0.0 for _ in mols]\n")
    asked = ["--element", "N<=2", "--scaffold", lead, "--similar", lead, "--posebusters"]
    asked += ["--score", "qed>=0.1"]
    asked += ["--rank", "mine.py:same"]
    bare = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 1, "-n", 1]
    drug_like = save_prior(tmp_path, 13, 27)
    contents = [
        solved(ctrlgen, "generate", *words, *asked, "--atoms", 4, "-o", "a.sdf"),
        unsurely(
            ctrlgen, cards, "optimize", lead, *words, "--fragment", lead, "--uncertainty", 1,
            "-o", "b.sdf",
        ),
        solved(ctrlgen, "sample", *bare, "--atoms", 3, "-o", "c.sdf"),
        solved(ctrlgen, "score", lead, "--evaluator", cards.evaluator, "-o", "d.sdf"),
        solved(
            ctrlgen, "generate", "--pareto", "gap,mu", "-n", 1, *cards.options, "--draws", 1,
            "--atoms", 3, "-o", "e.sdf", "--no-report",
        ),
        solved(ctrlgen, "sample", "--prior", drug_like, *bare[4:], "-o", "f.sdf"),
    ]  # fmt: skip
    columns = {name for file in "abcdef" for name in read_csv(tmp_path / f"{file}.csv")[0]}
    rows = {name for content in contents for row in content["molecules"] for name in row}
    assert columns == rows | {"name"}
    page = documented("A row")
    assert {general(name) for name in columns} - page == set(), "columns that are not explained"
    there = {general(name) for name in columns}
    if importlib.util.find_spec("tblite") is None:
        there.add("xtb mu (D)")
    assert page - there == set(), "columns that no command writes"
    keys = documented("NAME.json")
    summary = {general(name) for content in contents for name in content["summary"]}
    summary = {"FLAG, unknown" if name.endswith(", unknown") else name for name in summary}
    assert {name for content in contents for name in content} | summary == keys
    inner = {
        *contents[0]["settings"], *contents[0]["network"], *contents[0]["prior"],
        *json.loads(ctrlgen("properties", "--json").out)[0],
    }  # fmt: skip
    assert inner <= set(re.findall(r"`([^`]+)`", DOCUMENTED))
