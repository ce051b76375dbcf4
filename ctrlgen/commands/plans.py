"""Plans by the options of a command: what most of them share.

A plan is what a manifest holds and what workers are sent (`ctrlgen.runs.job.Plan`), so it names
files by paths that hold from any folder, and nothing of who computes or of where results go.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from ctrlgen.commands.run_options import absolute
from ctrlgen.runs.job import Job
from ctrlgen.runs.store import Store

__all__ = ["OptionsPlan"]


@dataclass(frozen=True)
class OptionsPlan:
    """Base of a plan whose fields are the options of its command and some paths.

    Subclasses write `job`, `count`, `finish` and `show`; see `ctrlgen.commands.running.Errand`.

    Attributes:
        options: a `Running` with the options of the command.
        out: the file that the user named for the results, beside the folder of the run.
    """

    options: Any
    out: Path | None = None

    what: ClassVar[str] = "samples"

    @property
    @abstractmethod
    def count(self) -> int:
        """Samples of the run."""

    @abstractmethod
    def job(self) -> Job:
        """The job; reads the files that the plan names."""

    def lasting(self) -> Self:
        """The same plan, whose paths hold from any folder."""
        own: dict[str, Any] = {f.name: absolute(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **own | {"options": self.options.lasting(self.count)})

    def files(self) -> list[Path]:
        """What it reads."""
        own = [getattr(self, f.name) for f in fields(self) if f.name != "out"]
        return [*(file for file in own if isinstance(file, Path)), *self.options.files()]

    def progress(self, job: Job) -> dict[str, Any]:
        """Arguments of `RunProgress`: costs of nothing are not shown."""
        return {"shown": lambda _: float("inf")}

    def put(self, job: Job, store: Store) -> None:
        """Write what the samples share: nothing."""
