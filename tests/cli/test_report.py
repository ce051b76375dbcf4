"""`ctrlgen report`, and the reports with which commands end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.commands import report as reports
from ctrlgen.report.pages import is_page
from ctrlgen.rows.errors import MissingExtra

Run = Callable[..., Any]


@pytest.fixture
def drawn(ctrlgen: Run, grey_card: Path, tmp_path: Path) -> Path:
    """The folder of two images, without a report."""
    folder = tmp_path / "drawn"
    words = ("--prior", grey_card, "-n", 2, "--steps", 1, "-o", folder, "--no-report")
    outcome = ctrlgen("image", "sample", *words)
    assert outcome.code == 0, outcome.err
    assert not (folder / "report.html").exists() and "report.html" not in outcome.out
    return folder


def test_results_become_a_page(ctrlgen: Run, drawn: Path, tmp_path: Path) -> None:
    outcome = ctrlgen("report", drawn)
    assert (outcome.code, outcome.out.strip()) == (0, str(drawn / "report.html"))
    page = tmp_path / "new" / "both.html"
    outcome = ctrlgen("report", drawn, drawn, "-o", page, "--title", "A & B", "--json")
    content = json.loads(outcome.out)
    assert content["report"] == str(page) and len(content["sections"]) == 2
    assert content["sections"][0]["samples"] == 2
    assert "<title>A &amp; B</title>" in page.read_text()
    assert ctrlgen("report", drawn, "-o", page).code == 0  # a report makes room for a report


def test_a_command_ends_with_its_report(ctrlgen: Run, grey_card: Path, tmp_path: Path) -> None:
    for words in ((), ("--json",)):
        folder = tmp_path / f"run{len(words)}"
        outcome = ctrlgen(
            "image", "sample", "--prior", grey_card, "-n", 1, "--steps", 1, "-o", folder, *words
        )
        assert outcome.code == 0 and is_page(folder / "report.html")
        said = outcome.err if words else outcome.out
        assert said.rstrip().endswith(str(folder / "report.html"))
    json.loads(outcome.out)


def test_a_report_that_fails_costs_no_result(
    ctrlgen: Run, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "out.html").write_text("mine")
    outcome = ctrlgen("report", drawn, "-o", tmp_path / "out.html")
    assert outcome.code == 2 and "is no report; name another file" in outcome.err
    (drawn / "report.html").write_text("mine")
    with reports.concluding(True, False):
        reports.announce(drawn)
    assert "no report: out:" in capsys.readouterr().err
    assert (drawn / "report.html").read_text() == "mine"

    def missing(*words: Any) -> None:
        raise MissingExtra("plotly", "report")

    monkeypatch.setattr("ctrlgen.report.pages.write_page", missing)
    (drawn / "report.html").unlink()
    with reports.concluding(True, False):
        reports.announce(drawn)
    assert 'pip install "ctrlgen[report]"' in capsys.readouterr().err
    with pytest.raises(ArithmeticError), reports.concluding(True, False):
        reports.announce(drawn)
        raise ArithmeticError
    assert not (drawn / "report.html").exists()
    reports.announce(drawn)  # outside of a command it says nothing


def test_what_is_no_result_is_refused(ctrlgen: Run, tmp_path: Path) -> None:
    assert "there is no" in ctrlgen("report", tmp_path / "none").err
    assert "expected results of ours" in ctrlgen("report", tmp_path).err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("places", "page"),
    [
        (["runs/a/"], "runs/a/report.html"),
        (["m.sdf"], "m.html"),
        (["runs/a/", "runs/b/"], "runs/report.html"),
        (["runs/a/", "other/b/"], "runs/a/report.html"),
    ],
)
def test_a_report_lies_beside_its_results(places: list[str], page: str, tmp_path: Path) -> None:
    for each in places:
        if each.endswith("/"):
            (tmp_path / each).mkdir(parents=True)
    assert reports._beside([tmp_path / each for each in places]) == tmp_path / page
