"""`ctrlgen image ...`: restore and sample images; the work itself is in `restoration`, `sampling`.

Each restoration reads one image file, solves its inverse problem for every seed, by D-Flow or the
method that is named, and writes the reconstructions, a figure and every number into a new folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.commands import console
from ctrlgen.commands.options import reporting, sharing
from ctrlgen.commands.running import carry_out, place, typed
from ctrlgen.commands.scoring import Scored
from ctrlgen.domains.images.commands import restore
from ctrlgen.domains.images.options import PROBLEM, Options, restoring

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Restore image files, or draw new images, with a pretrained prior.",
)

File = Annotated[
    Path, typer.Argument(help="PNG or JPEG, grey or colour, of a size that a prior supports.")
]


@app.command()
@reporting
@restoring
def inpaint(
    ctx: typer.Context,
    file: File,
    options: Options,
    mask: Annotated[
        Path | None,
        typer.Option(help="Mask of the same size: white is filled in.", rich_help_panel=PROBLEM),
    ] = None,
    centre: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fill in a square of this side in the middle.", rich_help_panel=PROBLEM
        ),
    ] = None,
    random: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Fill in this fraction of random pixels.", rich_help_panel=PROBLEM
        ),
    ] = None,
) -> None:
    """Fill in missing pixels. What FILE shows there is not looked at.

    [dim]Examples:[/]

      ctrlgen image inpaint photo.png --mask mask.png --samples 4

      ctrlgen image inpaint clean.png --centre 12 --degrade
    """
    if sum(way is not None for way in (mask, centre, random)) != 1:
        raise ValueError("mask: expected exactly one of --mask, --centre and --random")
    if random is not None and not 0 < random < 1:
        raise ValueError(f"random: expected a fraction between 0 and 1, got {random}")

    way = {"mask": mask, "centre": centre, "random": random}
    restore(ctx, "inpaint", file, options, way)


@app.command()
@reporting
@restoring
def upsample(
    ctx: typer.Context,
    file: File,
    options: Options,
    factor: Annotated[
        int, typer.Option(min=2, help="Size of the result over FILE's.", rich_help_panel=PROBLEM)
    ] = 2,
) -> None:
    """Enlarge a small image, taken for a bicubic reduction of the one that is sought.

    [dim]Examples:[/]

      ctrlgen image upsample small.png --factor 2

      ctrlgen image upsample clean.png --factor 4 --degrade
    """
    restore(ctx, "upsample", file, options, {"factor": factor})


@app.command()
@reporting
@restoring
def deblur(
    ctx: typer.Context,
    file: File,
    options: Options,
    std: Annotated[
        float,
        typer.Option(
            help="Width of the blur: its standard deviation in pixels.", rich_help_panel=PROBLEM
        ),
    ] = 1.0,
    boundary: Annotated[
        str,
        typer.Option(
            help="What the blur saw beyond the edge: reflect, zero or circular.",
            rich_help_panel=PROBLEM,
        ),
    ] = "reflect",
    compare: Annotated[
        str,
        typer.Option(
            help="What methods that run to a target compare: the measurement, or its "
            "pseudo-inverse as D-Flow's paper does for blurs.",
            rich_help_panel=PROBLEM,
        ),
    ] = "measurement",
) -> None:
    """Undo a Gaussian blur of known width.

    [dim]Examples:[/]

      ctrlgen image deblur soft.png --std 1.0

      ctrlgen image deblur clean.png --std 1.5 --degrade --noise 0.05
    """
    restore(ctx, "deblur", file, options, {"std": std, "boundary": boundary}, compare)


@app.command()
@reporting
@restoring
def denoise(ctx: typer.Context, file: File, options: Options) -> None:
    """Remove Gaussian noise of known strength; --noise is needed.

    [dim]Examples:[/]

      ctrlgen image denoise grainy.png --noise 0.1

      ctrlgen image denoise clean.png --noise 0.2 --degrade --samples 3
    """
    if options.noise == 0:
        raise ValueError("noise: expected the noise of the file, above 0; add e.g. --noise 0.1")
    restore(ctx, "denoise", file, options, {})


@app.command()
@reporting
@sharing(Scored)
def sample(
    ctx: typer.Context,
    prior: Annotated[str, typer.Option(help="Name of a prior, or path of a card.")],
    options: Scored,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 64,
    label: Annotated[int | None, typer.Option(help="Class of all of them.")] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="Seeds count up from here.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Midpoint steps, two evaluations each.")] = 50,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Draw images from a prior, steered by nothing or by a score of yours.

    [dim]Examples:[/]

      ctrlgen image sample --prior mnist -n 64 --label 3

      ctrlgen image sample --prior mnist -n 4 --score mine.py:ink --method evolution --calls 200
    """
    stem = f"sample-{Path(prior).stem}"
    card = Path(prior).resolve() if Path(prior).suffix == ".json" else prior
    with place(out, stem, options, overwrite=overwrite, inputs=[Path(prior)]) as folder:
        from ctrlgen.domains.images.sampling import Drawing

        drawing = Drawing(
            str(card), first_seed, number, steps, console.device_named(device),
            options.size(number), options.scoring, label,
        )  # fmt: skip
        carry_out(
            drawing, drawing.job(), folder, options,
            json=json, command=typed(ctx), domain="images", title="sampling",
        )  # fmt: skip
