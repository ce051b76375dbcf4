"""The options of every command that runs samples: who computes, and how large a unit is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from ctrlgen.commands.options import HERE
from ctrlgen.priors.trust import names_of
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.cluster import Ray
from ctrlgen.runs.executors import Executor, Local, Processes, Slice
from ctrlgen.runs.job import Batch

__all__ = ["LARGEST", "Running", "absolute", "check_files", "file_of", "seeds_of"]

LARGEST = 64
"""Samples of a unit where the user does not say."""

_PANEL = "The run"


@dataclass(frozen=True)
class Running:
    """Options of every command that runs samples."""

    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Samples of a unit, computed together; it changes nothing but memory and time. "
            f"At most {LARGEST} by default; auto looks at the memory of a CUDA device.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that compute units, one thread each.", rich_help_panel=_PANEL
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Compute this share of the units alone, for job arrays that name one --out.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Compute units on a Ray cluster; without an address on one that is started here.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json-lines",
            help="Print progress as JSON, a line per event.",
            rich_help_panel="Output",
        ),
    ] = False

    def executor(self) -> Executor:
        """Who computes.

        Raises:
            ValueError: for a shard that is none.
        """
        inner: Executor = Local()
        if self.ray is not None:
            inner = Ray(None if self.ray == HERE else self.ray, self.workers)
        elif self.workers is not None:
            inner = Processes(self.workers)
        return inner if self.shard is None else Slice.parse(self.shard, inner)

    def lasting(self, samples: int) -> Self:
        """The options that a run keeps: paths hold from any folder; who computes, and where results
        go, is left out.

        Args:
            samples: of the run.
        """
        own: dict[str, Any] = {
            f.name: f.default if f.name in _PASSING else absolute(getattr(self, f.name))
            for f in fields(self)
        }
        return replace(self, **own | {"batch": str(self.size(samples))})

    def files(self) -> list[Path]:
        """The files that its options name: inputs, cards, and code as FILE.py:NAME."""
        values = [getattr(self, f.name) for f in fields(self) if f.name not in _PASSING]
        words = [w for value in values for w in (value if isinstance(value, list) else [value])]
        return [file for word in words if (file := file_of(word)) is not None]

    def size(self, samples: int) -> Batch:
        """Samples of a unit: as said, or so many that everybody has one, and at most 64.

        Raises:
            ValueError: for something else than a number or "auto".
        """
        if self.batch is None:
            shares = Slice.parse(self.shard).count if self.shard else 1
            return max(1, min(LARGEST, math.ceil(samples / (shares * (self.workers or 1)))))
        if self.batch == "auto":
            return "auto"
        if not self.batch.isdigit() or int(self.batch) < 1:
            raise ValueError(f"batch: expected a number above 0 or auto, got {self.batch!r}")
        return int(self.batch)


_PASSING = ("workers", "shard", "ray", "json_lines", "out", "overwrite", "json")
"""Options that a run does not keep."""


def file_of(value: Any) -> Path | None:
    """The file that the value of an option names: a path, a card, or FILE.py:NAME."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        return None
    file, colon, _ = value.rpartition(":")
    if colon and file.endswith(".py"):
        return Path(file)
    return Path(value) if value.endswith(".json") else None


def absolute(value: Any) -> Any:
    """The value of an option, the file that it names by its absolute path."""
    if isinstance(value, list):
        return [absolute(word) for word in value]
    file = file_of(value)
    if file is None:
        return value
    if isinstance(value, Path):
        return file.absolute()
    _, colon, name = value.rpartition(":") if file.suffix == ".py" else ("", "", "")
    return f"{file.absolute()}{colon}{name}"


def check_files(folder: Path, reads: Iterable[Path], code: Iterable[Path]) -> None:
    """What a run needs to go on: files that are there, and code that the user trusts.

    Args:
        folder: of the run.
        reads: files that its plan reads.
        code: files that it runs, trusted by name (`ctrlgen.priors.trust`).

    Raises:
        ResultError: for a file that is gone, or code that is not trusted.
    """
    for file in reads:
        if not file.is_file():
            raise ResultError(f"{folder}: the run reads {file}, which is gone")
    for file in code:
        if file.name not in names_of(None):
            raise ResultError(
                f"{folder}: the run runs {file}, with all your rights; if you trust it, add "
                f"--trust {file.name}"
            )


def seeds_of(text: str | None, number: int | None, default: int, option: str) -> list[int]:
    """Seeds 0 to N − 1, or those that are named.

    Args:
        text: of --seeds.
        number: N, of the other option.
        default: N where neither is given.
        option: its name.

    Raises:
        ValueError: for both, no integers, or one twice.
    """
    if text is None:
        return list(range(number or default))
    if number is not None:
        raise ValueError(f"seeds: expected one of --seeds and {option}")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds: expected integers as in 3,5,8, got {text!r}") from error
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected each once, got {text!r}")
    return seeds
