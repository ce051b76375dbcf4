"""docs/reference.md names everything that there is, and nothing that there is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ctrlgen.commands.main import main
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.operators import OPERATORS
from ctrlgen.rows.status import Status
from tests.cli.conftest import save_prior

TEXT = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"## {title}", 1)[1], flags=re.MULTILINE)[0]


def words(text: str) -> set[str]:
    return set(re.findall(r"`([\w-]+)`", text))


def test_every_operator_and_status() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", section("Operators"), re.MULTILINE)
    assert rows == list(OPERATORS)
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|;]+?)[;|]", section("Status"), re.MULTILINE)
    assert [(int(number), name) for number, name, _ in listed] == [(s, s.name) for s in Status]
    for number, _, text in listed:
        assert text.strip().startswith(Status(int(number)).label)


def test_every_key_of_the_image_commands(tmp_path: Path) -> None:
    card = save_prior(tmp_path, 1)
    write_image(tmp_path / "x.png", torch.zeros(1, 12, 12))
    for command in (
        ["inpaint", str(tmp_path / "x.png"), "--centre", "4", "--degrade", "--method", "ddrm"],
        ["sample", "-n", "2", "--steps", "1"],
    ):
        out = tmp_path / command[0]
        with pytest.raises(SystemExit):
            main(["image", *command, "--prior", str(card), "--out", str(out), "--quiet"])
        content = json.loads((out / "result.json").read_text())
        if command[0] == "inpaint":
            text = section("`result.json` of `ctrlgen image inpaint")
            cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
            keys = set(content) | set(content["samples"][0])
            assert {name for cell in cells for name in words(cell)} == keys
            assert set(content["history"]) <= words(text)
        else:
            named = words(section("`result.json` of `ctrlgen image sample"))
            assert set(content) - named == set()
