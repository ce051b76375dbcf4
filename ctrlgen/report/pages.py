"""The page: one HTML file that opens without a network.

It holds its style, its scripts and its data; a Content-Security-Policy lets it run the scripts that
are in it, each by its sha256, and load nothing. Data are strict JSON in which `<`, `>` and `&` are
escaped, so that no text in them can end the element that holds it; scripts set texts, never HTML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from ctrlgen import __version__
from ctrlgen.priors.documents import write_whole
from ctrlgen.report.comparison import compare
from ctrlgen.report.intervals import LEVEL
from ctrlgen.report.libraries import plotly
from ctrlgen.report.panels import panels
from ctrlgen.report.sections import Section
from ctrlgen.runs.json_files import plain

__all__ = ["embedded", "is_page", "page", "write_page"]

_MARK = b'<meta name="generator" content="ctrlgen report">'

_SCRIPTS = ("base.js", "contest.js", "charts.js", "overview.js", "table.js", "sample.js", "main.js")


def write_page(file: Path | str, sections: Sequence[Section], title: str | None = None) -> Path:
    """Write the page of some runs, whole or not at all.

    Args:
        file: to write; its folder is made.
        sections: at least one; the first one is what others are compared with.
        title: of the page; the titles of the runs by default.

    Raises:
        ValueError: without a section.
        MissingExtra: if plotly is not installed.
    """
    made = page(sections, title)
    place = Path(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, made.encode())
    return place


def page(sections: Sequence[Section], title: str | None = None) -> str:
    """The HTML of some runs; arguments as for `write_page`."""
    if not sections:
        raise ValueError("sections: expected at least one run, got none")
    heading = title or ", ".join(dict.fromkeys(section.title for section in sections))
    available = panels()
    names = dict.fromkeys(section.panel for section in sections if section.panel in available)
    content = {
        "title": heading,
        "created": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "version": __version__,
        "level": LEVEL,
        "sections": [_section(section) for section in sections],
        "comparisons": compare(sections),
    }
    own = [_asset(name) for name in _SCRIPTS[:-1]]
    own += [available[name].script() for name in names if name is not None]
    # The page's own come first: its tables are there before plotly is read.
    scripts = ["\n".join([*own, _asset(_SCRIPTS[-1])]), plotly()]
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; script-src " + " ".join(map(_hash, scripts))
    )
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(heading),
        "style": _asset("page.css"),
        "data": embedded(content),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    made, left = "", _asset("page.html")
    for name, part in parts.items():  # in their order, so that no part is searched for another
        before, _, left = left.partition("{{" + name + "}}")
        made += before + part
    # A file name that is no Unicode cannot stand in a page.
    return (made + left).encode(errors="replace").decode()


def is_page(file: Path) -> bool:
    """Whether a file is a page that `write_page` has written."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return _MARK in opened.read(8192)


def embedded(value: Any) -> str:
    """Strict JSON in ASCII that can stand in any element of HTML."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(section: Section) -> dict[str, Any]:
    """A section as the scripts read it; what is empty is left out."""
    fields = {key: getattr(section, key) for key in section.__dataclass_fields__}
    fields["metrics"] = [asdict(metric) for metric in section.metrics]
    fields["samples"] = [
        {key: value for key, value in vars(sample).items() if value not in (None, (), [], {})}
        for sample in section.samples
    ]
    return fields


def _asset(name: str) -> str:
    return (files("ctrlgen.report") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a Content-Security-Policy says of a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
