"""`ctrlgen audio ...`: sound files with something missing, made whole; the work is in `commands`.

Every command takes a file or a folder of files. A file that fails is named and the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.commands import console
from ctrlgen.commands.options import reporting, sharing

__all__ = ["Options", "app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Fill gaps of sound files, add the band they lack, or draw new sound.",
)

_METHOD, _OUTPUT = "Method", "Output"

File = Annotated[
    Path, typer.Argument(help="WAV, FLAC, AIFF or OGG, of any number of channels; or a folder.")
]
Gaps = Annotated[
    list[str] | None,
    typer.Option(
        "--gap", help="start-end: seconds, m:ss.mmm, or @samples, as in 4.5-5.5; repeat it."
    ),
]


@dataclass(frozen=True)
class Options:
    """What the restoring commands share."""

    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write, or a folder.", rich_help_panel=_OUTPUT),
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


@app.command()
@reporting
@sharing(Options)
def inpaint(
    file: File,
    options: Options,
    gap: Gaps = None,
    labels: Annotated[
        Path | None, typer.Option(help="Gaps from a label file, as Audacity exports it.")
    ] = None,
    auto_gaps: Annotated[
        bool, typer.Option("--auto-gaps", help="Gaps are runs of zeros of 5 ms or more.")
    ] = False,
) -> None:
    """Fill gaps. What FILE holds there is not looked at; every other sample stays as it is.

    [dim]Examples:[/]

      ctrlgen audio inpaint in.wav --gap 4.5-5.5 -o out.wav

      ctrlgen audio inpaint take.flac --labels gaps.txt --takes 4
    """
    from ctrlgen.domains.audio import commands

    if sum((bool(gap), labels is not None, auto_gaps)) != 1:
        raise ValueError("gap: expected exactly one of --gap, --labels and --auto-gaps")
    commands.restore("inpaint", file, options, gap=gap, labels=labels, auto_gaps=auto_gaps)


@app.command()
@reporting
@sharing(Options)
def upsample(
    file: File,
    options: Options,
    rate: Annotated[int, typer.Option(help="Of the result in Hz, 16000 or more.")] = 16000,
) -> None:
    """Add the high band that a file of 8000, 4000 or 2000 Hz lacks; its own band stays.

    [dim]Example:[/]  ctrlgen audio upsample phone.wav --rate 16000 -o wide.wav
    """
    from ctrlgen.domains.audio import commands

    commands.restore("upsample", file, options, rate=rate)


@app.command()
@reporting
@sharing(Options)
def declip(
    file: File,
    options: Options,
    threshold: Annotated[
        float | None,
        typer.Option(help="Amplitude at which it is clipped; the file's own peak otherwise."),
    ] = None,
) -> None:
    """Give clipped peaks back; samples below the threshold stay as they are.

    Peaks that no longer fit are brought down to full scale with all the rest, and it is said.

    [dim]Example:[/]  ctrlgen audio declip loud.wav -o restored.wav
    """
    from ctrlgen.domains.audio import commands

    commands.restore("declip", file, options, threshold=threshold)


@app.command()
@reporting
@sharing(Options)
def extend(
    file: File,
    options: Options,
    seconds: Annotated[float, typer.Option(help="How much to add at the end.")] = 1.0,
) -> None:
    """Let a file go on; what is there stays as it is.

    [dim]Example:[/]  ctrlgen audio extend loop.wav --seconds 1.5 -o longer.wav
    """
    from ctrlgen.domains.audio import commands

    commands.restore("extend", file, options, seconds=seconds)


@app.command()
def degrade(
    file: Annotated[Path, typer.Argument(help="A sound file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    gap: Gaps = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Lower the sampling rate to so many Hz.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Cut off samples beyond this amplitude.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Make a degraded file: what the other commands take, of a file whose truth is at hand.

    [dim]Example:[/]  ctrlgen audio degrade clean.wav --gap 4.5-5.5 -o gap.wav
    """
    from ctrlgen.domains.audio import commands

    commands.degrade(file, out, gap=gap, rate=rate, clip=clip, overwrite=overwrite)


@app.command()
@reporting
def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many files.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; others count up.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Midpoint steps, two evaluations each.")] = 25,
    prior: Annotated[str, typer.Option(help="Name of a prior, or path of a card.")] = (
        "freedoom-music"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Draw sound from a prior, as WAV files of one window each.

    [dim]Example:[/]  ctrlgen audio sample -n 4 -o drawn
    """
    from ctrlgen.domains.audio import commands

    content = commands.sample(prior, out, number, seed, steps, overwrite=overwrite)
    if json:
        print(console.dumps(content))
    else:
        console.say(f"{number} files in {content['seconds']:.1f} s: {out}")
