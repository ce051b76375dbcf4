"""The command line, `ctrlgen ...`; domains add their own commands by entry point.

Every error of a user's making is one line on standard error and exit code 2; `CTRLGEN_DEBUG=1`
shows where it came from. A broken promise of a cost (`ctrlgen check`) is exit code 1.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import typer.main

from ctrlgen import __version__, plugins
from ctrlgen.commands import compare as contests
from ctrlgen.commands import console
from ctrlgen.commands import report as reports
from ctrlgen.commands import train as recipes
from ctrlgen.commands.options import argument, common, reporting, sharing, with_ray
from ctrlgen.commands.running import Running, go_on
from ctrlgen.comparison.folder import is_comparison
from ctrlgen.priors.trust import trusting
from ctrlgen.rows.errors import UnknownName, concerning
from ctrlgen.runs.interrupts import terminable
from ctrlgen.runs.outputs import check_output, new_folder

__all__ = ["EXPECTED", "app", "main"]

EXPECTED = (ValueError, TypeError, UnknownName, ImportError, OSError, RuntimeError)
"""What a user can cause: shown as one line, without a traceback."""

app = typer.Typer(
    name="ctrlgen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Controlled generation with pretrained flow and diffusion models, without training.\n\n"
    "A method steers a prior so that its samples have a low cost. "
    "Start with [bold]ctrlgen demo[/].",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `ctrlgen` command; `arguments` are those of the process by default."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _attach_domains()
        command = _command(frozenset(group.name for group in app.registered_groups))
        with terminable():
            command(
                with_ray(words),
                prog_name="ctrlgen",
                obj={"command": shlex.join(["ctrlgen", *words])},
            )
    except EXPECTED as error:
        if os.environ.get("CTRLGEN_DEBUG") == "1":
            raise
        console.fail(error)
        raise SystemExit(2) from None


@cache
def _command(groups: frozenset[str | None]) -> Callable[..., Any]:
    """All commands as they are parsed, with these groups; built once, which takes a while."""
    common(app)
    return typer.main.get_command(app)


def _attach_domains() -> None:
    attached = {group.name for group in app.registered_groups}
    for domain in plugins.domains().values():
        if domain.app is not None and domain.command not in attached:
            app.add_typer(cast(typer.Typer, plugins.resolve(domain.app)), name=domain.command)


def _version(wanted: bool) -> None:
    if wanted:
        console.stdout.print(f"ctrlgen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
@reporting
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder to write; runs/demo by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier result there.")] = False,
    json: Json = False,
) -> None:
    """Fill sounds, solve problems on images, steer molecules; a few minutes on two cores.

    Each domain ends with a table, and all of them with one report. Nothing is downloaded.
    """
    shown = [domain for domain in plugins.domains().values() if domain.demo is not None]
    place = new_folder("demo") if out is None else out
    folders = [place if len(shown) == 1 else place / domain.name for domain in shown]
    for folder in folders:  # all of them before the first minute of compute
        check_output(folder, overwrite)
    for domain, folder in zip(shown, folders, strict=True):
        plugins.resolve(cast(str, domain.demo))(folder, overwrite=overwrite, json=json)


@app.command()
@reporting
@sharing(Running)
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a run that was cut off.")],
    options: Running,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="A package or file.py that the run may name: it runs with your rights."),
    ] = None,
    json: Json = False,
) -> None:
    """Go on with a run: what is finished is kept, what is missing computed.

    [dim]Example:[/]  ctrlgen resume runs/inpaint-photo --workers 4
    """
    with trusting(trust or ()):
        if is_comparison(folder):
            from ctrlgen.commands import comparing

            comparing.go_on(folder, options, json)
        else:
            go_on(folder, options, json)


@app.command()
def priors(json: Json = False) -> None:
    """List the pretrained priors: what they generate, their conditions, size, quality, licence."""
    from dataclasses import asdict

    from ctrlgen.priors.prior import available

    cards = available()
    if json:
        print(console.dumps({name: asdict(card) for name, card in cards.items()}))
        return
    rows = []
    for name, card in sorted(cards.items()):
        shape = (
            "×".join(map(str, card.source.get("shape", [])))
            or card.source["type"].rpartition(":")[2]
        )
        conditions = [
            f"{key} ({limits['classes']} classes)" if "classes" in limits else key
            for key, limits in card.conditions.items()
        ]
        rows.append(
            (
                f"[bold]{name}[/]",
                card.domain,
                shape,
                ", ".join(conditions) or "none",
                _size(plugins.cards()[name].with_name(card.weights)),
                str(card.quality.get("summary", "[dim]see --json[/]")),
                card.licence or "?",
            )
        )
    columns = ("name", "domain", "shape", "conditions", "weights>", "quality", "licence")
    console.stdout.print(console.table("Priors", columns, rows))
    console.stdout.print(
        '\n[dim]ctrlgen.load("NAME"), or --prior NAME; the path of a card works too'
    )


def _size(weights: Path) -> str:
    """Size of the weights as people read it."""
    return f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "[red]missing[/]"


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method: its parameters, defaults and presets.")
    ] = None,
    json: Json = False,
) -> None:
    """List the methods by family, under the names that --method takes; or say all about one.

    [dim]Examples:[/]  ctrlgen methods;  ctrlgen methods freedom
    """
    from ctrlgen.commands import listing

    if name is not None:
        listing.describe(name, json)
    else:
        listing.listing(json)


app.command()(contests.compare)
app.command()(recipes.train)
app.command()(reports.report)


@app.command()
def check(
    cost: Annotated[str, typer.Argument(help="MODULE:NAME or FILE.py:NAME, a Cost or function.")],
    prior: Annotated[str, typer.Option(help="Name of a prior, or path of a card.")],
    arg: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the constructor; repeat as needed.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Signals to try it on; 4 by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a cost: one value per sample, independent samples, a gradient that is right, its scale.

    [dim]Example:[/]  ctrlgen check my_costs.py:Loudness --arg target_db=-14 --prior mnist

    Exit code 1 if a promise is broken.
    """
    from ctrlgen.costs.check import check_cost
    from ctrlgen.priors.prior import load

    made = plugins.named(cost, "cost")
    given = dict(map(argument, arg or []))
    with concerning("prior"):
        loaded = load(prior)
    report = check_cost(made, loaded, arguments=given, seeds=range(samples) if samples else None)
    if json:
        print(console.dumps(report.as_dict()))
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _show(report: Any) -> None:
    from rich.markup import escape

    marks = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[yellow]–[/]"}
    title = f"{report.cost} on {report.samples} signals {report.shape} of {report.prior}"
    rows = [(marks[c.passed], c.name, escape(c.found)) for c in report.checks]
    console.stdout.print(console.table(escape(title), ("", "promise", "found"), rows))
    advice: dict[str, list[str]] = {}
    for c in report.checks:
        if c.advice:
            advice.setdefault(c.advice, []).append(c.name)
    for text, names in advice.items():
        console.stdout.print(f"\n[yellow]{', '.join(names)}:[/] {escape(text)}", soft_wrap=True)
    if report.scales:
        rows = [
            tuple(
                [s.signals, *(f"{v:.4g}" for v in (s.value, s.low, s.high, s.gradient, s.change))]
            )
            for s in report.scales
        ]
        columns = ("on", "median>", "least>", "most>", "‖gradient‖>", "change by a 1 % step>")
        console.stdout.print()
        console.stdout.print(console.table("Scale", columns, rows))
        console.stdout.print(f"\n[dim]{report.milliseconds:.3g} ms per sample and evaluation[/]")
    verdict = "[green]keeps its promises[/]" if report.passed else "[bold red]breaks a promise[/]"
    console.stdout.print(f"{escape(report.cost)} {verdict}")
