"""The options that the commands which restore sound files share, written once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctrlgen.commands.running import Running
from ctrlgen.runs.job import Batch

if TYPE_CHECKING:
    from ctrlgen.domains.audio.restoration import Settings

__all__ = ["Options"]

_METHOD, _OUTPUT = "Method", "Output"

_ROWS = 8
"""Rows of a unit where the user does not say: L-BFGS of long signals takes memory."""


@dataclass(frozen=True)
class Options(Running):
    """What the restoring commands share."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Sound file to write, or folder of the run; a new one under runs/.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    takes: Annotated[int, typer.Option(min=1, help="Results, each from a seed of its own.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Of the first take; others count up.")] = 0
    preset: Annotated[
        str,
        typer.Option(
            help="fast, or paper: D-Flow's own settings, an hour a file.", rich_help_panel=_METHOD
        ),
    ] = "fast"
    iterations: Annotated[
        int | None,
        typer.Option(min=0, help="Most of L-BFGS; the preset's.", rich_help_panel=_METHOD),
    ] = None
    fit: Annotated[
        float,
        typer.Option(
            help="PSNR in dB, peak 1, at which what is known counts as met.",
            rich_help_panel=_METHOD,
        ),
    ] = 40.0
    fade: Annotated[float, typer.Option(help="Milliseconds of the fades inside of a gap.")] = 10.0
    prior: Annotated[
        str,
        typer.Option(help="Name of a prior, or path of a card.", rich_help_panel=_METHOD),
    ] = "freedoom-music"
    device: Annotated[str, typer.Option(help="cpu, cuda, ...", rich_help_panel=_METHOD)] = "cpu"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=_OUTPUT),
    ] = False
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the numbers as JSON.", rich_help_panel=_OUTPUT),
    ] = False

    def size(self, samples: int) -> Batch:
        """Rows of a unit; see `Running.size`."""
        size = super().size(samples)
        return min(_ROWS, size) if self.batch is None and isinstance(size, int) else size

    @property
    def settings(self) -> Settings:
        """How a file is worked on.

        Raises:
            ValueError: for options out of range.
        """
        from ctrlgen.domains.audio.restoration import Settings

        seeds = tuple(range(self.seed, self.seed + self.takes))
        return Settings(self.preset, seeds, self.iterations, self.fit, self.fade / 1000)
