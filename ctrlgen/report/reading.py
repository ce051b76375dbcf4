"""From folders of results to the sections of a page.

A run folder (`docs/runs.md`) is read here, and its domain adds the pictures; a comparison is the
runs of its best methods; a result that
`Result.save` wrote is numbers alone; every other form is asked of the domains' panels. A folder
that is nothing of these stands for the results in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctrlgen.comparison.folder import is_comparison
from ctrlgen.report.contest import contest_sections
from ctrlgen.report.documents import object_of
from ctrlgen.report.media import BUDGET
from ctrlgen.report.panels import panels
from ctrlgen.report.sections import Sample, Section, trouble
from ctrlgen.report.stored import courses, run_section
from ctrlgen.runs.schema import BACKUP, HISTORY, MANIFEST

__all__ = ["read", "read_all"]

_COUNTS = ("evaluations", "backward_passes", "objective_calls", "iterations")


def read_all(places: Sequence[Path | str], budget: float = BUDGET) -> list[Section]:
    """The sections of several folders or files, in their order; errors as of `read`."""
    return [section for place in places for section in read(place, budget / max(len(places), 1))]


def read(place: Path | str, budget: float = BUDGET) -> list[Section]:
    """The sections of one folder or file of results.

    Args:
        place: a folder, or one of the files of a result.
        budget: bytes that its pictures and sounds may take.

    Raises:
        ValueError: if there is nothing, nothing of ours, or something damaged.
    """
    path = Path(place)
    if not path.exists():
        raise ValueError(f"dir: there is no {path}")
    sections = _read(path, budget)
    if sections is None and path.is_dir():
        parts = [part for part in sorted(path.iterdir()) if part.is_dir()]
        inner = [part for part in parts if not part.name.startswith(".") and _ours(part)]
        sections = [s for part in inner for s in _read(part, budget / len(inner)) or ()]
    if not sections:
        raise ValueError(f"dir: expected results of ours, {path} holds none")
    return sections


def _is_run(path: Path) -> bool:
    if (path / BACKUP).is_file():  # which serves where the manifest is damaged
        return True
    return (object_of(path / MANIFEST) or {}).get("kind") == "ctrlgen-run"


def _ours(folder: Path) -> bool:
    return any(folder.glob("*.json"))


def _read(path: Path, budget: float) -> list[Section] | None:
    made = panels()
    if _is_run(path):
        return [run_section(path, made, budget)]
    if is_comparison(path):
        return contest_sections(path, made, budget)
    for panel in made.values():
        sections = panel.read(path, budget)
        if sections is not None:
            return sections
    content = object_of(path) if path.suffix == ".json" else None
    return [_result(path)] if content is not None and content.get("kind") == "result" else None


def _result(file: Path) -> Section:
    """A result that `Result.save` wrote."""
    from ctrlgen.methods.result import Result
    from ctrlgen.rows.status import Status

    result = Result.load(file)
    history = {f"{HISTORY}{name}": value for name, value in result.history.items()}
    course = courses(history)
    samples = [
        Sample(
            id, int(result.seeds[id]), Status(code).label, float(result.costs[id]),
            counts={name: int(getattr(result, name)[id]) for name in _COUNTS},
            flags=trouble(Status(code).label), course=next(course, None),
        )
        for id, code in enumerate(result.status.tolist())
    ]  # fmt: skip
    facts = {"method": result.method, **vars(result.network)}
    return Section(title=file.stem, samples=samples, facts=facts)
