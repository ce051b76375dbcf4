"""`ctrlgen compare` as a person calls it: a problem file, image files, a page, and bad words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.domains.images.files import write_image
from ctrlgen.report.reading import read
from ctrlgen.rows.seeds import normal
from tests.cli.conftest import ctrlgen, save_prior

__all__ = ["ctrlgen"]  # the fixture

Run = Callable[..., Any]

OWN = """
from tests.comparison.contestants import prior, problem
def posed(prior, count=3): return problem(count)
blind = problem(3, truth=False)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_a_problem_of_ones_own_and_its_resumption(ctrlgen: Run, own: Path) -> None:
    words = ("compare", "--prior", "own.py:prior", "--problem", "own.py:posed", "--arg", "count=6",
             "--methods", "ddrm,dps", "--budget", "evaluations=4", "--quiet")  # fmt: skip
    told = json.loads(ctrlgen(*words, "--dry-run", "--json").out)
    assert told["reported"] == 2 * 4 * 4 and told["search"] > 0 and told["seconds"][1] > 0
    assert not (own / "runs").exists()
    done = ctrlgen(*words, "--out", "o", "--json", "--no-report")
    content = json.loads(done.out)
    best, other = [row["method"] for row in content["rows"]]
    assert content["verdicts"][0]["best"] == best and len(content["rows"][0]["values"]) == 4
    (own / "o" / "result.json").unlink()
    refused = ctrlgen("resume", "o")
    assert refused.code == 2 and "--trust own.py" in refused.err
    again = ctrlgen("resume", "o", "--trust", "own.py", "--json")
    page = (own / "o" / "report.html").read_text()
    assert again.code == 0 and json.loads(again.out)["rows"] == content["rows"]
    assert content["verdicts"][0]["sentence"] in page and "Which method" in page
    sections = read(own / "o")
    assert [s.title for s in sections] == [f"{m}, 4 evaluations" for m in (best, other)]
    assert sections[0].contest["points"][0]["method"] == best
    assert sections[0].problem == sections[1].problem
    plain = ctrlgen(*words[:-1], "--out", "o", "--overwrite", "--no-report")
    assert f"At 4 evaluations use {best}" in " ".join(plain.out.split())


def test_image_files(ctrlgen: Run, own: Path) -> None:
    card = save_prior(own, 1)
    files = [own / f"{i}.png" for i in range(3)]
    for i, image in enumerate(normal(range(3), (1, 12, 12), 5)):
        write_image(files[i], 0.4 * image)
    words = ("compare", "--prior", card, "--task", "inpaint", "--methods", "ddrm,c-pigdm",
             "--budget", "evaluations=2", "--quiet", "--json", "--no-report")  # fmt: skip
    content = json.loads(ctrlgen(*words, "--arg", "centre=4", *files).out)
    assert content["problems"]["reported"] == [0, 1] and content["criterion"]["name"] == "psnr"
    assert len(list(Path(content["folder"]).glob("runs/*/manifest.json"))) == 2
    blind = json.loads(ctrlgen(*words, "--arg", "random=0.5", "--arg", "degrade=false", *files).out)
    assert blind["criterion"]["name"] == "posterior" and blind["problems"]["draws"] == 2
    assert "centre=, random= and mask=" in ctrlgen(*words, *files).err
    assert "arg: inpaint takes centre" in ctrlgen(*words, "--arg", "std=2", *files).err
    write_image(files[0], torch.zeros(1, 10, 10))
    assert "expected 12x12 pixels" in ctrlgen(*words, "--arg", "centre=4", *files).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "tgf"), "methods: 'tgf' is not known; did you mean tfg?"),
        (("--budget", "50"), "budget: expected evaluations=N,N,... as in"),
        (("--problem", "own.py"), "problem: expected MODULE:NAME or FILE.py:NAME, got 'own.py'"),
        (("--problem", "own.py:nothing"), "problem: own.py has no 'nothing'"),
        (("--problem", "none.py:x"), "problem: there is no file none.py"),
        (("--problem", "own.py:blind", "--metric", "psnr"), "metric: psnr needs the true signals"),
        (("--factors", "0"), "factors: expected numbers above 0"),
        (("--arg", "size=3"), "arg: own.py:posed: got an unexpected keyword argument 'size'"),
        (("--task", "inpaint"), "problem: expected one of --problem FILE.py:NAME and --task"),
        (("--prior", "mnits"), "prior: 'mnits' is not known"),
    ],
)
def test_bad_words(ctrlgen: Run, own: Path, words: tuple[str, ...], message: str) -> None:
    outcome = ctrlgen(
        "compare", "--prior", "own.py:prior", "--problem", "own.py:posed", "--methods", "ddrm",
        *words, "--out", "out",
    )  # fmt: skip
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not (own / "out").exists()


def test_the_help_teaches(ctrlgen: Run) -> None:
    text = ctrlgen("compare", "--help").out
    for word in ("ctrlgen compare --prior", "--dry-run", "held aside", "ctrlgen resume FOLDER"):
        assert word in text
