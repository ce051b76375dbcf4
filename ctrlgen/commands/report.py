"""`ctrlgen report`, and the report with which a command ends.

A command that has written results says where, `announce(place)`; once it is over, its report is
written beside them and its path is the last line. A report that cannot be written is said and
changes nothing: the results are there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ctrlgen.commands import console
from ctrlgen.rows.errors import MissingExtra
from ctrlgen.runs.outputs import check_place

__all__ = ["announce", "concluding", "report"]

NAME = "report.html"

_places: ContextVar[list[Path] | None] = ContextVar("places", default=None)


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of results, or files of them, e.g. molecules.sdf."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Page to write; report.html in the first folder."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what is in it as JSON.")] = False,
) -> None:
    """Show results as one page that opens without a network.

    [dim]Examples:[/]

      ctrlgen report runs/inpaint-photo

      ctrlgen report runs/a runs/b -o comparison.html

    Several runs stand side by side; those of one problem are compared sample by sample.
    """
    from ctrlgen.report.pages import write_page
    from ctrlgen.report.reading import read_all

    page = out or _beside(results)
    _check(page)
    sections = read_all(results)
    write_page(page, sections, title)
    if json:
        shown = [{"title": s.title, "samples": len(s.samples)} for s in sections]
        print(console.dumps({"report": page, "sections": shown}))
    else:
        console.stdout.print(escape(str(page)), soft_wrap=True)


def announce(place: Path) -> None:
    """Say that a result lies there: a folder, or its FILE.sdf and the like."""
    places = _places.get()
    if places is not None:
        places.append(place)


@contextmanager
def concluding(wanted: bool, json: bool) -> Iterator[None]:
    """A command; at its end, the report of what it has announced.

    So it is where it ends with exit code 1, results beside something that failed.

    Args:
        wanted: whether there is to be one.
        json: whether standard output is for JSON, so that the path goes to standard error.
    """
    places: list[Path] = []
    token, partly = _places.set(places), None
    try:
        yield
    except typer.Exit as end:
        if end.exit_code != 1:
            raise
        partly = end
    finally:
        _places.reset(token)
    if wanted and places:
        _conclude(places, json)
    if partly is not None:
        raise partly


def _conclude(places: list[Path], json: bool) -> None:
    from ctrlgen.report.pages import write_page
    from ctrlgen.report.reading import read_all

    try:
        page = _beside(places)
        _check(page)
        write_page(page, read_all(places))
    except MissingExtra:
        console.screen.print('[dim]no report: pip install "ctrlgen\\[report]"[/]')
        return
    except (ValueError, OSError, RuntimeError) as error:
        console.warn(f"no report: {error}")
        return
    shown = console.screen if json else console.stdout
    shown.print(escape(str(page)), soft_wrap=True)


def _beside(places: list[Path]) -> Path:
    """report.html in a folder, FILE.html beside FILE.sdf; of several results in what holds all."""
    if len(places) > 1:
        common = os.path.commonpath([place.parent.absolute() for place in places])
        for place in places:
            if str(place.parent.absolute()) == common:
                return place.parent / NAME
    first = places[0]
    return first / NAME if first.is_dir() else first.with_suffix(".html")


def _check(page: Path) -> None:
    """Refuse to replace what is no report.

    Raises:
        ValueError: if it is a folder, or a file that is something else.
        OSError: if nothing can be written there.
    """
    from ctrlgen.report.pages import is_page

    check_place(page)
    if os.path.lexists(page) and not is_page(page):
        raise ValueError(f"out: {page} is there already and is no report; name another file")
