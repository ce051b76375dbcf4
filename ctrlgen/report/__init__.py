"""Pictures and pages of results.

    from ctrlgen.report import read, write_page
    write_page("report.html", read("runs/first") + read("runs/second"))

`sections` has the words, `reading` the folders, `pages` the page, `comparison` paired intervals.
The page in itself knows no domain: each brings a `panels.Panel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.report.comparison import paired
    from ctrlgen.report.pages import write_page
    from ctrlgen.report.panels import Panel
    from ctrlgen.report.reading import read
    from ctrlgen.report.sections import Metric, Sample, Section

__all__ = ["Metric", "Panel", "Sample", "Section", "paired", "read", "write_page"]

__getattr__, __dir__ = attach(__name__)
