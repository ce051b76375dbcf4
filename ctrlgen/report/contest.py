"""The sections of a comparison's folder (`ctrlgen.comparison.folder`), and what stands above them.

The best methods at the largest budget are sections, the recommended one first, so that the others
are compared with it sample by sample. All rows are in the table and in the chart above.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctrlgen.comparison.folder import manifest, read_result
from ctrlgen.comparison.outcome import Comparison
from ctrlgen.report.panels import Panel
from ctrlgen.report.sections import Section
from ctrlgen.report.stored import run_section

__all__ = ["MOST", "contest_sections"]

MOST = 6
"""Methods whose samples a page shows."""


def contest_sections(place: Path, panels: Mapping[str, Panel], budget: float) -> list[Section]:
    """The sections of a comparison.

    Args:
        place: its folder.
        panels: by domain.
        budget: bytes for pictures and sounds.

    Raises:
        ResultError: if it is not finished, or damaged.
    """
    about, content = manifest(place), read_result(place)
    largest = max(verdict["budget"] for verdict in content["verdicts"])
    ran = [row for row in content["rows"] if row["reason"] is None]
    shown = [row for row in ran if row["budget"] == largest][:MOST] or ran[:MOST]
    sections = []
    for row in shown:
        section = run_section(place / row["folder"], panels, budget / max(len(shown), 1))
        if section.missing:
            section.warnings.append(f"left behind after {row['problems']} problems")
            section.missing, section.complete = [], True
        sections.append(section)
    if not sections:
        sections = [Section(title=str(about.get("title") or place.name), samples=[])]
    first = sections[0]
    first.command = about.get("command") or first.command
    first.contest = _contest(content)
    return sections


def _contest(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page draws: sentences, the table, and the points of the chart."""
    heads, lines = Comparison(content).cells()
    asked, problems, search = content["criterion"], content["problems"], content["search"]
    notes = [
        f"{len(problems['reported'])} problems are reported, {problems['draws']} samples of each. "
        f"The search was on {len(problems['aside'])} others: {search['parts']} runs, "
        f"{search['evaluations']} evaluations and {search['backward_passes']} backward passes.",
        "A method that is beyond doubt behind gets no more problems: Conover's test of ranks, the "
        "best one is lost in at most 5 % of such races.",
        "Behind the best: mean difference of the pairs, with its 95 % bootstrap interval; of a "
        "method with fewer problems over these, and its mean is that of the best less it. "
        "A sample that failed counts as the worst of its problem.",
    ]
    if problems["plain"] is not None:
        notes.append(f"The pseudo-inverse, which asks no network: {problems['plain']:.1f} dB.")
    if any(row.get("calibration") is not None for row in content["rows"]):
        notes.append(
            "Calibration: mean squared distance to the mean of the known posterior in its own "
            "measure, 1 where samples are those of the posterior, less where they are too narrow."
        )
    return {
        "sentences": [verdict["sentence"] for verdict in content["verdicts"]],
        "heads": heads,
        "lines": lines,
        "notes": notes,
        "label": f"{asked['name']}, {asked['unit']}" if asked["unit"] else asked["name"],
        "points": [
            {
                key: row[key]
                for key in ("method", "budget", "evaluations", "backward_passes", "mean")
            }
            for row in content["rows"]
            if row["reason"] is None
        ],
    }
