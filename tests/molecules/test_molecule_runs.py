"""Runs over molecules: cut off, killed, resumed, shared; failures of single molecules."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_molecules import Cards, Command, ethanol, solved

from ctrlgen.domains.molecules import generation
from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.options import Generation
from ctrlgen.domains.molecules.runs import Designing
from ctrlgen.domains.molecules.sdf import read_sdf
from ctrlgen.report.reading import read
from ctrlgen.runs.interrupts import Terminated
from ctrlgen.runs.runner import begin, execute
from ctrlgen.runs.spec import same
from ctrlgen.runs.store import Store
from ctrlgen.runs.unsteered import Unsteered

rdkit = pytest.importorskip("rdkit")

FILES = ("out.sdf", "out.xyz", "out.csv")


def words(cards: Cards, *more: object) -> list[object]:
    """Four molecules in units of two, most of which start twice."""
    return [
        "generate", "-p", "gap=6.8eV", "-n", 4, "--atoms", "4..5", *cards.options[:-1], 1,
        "--draws", 2, "--batch", 2, *more,
    ]  # fmt: skip


def alike(one: Path, other: Path) -> None:
    """Two folders of runs hold the same, bit for bit, but for the time that it took."""
    first, second = Store.open(one), Store.open(other)
    for a, b in zip(first.records(), second.records(), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    for a, b in zip(first.rows(), second.rows(), strict=True):
        assert same(a.tensors, b.tensors)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int = 0, seed: int | None = None) -> None:
    """Steering is cut off at its call of this number, or when it comes to a seed."""
    calls, original = [], generation.steer

    def stopping(prior: Any, cost: Any, seeds: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(seeds)
        if len(calls) == at or seed in (seeds % 2**32).tolist():
            raise KeyboardInterrupt
        return original(prior, cost, seeds, *args, **kwargs)

    monkeypatch.setattr(generation, "steer", stopping)


@pytest.fixture
def whole(ctrlgen: Command, cards: Cards, tmp_path: Path) -> Path:
    """A folder with an uninterrupted run into out.sdf."""
    folder = tmp_path / "whole"
    solved(ctrlgen, *words(cards, "-o", folder / "out.sdf"))
    return folder


def test_a_run_that_was_cut_off_goes_on(
    ctrlgen: Command, cards: Cards, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder, by two processes; before that the best so far is in the files."""
    with monkeypatch.context() as patch:
        interrupt(patch, 4)  # in the second start of the second unit
        outcome = ctrlgen(*words(cards, "-o", tmp_path / "out.sdf", "--no-report"))
    assert outcome.code == 130
    assert "4 of 4 molecules are in" in " ".join(outcome.err.split())
    content = json.loads((tmp_path / "out.json").read_text())
    assert not content["complete"] and content["missing"] == []
    assert [row["starts"] for row in content["molecules"]][2:] == [1, 1]
    refused = ctrlgen(*words(cards, "-o", tmp_path / "out.sdf"))
    assert "out.sdf exists" in refused.err and "go on with it: ctrlgen resume" in refused.err
    monkeypatch.chdir("/")
    outcome = ctrlgen("resume", tmp_path / "out.run", "--workers", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.rstrip().endswith("out.html")
    alike(tmp_path / "out.run", whole / "out.run")
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (whole / file).read_bytes()
    assert Store.open(tmp_path / "out.run").result().history["starts"][-1].min() >= 1
    assert json.loads((tmp_path / "out.json").read_text())["complete"]


def test_killed_at_any_instant(
    ctrlgen: Command, cards: Cards, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Generation(
        properties=["gap=6.8eV"], number=4, prior=str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator), steps=2, evaluations=2, restarts=1, draws=2, batch="2",
    )  # fmt: skip
    job, chance = Designing(options, atoms="4..5").job(), random.Random(0)
    start = time.perf_counter()
    execute(job, begin(job, tmp_path / "timed"))
    span = time.perf_counter() - start
    alike(tmp_path / "timed", whole / "out.run")
    for trial in range(3):
        folder = tmp_path / str(trial)
        child = os.fork()
        if child == 0:
            execute(job, begin(job, folder))
            os._exit(0)
        time.sleep(chance.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        store = begin(job, folder)
        execute(job, store)
        alike(folder, whole / "out.run")


@pytest.mark.parametrize("kind", ["scaffold", "score", "steered score"])
def test_killed_after_the_first_unit(
    kind: str, ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Molecules around a scaffold, and ones that a score chooses, are those of a whole run."""
    lead, few = ethanol(tmp_path), ["-n", 4, "--batch", 2, "--no-report"]
    scored = ["--score", "logp<=2", "--method", "best-of", "--calls", 8, "--atoms", "3..5"]
    asked: dict[str, list[object]] = {
        "scaffold": [*words(cards), "--scaffold", lead, "--attach", 2, "--no-report"],
        "score": [
            "sample",
            *scored,
            *few,
            "--prior",
            cards.prior,
            "--evaluator",
            cards.evaluator,
            "--steps",
            1,
        ],
        "steered score": [*words(cards), "--score", "logp<=2", "--no-report"],
    }
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    solved(ctrlgen, *asked[kind], "-o", tmp_path / "whole" / "out.sdf")
    write = Store.write

    def last(self: Store, shard: Any) -> None:
        write(self, shard)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Store, "write", last)
        ctrlgen(*asked[kind], "-o", tmp_path / "cut" / "out.sdf")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    run = tmp_path / "cut" / "out.run"
    assert Store.open(run).pending() == [1] and not (tmp_path / "cut" / "out.sdf").exists()
    outcome = ctrlgen("resume", run)
    assert outcome.code == 0, outcome.err
    alike(run, tmp_path / "whole" / "out.run")
    for file in FILES:
        cut, entire = (tmp_path / name / file for name in ("cut", "whole"))
        assert cut.read_bytes() == entire.read_bytes()


def test_shares_and_other_inputs(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead = ethanol(tmp_path)
    asked = ["optimize", lead, "-p", "mu=2D", "-n", 2, *cards.options, "--batch", 1, "-o", "f.sdf"]
    outcome = ctrlgen(*asked, "--shard", "2/2")
    assert outcome.code == 0 and "1 of 2 molecules are in f.run" in outcome.out
    assert not (tmp_path / "f.sdf").exists()
    other = ctrlgen(*asked[:3], "mu=1D", *asked[4:], "--shard", "1/2")
    assert other.code == 2 and "f.run holds another run (method.designer.wish" in other.err
    lead.write_text(lead.read_text().replace("RDKit", "mine "))
    changed = ctrlgen(*asked, "--shard", "1/2")
    assert changed.code == 2 and "files.ethanol.sdf" in changed.err
    lead.write_text(lead.read_text().replace("mine ", "RDKit"))
    outcome = ctrlgen(*asked, "--shard", "1/2", "--json-lines", "--json")
    *lines, content = outcome.out.split("\n", 2)
    assert [json.loads(line)["event"] for line in lines] == ["begun", "finished"]
    assert json.loads(lines[1])["records"][0]["metrics"]["formula"]
    assert json.loads(content)["complete"] and len(read_sdf(tmp_path / "f.sdf")) == 2


def test_a_score_that_raises_for_one_molecule(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked with the reason, its mates are ranked; the file runs again where trusted."""
    (tmp_path / "mine.py").write_text(
        "def few(mols):\n"
        "    if any(m is not None and m.GetNumHeavyAtoms() == 5 for m in mols):\n"
        "        raise ValueError('too large')\n"
        "    return [1.0 for m in mols]\n"
    )
    asked = words(cards, "--rank", "mine.py:few", "-o", "out")
    with monkeypatch.context() as patch:
        interrupt(patch, seed=3)
        outcome = ctrlgen(*asked)
    assert outcome.code == 130 and "2 of 4 molecules are in out;" in outcome.err
    refused = ctrlgen("resume", "out")
    assert refused.code == 2 and "--trust mine.py" in " ".join(refused.err.split())
    outcome = ctrlgen("resume", "out", "--trust", "mine.py", "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)["molecules"]
    ranks = [row["rank"] for row in rows]
    assert None in ranks and 1.0 in ranks
    for row in rows:
        assert row["starts"] == 2 and row["status"] != "failed: an error was raised"
        assert (row["rank"] is None) == ("too large" in (row["reason"] or ""))
    assert (tmp_path / "out" / "molecules.sdf").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_molecule_that_raises_leaves_the_others(
    ctrlgen: Command, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = generation.steer

    def broken(prior: Any, cost: Any, seeds: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if bool((seeds % 2**32 == 2).any()):
            raise RuntimeError("not this one")
        return original(prior, cost, seeds, *args, **kwargs)

    monkeypatch.setattr(generation, "steer", broken)
    asked = words(cards, "--batch", "auto", "-o", "out.sdf")
    rows = solved(ctrlgen, *asked)["molecules"]
    assert [row["reason"] == "RuntimeError: not this one" for row in rows] == [False] * 2 + [
        True,
        False,
    ]
    assert rows[2]["status"] == "failed: an error was raised" and rows[2]["starts"] in (0, 1)
    assert all(row["evaluations"] > 0 for row in rows if row is not rows[2])


def test_an_interrupted_run_leaves_what_is_done_and_names_the_rest(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 3)
    outcome = ctrlgen(
        "generate", "-p", "gap=6.8eV", "-n", 6, "--atoms", "4", "-o", "out.sdf",
        *cards.options, "--batch", 2,
    )  # fmt: skip
    assert outcome.code == 130, outcome.err
    rows, entries = read_csv(tmp_path / "out.csv"), read_sdf(tmp_path / "out.sdf")
    assert [row["name"] for row in rows] == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert len(entries) == 4
    told = " ".join(outcome.err.split())
    assert "4 of 6 molecules are in out.run" in told and "resume out.run goes on" in told
    content = json.loads((tmp_path / "out.json").read_text())
    assert not content["complete"] and content["missing"] == [4, 5]
    assert f"ctrlgen report {tmp_path / 'out.sdf'} shows them" in told
    assert [len(section.samples) for section in read(tmp_path / "out.sdf")] == [4]


def test_an_interrupted_sample_leaves_its_json(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Unsteered.__call__, []

    def stopping(self: Unsteered, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Terminated
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Unsteered, "__call__", stopping)
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 1, "--batch", 2]
    outcome = ctrlgen("sample", "-n", 4, "--atoms", "3", *words, "-o", "out.sdf")
    assert outcome.code == 143
    content = json.loads((tmp_path / "out.json").read_text())
    assert not content["complete"] and content["missing"] == [2, 3]
    assert len(content["molecules"]) == len(read_csv(tmp_path / "out.csv")) == 2
