"""`ctrlgen audio ...`: sound files with something missing, made whole; the work is in `commands`.

Every command takes a file or a folder of files, and is a run: it is resumed, shared among workers,
and ends with a report. A file that cannot be restored is named and the others go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.commands import console
from ctrlgen.commands.options import reporting, sharing
from ctrlgen.commands.running import carry_out, place, typed
from ctrlgen.commands.scoring import Scored
from ctrlgen.domains.audio.options import Options

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Fill gaps of sound files, add the band they lack, or draw new sound.",
)

File = Annotated[
    Path, typer.Argument(help="WAV, FLAC, AIFF or OGG, of any number of channels; or a folder.")
]
Gaps = Annotated[
    list[str] | None,
    typer.Option(
        "--gap", help="start-end: seconds, m:ss.mmm, or @samples, as in 4.5-5.5; repeat it."
    ),
]


@app.command()
@reporting
@sharing(Options)
def inpaint(
    ctx: typer.Context,
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
    commands.restore(ctx, "inpaint", file, options, gap=gap, labels=labels, auto_gaps=auto_gaps)


@app.command()
@reporting
@sharing(Options)
def upsample(
    ctx: typer.Context,
    file: File,
    options: Options,
    rate: Annotated[int, typer.Option(help="Of the result in Hz, 16000 or more.")] = 16000,
) -> None:
    """Add the high band that a file of 8000, 4000 or 2000 Hz lacks; its own band stays.

    [dim]Example:[/]  ctrlgen audio upsample phone.wav --rate 16000 -o wide.wav
    """
    from ctrlgen.domains.audio import commands

    commands.restore(ctx, "upsample", file, options, rate=rate)


@app.command()
@reporting
@sharing(Options)
def declip(
    ctx: typer.Context,
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

    commands.restore(ctx, "declip", file, options, threshold=threshold)


@app.command()
@reporting
@sharing(Options)
def extend(
    ctx: typer.Context,
    file: File,
    options: Options,
    seconds: Annotated[float, typer.Option(help="How much to add at the end.")] = 1.0,
) -> None:
    """Let a file go on; what is there stays as it is.

    [dim]Example:[/]  ctrlgen audio extend loop.wav --seconds 1.5 -o longer.wav
    """
    from ctrlgen.domains.audio import commands

    commands.restore(ctx, "extend", file, options, seconds=seconds)


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
    from ctrlgen.domains.audio.degrading import degrade as write

    write(file, out, gap=gap, rate=rate, clip=clip, overwrite=overwrite)


@app.command()
@reporting
@sharing(Scored)
def sample(
    ctx: typer.Context,
    options: Scored,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many files.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; others count up.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Midpoint steps, two evaluations each.")] = 25,
    prior: Annotated[str, typer.Option(help="Name of a prior, or path of a card.")] = (
        "freedoom-music"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Draw sound from a prior, as WAV files of one window each, steered by nothing or by a score.

    [dim]Examples:[/]

      ctrlgen audio sample -n 4 -o drawn

      ctrlgen audio sample -n 4 --score mine.py:loudness --calls 32 -o loud
    """
    stem = f"sample-{Path(prior).stem}"
    card = Path(prior).resolve() if Path(prior).suffix == ".json" else prior
    with place(out, stem, options, overwrite=overwrite, inputs=[Path(prior)]) as folder:
        from ctrlgen.domains.audio.posing import window_of
        from ctrlgen.domains.audio.sampling import Drawing
        from ctrlgen.extras import require

        require("soundfile", "audio")
        drawing = Drawing(
            str(card),
            seed,
            number,
            steps,
            console.device_named(device),
            options.size(number),
            options.scoring,
        )
        job = drawing.job()
        carry_out(
            drawing, job, folder, options,
            json=json, command=typed(ctx), domain="audio", title="sampling",
            about={"task": "sample", "sample_rate": window_of(job.prior).rate},
        )  # fmt: skip
