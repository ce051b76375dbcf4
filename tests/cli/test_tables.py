"""Tables at any width: everything is shown, no number and no name is cut."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from ctrlgen.commands import console
from ctrlgen.commands.tables import Table
from ctrlgen.optimizers.base import Event

NAMES = ("name", "words", *(f"value {i} (dB)>" for i in range(6)))
ROWS = [
    (f"sample-{i}", "a text of many words " * 4, *(f"{-1234.5678 * i + k:.4f}" for k in range(6)))
    for i in range(3)
]


def shown(table: Table, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 80, 100, 300])
def test_every_number_is_whole_at_any_width(width: int) -> None:
    lines = shown(Table("Title", NAMES, ROWS), width)
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    for row in ROWS:
        assert row[0] in words and all(cell in words for cell in row[2:])
        assert words.count("many") >= 4 * len(ROWS)
    assert "…" not in "".join(lines)
    if width == 300:  # one row, one line
        assert len(lines) == 2 + len(ROWS)


def test_numbers_stand_to_the_right() -> None:
    lines = shown(Table("", ("a", "n>"), [("x", "1"), ("y", "200")]), 80)
    assert [line.rstrip() for line in lines] == ["a    n", "x    1", "y  200"]


@pytest.mark.parametrize("command", ["priors", "methods"])
@pytest.mark.parametrize("width", [40, 80])
def test_the_lists_are_whole_on_narrow_terminals(
    ctrlgen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    import json

    for screen in (console.stdout, console.screen):
        monkeypatch.setattr(screen, "width", width)
    text = ctrlgen(command).out
    assert all(len(line) <= width for line in text.splitlines())
    words = text.split()
    listed = json.loads(ctrlgen(command, "--json").out)
    names = list(listed) if command == "priors" else [m["name"] for m in listed]
    assert names and all(name in words for name in names)
    wide = ctrlgen(command, "--wide").out
    assert max(map(len, wide.splitlines())) > 100
    assert console.stdout.width == width  # of this command only


def event(values: list[float]) -> Event:
    rows = torch.arange(len(values))
    counts = torch.full_like(rows, 7)
    cost = torch.tensor(values)
    return Event(1, rows, cost, cost, counts, counts, torch.zeros_like(rows))


def test_without_a_terminal_progress_is_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    silent = Console(file=io.StringIO(), force_terminal=False)
    with caplog.at_level(logging.INFO, "ctrlgen"):
        progress = console.SampleProgress("fit", range(3), unit="dB", lines=0.0, console=silent)
        progress(event([1.0, 2.0, math.nan]))
        with console.Progress("draw", 10, "images", lines=0.0, console=silent) as bar:
            bar.advance(5)
    first, second = caplog.messages
    assert first.startswith("fit: 0 of 3 samples done, 7 evaluations, median 2 dB")
    assert second.startswith("draw: 5 of 10 images, 0 s, about 0 s more")
    assert silent.file.getvalue() == ""  # type: ignore[attr-defined]


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, verbose, expected in (
        (False, False, "info"),
        (True, False, ""),
        (False, True, "debug info"),
    ):
        with console.speaking(quiet, verbose):
            console.log.debug("debug")
            console.log.info("info")
            console.log.warning("careful")
        err = capsys.readouterr().err.split()
        assert err == [*expected.split(), "warning", "careful"]
    with pytest.raises(ValueError, match="quiet"), console.speaking(True, True):
        pass


def test_every_command_takes_the_common_options(ctrlgen: Callable[..., Any]) -> None:
    for words in (("priors",), ("image", "deblur"), ("molecule", "score"), ("train",)):
        text = ctrlgen(*words, "--help").out
        assert "--quiet" in text and "--verbose" in text and "--wide" in text
    assert "expected one of --quiet" in ctrlgen("priors", "--quiet", "--verbose").err
