"""How a domain shows its samples on a page.

A domain brings the module that reads its results and a script that draws one sample:

    PANEL = Panel("images", Path(__file__).with_name("panel.js").read_text, read, show)

and names it in its `Domain(..., panel="module:PANEL")`. The page holds the script once; it says

    ctrlgen.panel("images", {
        picture(section, sample) { ... },          // a small element for the table, or null
        draw(place, section, sample, page) { ... },  // the view of one sample
        overview(place, section, page) { ... },    // optional: charts of all samples
    });

`docs/reports.md` has what `page` offers. Scripts make elements and set their text; they never take
text for HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctrlgen import plugins
from ctrlgen.report.sections import Section

__all__ = ["Panel", "panels"]


@dataclass(frozen=True)
class Panel:
    """What a domain adds to a page.

    Attributes:
        name: of the domain.
        script: gives the JavaScript that draws.
        read: the sections of a folder or file in the domain's own form, within a budget of bytes
            for pictures and sounds; None where it is of another.
        show: completes the section of a run folder (see `docs/runs.md`): called with the section,
            the manifest, to which the path of the folder is added as `folder`, the shared tensors,
            the units one after the other, each with `ids`, `records` and `tensors`, and the budget.
    """

    name: str
    script: Callable[[], str]
    read: Callable[[Path, float], list[Section] | None]
    show: Callable[[Section, dict[str, Any], dict[str, Any], Iterable[Any], float], None] | None = (
        None
    )


def panels() -> dict[str, Panel]:
    """The panels of all installed domains, by name.

    Raises:
        TypeError: if a domain names something else.
    """
    made = {}
    for domain in plugins.domains().values():
        if domain.panel is not None:
            panel = plugins.resolve(domain.panel)
            if not isinstance(panel, Panel):
                raise TypeError(f"panel of {domain.name}: expected a Panel, got {panel!r}")
            made[panel.name] = panel
    return made
