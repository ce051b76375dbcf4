"""What all runs over molecules share: molecules as samples, one per seed or record.

What is said of them, by networks and chemistry, is computed with each unit; files are written at
the end, and after an interruption of what there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ctrlgen.commands.plans import OptionsPlan
from ctrlgen.commands.run_options import seeds_of
from ctrlgen.domains.molecules.reports import finish, show
from ctrlgen.runs.job import Job
from ctrlgen.runs.store import Store

__all__ = ["METRIC", "Molecules"]

METRIC = "molecules"
"""The metric that says everything of a molecule."""


class Molecules(OptionsPlan):
    """A run over molecules; files are molecules.sdf and the like in its folder, or `out`."""

    what: ClassVar[str] = "molecules"
    number: ClassVar[int] = 16

    @property
    def seeds(self) -> list[int]:
        """One per molecule; raises ValueError where they cannot be read."""
        return seeds_of(self.options.seeds, self.options.number, self.number, "--number")

    @property
    def count(self) -> int:
        return len(self.seeds)

    def about(self, job: Job) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"asked": [], "warnings": []}

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """SDF, XYZ, CSV, JSON and figure."""
        return finish(store, self.out, job.prior)

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table, and the path of the file."""
        show(content, ())
