"""What all runs over molecules share: plans by the options of a command, and the way to files.

Molecules are the samples, one per seed or record. What is said of them, by networks and chemistry,
is computed with each unit; files are written at the end, and after an interruption of what there
is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from ctrlgen.commands.run_options import absolute
from ctrlgen.domains.molecules.inputs import seeds_of
from ctrlgen.domains.molecules.reports import finish, show
from ctrlgen.runs.job import Job
from ctrlgen.runs.store import Store

__all__ = ["METRIC", "Molecules"]

METRIC = "molecules"
"""The metric that says everything of a molecule."""


@dataclass(frozen=True)
class Molecules:
    """A run over molecules.

    Attributes:
        options: of the command.
        out: FILE.sdf that the user named; molecules.sdf in the folder of the run by default.
    """

    options: Any
    out: Path | None = None

    what: ClassVar[str] = "molecules"
    number: ClassVar[int] = 16

    @property
    def seeds(self) -> list[int]:
        """One per molecule; raises ValueError where they cannot be read."""
        return seeds_of(self.options.seeds, self.options.number, self.number)

    def lasting(self) -> Self:
        """The same plan, whose paths hold from any folder."""
        own = {f.name: absolute(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **own | {"options": self.options.lasting(len(self.seeds))})

    def job(self) -> Job:
        """The job."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """What it reads."""
        own = [getattr(self, f.name) for f in fields(self) if f.name != "out"]
        return [*(file for file in own if isinstance(file, Path)), *self.options.files()]

    def about(self, job: Job) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"asked": [], "warnings": []}

    def progress(self, job: Job) -> dict[str, Any]:
        """Costs of nothing are not shown."""
        return {"shown": lambda _: torch.inf}

    def put(self, job: Job, store: Store) -> None:
        """Molecules share nothing."""

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """SDF, XYZ, CSV, JSON and figure."""
        return finish(store, self.out, job.prior)

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table, and the path of the file."""
        show(content, ())
