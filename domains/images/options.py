"""The options that all restoring commands share, written once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.commands.options import sharing
from ctrlgen.commands.running import Running

__all__ = ["PROBLEM", "Options", "restoring"]

PROBLEM, RUN, OUTPUT = "The problem", "The run", "Output"


@dataclass(frozen=True)
class Options(Running):
    """The options that all restorations share; each field is one."""

    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="FILE is a clean image: make the measurement from it (to try things out).",
            rich_help_panel=PROBLEM,
        ),
    ] = False
    noise: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise in the measurement, with pixels in \\[-1, 1]: "
            "0.1 is 13 of 255 grey levels. With --degrade, it is added.",
            rich_help_panel=PROBLEM,
        ),
    ] = 0.0
    truth: Annotated[
        Path | None,
        typer.Option(help="The true image, to report PSNR and SSIM.", rich_help_panel=PROBLEM),
    ] = None
    prior: Annotated[
        str | None,
        typer.Option(
            help="Name of a prior (see `ctrlgen priors`) or path of a card; by default the one "
            "that fits the size and the colours.",
            rich_help_panel=PROBLEM,
        ),
    ] = None
    label: Annotated[
        int | None,
        typer.Option(help="Class of the image, where it is known.", rich_help_panel=PROBLEM),
    ] = None
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Crop the middle of FILE and resample it to the size of --prior.",
            rich_help_panel=PROBLEM,
        ),
    ] = False
    tile: Annotated[
        bool,
        typer.Option(
            "--tile",
            help="FILE is larger than --prior: restore it by overlapping tiles, all at once. For "
            "inpaint, upsample and denoise.",
            rich_help_panel=PROBLEM,
        ),
    ] = False
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pixels that neighbouring tiles share; a quarter of a tile by default.",
            rich_help_panel=PROBLEM,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            "-n",
            min=1,
            help="How many reconstructions, seeds 0 to N-1; one by default.",
            rich_help_panel=RUN,
        ),
    ] = None
    seeds: Annotated[
        str | None, typer.Option(help="Their seeds instead, e.g. 3,5,8.", rich_help_panel=RUN)
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            help="How: d-flow, ndtm, c-pigdm, dps, ddrm, ...; any of `ctrlgen methods` that "
            "restores images. By default the one that was best at this task with this prior; "
            "d-flow for a prior that was not compared.",
            rich_help_panel=RUN,
        ),
    ] = None
    evaluations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Evaluations of the network per sample, at most; by default some tens, for D-Flow "
            "what its iterations take.",
            rich_help_panel=RUN,
        ),
    ] = None
    init: Annotated[
        str | None,
        typer.Option(
            help="Where D-Flow starts: guided (a guided sample; the default), mean (guided without "
            "noise: closest to the truth, the same for every seed), refined (the mean, brought "
            "onto the measurement first: fewest evaluations on colour images), blend (noise and "
            "the pseudo-inverse) or source (noise).",
            rich_help_panel=RUN,
        ),
    ] = None
    iterations: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Iterations per sample of methods that optimise the whole path; 400 for D-Flow.",
            rich_help_panel=RUN,
        ),
    ] = None
    target: Annotated[
        float | None,
        typer.Option(
            help="Such a method stops a sample at this PSNR of its measurement, in dB; by default "
            "the preset's, or the level of the noise.",
            rich_help_panel=RUN,
        ),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, ...", rich_help_panel=RUN)] = "cpu"
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write; a new one under runs/.", rich_help_panel=OUTPUT
        ),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.", rich_help_panel=OUTPUT)
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON.", rich_help_panel=OUTPUT)
    ] = False


restoring = sharing(Options)
"""Gives a command the shared options, handed to it as one `Options`."""
