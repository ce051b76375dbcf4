"""`ctrlgen compare`: which method, on somebody's own prior, problems and data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ctrlgen.commands.options import argument, reporting
from ctrlgen.commands.running import typed
from ctrlgen.runs.outputs import reserved, run_folder

__all__ = ["compare"]

_PROBLEM, _CONTEST, _OUTPUT = "The problem", "The comparison", "Output"


@reporting
def compare(
    ctx: typer.Context,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILES]...", help="Files of --task.")
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="Name of a prior, path of a card, or FILE.py:NAME of a Prior.",
            rich_help_panel=_PROBLEM,
        ),
    ] = "",
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your problems: an InverseProblem of several measurements, with truth=... where "
            "it is known, or a function that makes one (from `prior`, if it takes that).",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Problems of FILES instead; of images inpaint, upsample, deblur, denoise, "
            "nonlinear-blur. FILES are clean unless --arg degrade=false.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="For the task or the function, e.g. centre=10, noise=0.05; repeat as needed.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names with commas, see `ctrlgen methods`; all with settings for inverse problems "
            "by default, and best-of where the measurement has no gradient.",
            rich_help_panel=_CONTEST,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="Evaluations of the network that a sample may take, e.g. evaluations=50,200. "
            "What was taken is counted, and backward passes beside it.",
            rich_help_panel=_CONTEST,
        ),
    ] = "evaluations=50",
    metric: Annotated[
        str | None,
        typer.Option(
            help="Rank by psnr (needs the truth), posterior (likelihood of the prior and misfit), "
            "residual, or FILE.py:NAME, a function of signals and true signals. By default the "
            "first that can be had.",
            rich_help_panel=_CONTEST,
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Samples of each problem; 1 where the truth is known, else 2.",
            rich_help_panel=_CONTEST,
        ),
    ] = None,
    factors: Annotated[
        str,
        typer.Option(
            help="What the main knob of each method is multiplied by in the search, beside 1; "
            "none for the settings as they are.",
            rich_help_panel=_CONTEST,
        ),
    ] = "0.5,2",
    batch: Annotated[
        int,
        typer.Option(min=1, help="Samples computed together.", rich_help_panel=_CONTEST),
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first sample.", rich_help_panel=_CONTEST)
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...", rich_help_panel=_CONTEST)] = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what it would take, evaluations and about how long, and compute nothing "
            "but one batch.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write; a new one under runs/.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.", rich_help_panel=_OUTPUT)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Compare methods on your own prior, problems and data, and say which to use.

    [dim]Examples:[/]

      ctrlgen compare --prior mnist --task inpaint --arg centre=10 digits/*.png
      --methods dps,ddrm,d-flow --budget evaluations=20,50

      ctrlgen compare --prior my.json --problem mine.py:problem --budget evaluations=50,200

    Every third problem is held aside: there each method tries its main knob at a few multiples,
    and the best setting is run on the others, which are reported. What is beyond doubt behind gets
    no more problems, so give many: six tell a large difference, thirty a small one. Methods that
    cannot run are rows with the reason. A comparison that is cut off goes on with
    [bold]ctrlgen resume FOLDER[/].
    """
    from ctrlgen.commands import comparing
    from ctrlgen.comparison.candidates import entrants, parse_budget

    if not prior:
        raise ValueError("prior: expected the name of a prior, see `ctrlgen priors`")
    if (problem is None) == (task is None):
        raise ValueError("problem: expected one of --problem FILE.py:NAME and --task with files")
    if (task is None) != (not images):
        raise ValueError("files: expected some with --task, and none without")
    names = None if methods is None else tuple(word.strip() for word in methods.split(","))
    entrants(names)  # before anything is loaded
    plan = comparing.Comparing(
        prior, problem, task, tuple(images or ()), dict(map(argument, arg or [])), names,
        tuple(parse_budget(budget)), metric, draws, _factors(factors), batch, seed, device,
    )  # fmt: skip
    study = plan.study()
    if dry_run:
        comparing.tell(study, json)
        return
    stem = f"compare-{task or str(problem).rpartition(':')[2]}"
    inputs = [*plan.files, *plan.code()]
    with reserved(out, stem, overwrite=overwrite, inputs=inputs) as place, run_folder(place):
        title = stem.replace("-", " ", 1)
        comparing.carry_out(plan.lasting(), study, place, json, command=typed(ctx), title=title)


def _factors(text: str) -> tuple[float, ...]:
    if text.strip() in ("", "none"):
        return ()
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(0 < value < math.inf for value in values):
        raise ValueError(f"factors: expected numbers above 0, as in 0.5,2, or none; got {text!r}")
    return values
