"""Strict JSON, whole or not at all, by one writer."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from ctrlgen.runs.json_files import dumps, read_json, write_json, write_results

ROOT = Path(__file__).parents[2]
NUMBERS = {
    "a": [1.5, math.nan],
    "b": {"c": -math.inf, "d": torch.tensor([math.inf, 2.0])},
    "e": "x",
}


def refuse(name: str) -> float:
    raise ValueError(name)


def test_what_is_not_finite_is_null_or_a_name() -> None:
    strict = json.loads(dumps(NUMBERS), parse_constant=refuse)
    assert strict == {"a": [1.5, None], "b": {"c": None, "d": [None, 2.0]}, "e": "x"}
    named = json.loads(dumps(NUMBERS, named=True), parse_constant=refuse)
    assert named["a"] == [1.5, "NaN"] and named["b"]["c"] == "-Infinity"
    assert float(named["b"]["c"]) == -math.inf  # Python's and numpy's own spelling


def test_a_file_gives_the_numbers_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", NUMBERS, named=True)
    content = read_json(tmp_path / "x.json")
    assert math.isnan(content["a"][1]) and content["b"] == {"c": -math.inf, "d": [math.inf, 2.0]}
    assert content["e"] == "x"


def test_a_list_of_numbers_is_one_line_of_the_digits_asked_for() -> None:
    value = {"a": [1.23456789, 2, None, [True]], "text": "[\n  1,\n  2\n]", "b": ["x, y", 1e-9 / 3]}
    text = dumps(value, indent=1, digits=3)
    assert json.loads(text) == {**value, "a": [1.23, 2, None, [True]], "b": ["x, y", 3.33e-10]}
    assert "  [true]\n" in text and dumps({"a": [1, 2.5]}) == '{\n  "a": [1, 2.5]\n}'
    assert json.loads(dumps(value)) == value


def test_results_have_six_digits_and_no_spaces(tmp_path: Path) -> None:
    value = {"row a": {"psnr": [1 / 3, 2], "by": "a: b, c"}, "sha256": "0" * 64, "e": math.inf}
    write_results(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert text.splitlines()[1:4] == ['"row a":{', '"psnr":[0.333333,2],', '"by":"a: b, c"']
    content = read_json(tmp_path / "x.json")
    assert content == {**value, "row a": {"psnr": [0.333333, 2], "by": "a: b, c"}}


def test_a_file_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"old": 1})

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_json(file, {"new": 2})
    assert json.loads(file.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [file]


def test_every_json_file_of_the_repository_is_strict() -> None:
    folders = ("experiments", "benchmarks", "domains", "docs")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.json")]
    assert len(files) > 10
    for file in files:
        json.loads(file.read_text(), parse_constant=refuse)


def test_no_other_module_writes_json_files() -> None:
    """`json.dumps` is left to pipes between processes and to what lies inside other files."""
    writing = re.compile(r"json\.dump\(|write_(text|bytes|whole)\([^\n]*json\.dumps")
    for folder in ("ctrlgen", "costs", "domains", "experiments", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            if "__pycache__" not in file.parts and file.name != "json_files.py":
                assert not writing.search(file.read_text()), file
