"""Runs of the commands for molecules: progress, files that grow, interruptions, the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from ctrlgen import plugins
from ctrlgen.commands import console
from ctrlgen.commands.report import announce
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.generation import Task
from ctrlgen.domains.molecules.inputs import scorer
from ctrlgen.domains.molecules.judges import judge
from ctrlgen.domains.molecules.options import Generation, Search
from ctrlgen.domains.molecules.readers import Record
from ctrlgen.domains.molecules.reports import about, finish, show
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.result_tables import Sheet
from ctrlgen.domains.molecules.scoring import EVALUATOR
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.priors.flows import Evaluations
from ctrlgen.runs.interrupts import exit_code, terminable

__all__ = [
    "BatchProgress",
    "bare_sheet",
    "designer_of",
    "run",
    "score",
    "settings_of",
    "show_end",
]


def settings_of(options: Search) -> Settings:
    """The settings that the options say."""
    from_noise: dict[str, Any] = {}
    if isinstance(options, Generation):
        from_noise = {"draws": options.draws, "normalise": options.normalise}
    return Settings(
        steps=options.steps,
        evaluations=options.evaluations,
        tolerance=options.tolerance,
        valence=options.valence,
        restarts=options.restarts,
        batch=options.batch,
        **from_noise,
    )


def designer_of(
    wish: Wish,
    prior: str,
    atoms: str | None,
    guide: str | None,
    evaluator: str | None,
    device: str,
) -> Designer:
    """A designer, with what speaks against its wish said on the screen."""
    designer = Designer(
        wish,
        prior,
        atoms=atoms,
        guide=guide,
        evaluator=evaluator,
        device=console.device_named(device),
    )
    for warning in designer.warnings:
        console.screen.print(f"[yellow]warning[/] {warning}", soft_wrap=True)
    return designer


class BatchProgress:
    """The progress of one batch after the other; an observer for each."""

    def __init__(self, total: int) -> None:
        self.total, self.begun = total, 0
        self.shown: console.SampleProgress | None = None

    def __call__(self, turn: int, seeds: Any) -> console.SampleProgress:
        self.close()
        self.begun += len(seeds) if turn == 0 else 0
        what = f"molecules {self.begun} of {self.total}" if turn == 0 else f"restart {turn}"
        self.shown = console.SampleProgress(what, seeds.tolist(), unit="MAD²")
        return self.shown.__enter__()

    def close(self) -> None:
        if self.shown is not None:
            self.shown.__exit__()
        self.shown = None


def run(
    ctx: typer.Context,
    designer: Designer,
    task: Task,
    seeds: list[int],
    settings: Settings,
    file: Path,
    options: Search,
    lead: Any = None,
) -> None:
    """Generate into files, and show the end; an interruption is exit code 130.

    Args:
        ctx: of the command, which knows its own words.
        designer: networks and wish.
        task: of the designer.
        seeds: one per molecule.
        settings: how.
        file: FILE.sdf.
        options: of the command.
        lead: molecule that the run began with; its own values are told beside the others.
    """
    checks = {"xtb": asks_xtb(designer.wish.names), "posebusters": options.posebusters}
    checked: dict[str, Any] = {**checks, "tolerance": settings.tolerance, "lead": lead}
    sheet = designer.sheet(seeds, **checked)
    order: Callable[..., Any] | None = scorer(options.rank, designer.name) if options.rank else None
    progress, begun = BatchProgress(len(seeds)), time.perf_counter()
    content = about(designer, settings, str((ctx.obj or {}).get("command", "")))
    if lead is not None:
        own = designer.sheet([1], tolerance=settings.tolerance)
        own.add_given([Record(1, "lead", lead)])
        content["lead"] = own.rows[0]
    with keeping(file, sheet, content, begun, progress.close):
        done = designer.run(
            task, sheet, settings, rank=order, watch=progress, keep=lambda: sheet.write(file)
        )
    seconds = time.perf_counter() - begun
    content = finish(file, sheet, content, seconds, done.network, complete=True)
    if options.json:
        print(console.dumps({"file": file, **content}))
    else:
        show(content, designer.wish.names, file)
    announce(file)


@contextmanager
def keeping(
    file: Path,
    sheet: Sheet,
    content: dict[str, Any],
    begun: float,
    close: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and errors leave the files of what is finished, and say so.

    Args:
        file: FILE.sdf.
        sheet: what there is when it ends.
        content: of FILE.json.
        begun: of `time.perf_counter`.
        close: ends what is on the screen.

    Raises:
        typer.Exit: with the exit code of the signal.
    """
    try:
        with terminable():
            yield
    except BaseException as error:
        close()
        stopped = isinstance(error, KeyboardInterrupt)
        if stopped or sheet.rows:
            finish(file, sheet, content, time.perf_counter() - begun, None, complete=False)
        if not isinstance(error, KeyboardInterrupt):
            raise
        there, total = len(sheet.rows), len(sheet.seeds)
        where = f" are in {file}" if there else ""
        lost = ", ".join(map(str, sheet.missing)) or "none; restarts were cut short"
        console.warn(f"interrupted: {there} of {total} molecules{where}; missing seeds: {lost}")
        raise typer.Exit(exit_code(error)) from None
    close()


def score(
    records: Sequence[Record],
    evaluator: str | None,
    file: Path,
    json: bool,
    **checks: Any,
) -> None:
    """Score molecules of a file into files, and show them; `checks` are those of a `Sheet`."""
    begun = time.perf_counter()
    numbers = [record.number for record in records]
    sheet = bare_sheet("qm9", numbers, evaluator, "cpu", **checks)
    content: dict[str, Any] = {"asked": [], "prior": None}
    with keeping(file, sheet, content, begun):
        sheet.add_given(records)
    show_end(file, sheet, content, begun, None, json)


def bare_sheet(
    name: str, seeds: list[int], evaluator: str | None, device: str, **checks: Any
) -> Sheet:
    """An empty sheet of molecules of which nothing was asked."""
    network = None
    if evaluator is not None or EVALUATOR in plugins.cards():
        network = judge(evaluator or EVALUATOR, device)
    return Sheet(None, name, seeds, guide=None, evaluator=network, **checks)


def show_end(
    file: Path,
    sheet: Sheet,
    content: dict[str, Any],
    begun: float,
    spent: Evaluations | None,
    json: bool,
) -> None:
    """Write the files of a complete run of which nothing was asked, and show them."""
    content = finish(file, sheet, content, time.perf_counter() - begun, spent, complete=True)
    if json:
        print(console.dumps({"file": file, **content}))
    else:
        show(content, (), file)
    announce(file)


def asks_xtb(names: tuple[str, ...]) -> bool:
    """Whether the xTB dipole is asked and can be had."""
    return "mu" in names and find_spec("tblite") is not None
