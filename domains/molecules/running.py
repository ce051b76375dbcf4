"""Runs of the commands for molecules: progress, files that grow, interruptions, the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from ctrlgen import plugins
from ctrlgen.commands import console
from ctrlgen.domains.molecules.design import Designer, judge
from ctrlgen.domains.molecules.generation import Settings, Task
from ctrlgen.domains.molecules.inputs import scorer
from ctrlgen.domains.molecules.options import Generation, Search
from ctrlgen.domains.molecules.ragged import Found, alphabet_of, fitted
from ctrlgen.domains.molecules.readers import Record
from ctrlgen.domains.molecules.reports import about, finish, show
from ctrlgen.domains.molecules.scoring import EVALUATOR
from ctrlgen.domains.molecules.sheets import Sheet
from ctrlgen.domains.molecules.sizes import sizes
from ctrlgen.domains.molecules.wishes import Wish, parse_atoms
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import BoundVelocity, Prior, load
from ctrlgen.rows.errors import concerning
from ctrlgen.rows.status import Status
from ctrlgen.runs.interrupts import exit_code, terminable
from ctrlgen.solvers.failures import lost_seeds, lost_text

__all__ = [
    "BatchProgress",
    "designer_of",
    "draw",
    "run",
    "sample",
    "score",
    "settings_of",
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


def draw(
    prior: Prior,
    atoms: str | None,
    seeds: list[int],
    sheet: Sheet,
    steps: int,
    batch: int,
    keep: Callable[[], None],
    lost: list[dict[str, Any]],
) -> Evaluations:
    """Molecules of the prior alone, into a sheet, batch by batch.

    Args:
        prior: of molecules.
        atoms: "N" or "LOW..HIGH"; sizes are drawn as QM9 has them.
        seeds: one per molecule.
        sheet: to fill.
        steps: midpoint steps.
        batch: molecules at a time.
        keep: called whenever the sheet has grown.
        lost: grows by the molecules that are no numbers, see `solvers.failures.lost_seeds`.
    """
    name, before = alphabet_of(prior), prior.flow.evaluations.copy()
    allowed = [n for n in parse_atoms(atoms, name) if n <= prior.source.shape[0]]
    drawn = sizes(name).only(allowed).draw([], seeds)
    for rows in torch.arange(len(seeds)).split(batch):
        counts, own = drawn[rows], torch.tensor(seeds)[rows]
        bound, solver = fitted(prior, counts), prior.solver(steps)
        signals = bound.sample(own, solver)
        good = signals.isfinite().flatten(1).all(1)
        if not bool(good.all()):
            lost += lost_seeds(solver, BoundVelocity(bound), bound.start(own), own.tolist(), good)
        sheet.add(unsteered(signals, counts, own), rows.tolist())
        keep()
    return prior.flow.evaluations - before


def unsteered(signals: Tensor, counts: Tensor, seeds: Tensor) -> Found:
    """Molecules that nothing was asked of, as rows of a sheet take them."""
    zero = torch.zeros_like(seeds)
    return Found(
        signals=signals, controls=signals, costs=zero.float(), counts=counts, seeds=seeds,
        status=torch.full_like(seeds, int(Status.FINISHED)), iterations=zero, evaluations=zero,
        backward_passes=zero, objective_calls=zero, starts=zero + 1, satisfied=zero.bool(),
    )  # fmt: skip


def sample(
    prior: str,
    seeds: list[int],
    atoms: str | None,
    steps: int,
    batch: int,
    evaluator: str | None,
    device: str,
    file: Path,
    json: bool,
    posebusters: bool = False,
) -> None:
    """Draw molecules of a prior into files, and show them.

    Raises:
        ValueError: after that, if some of them are no numbers; says at which step they arose.
    """
    with concerning("prior"):
        model = load(prior, device=console.device_named(device))
    name, begun = alphabet_of(model), time.perf_counter()
    sheet = _bare_sheet(name, seeds, evaluator, device, posebusters=posebusters)
    parse_atoms(atoms, name)
    card = model.card
    content: dict[str, Any] = {
        "asked": [],
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "solver": repr(model.solver(steps)),
        "lost": [],
    }
    lost, keep = content["lost"], lambda: sheet.write(file)
    with keeping(file, sheet, content, begun):
        spent = draw(model, atoms, seeds, sheet, steps, batch, keep, lost)
    _end(file, sheet, content, begun, spent, json)
    if lost:
        raise ValueError(f"prior: {lost_text(lost, steps)}")


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
    sheet = _bare_sheet("qm9", numbers, evaluator, "cpu", **checks)
    content: dict[str, Any] = {"asked": [], "prior": None}
    with keeping(file, sheet, content, begun):
        sheet.add_given(records)
    _end(file, sheet, content, begun, None, json)


def _bare_sheet(
    name: str, seeds: list[int], evaluator: str | None, device: str, **checks: Any
) -> Sheet:
    network = None
    if evaluator is not None or EVALUATOR in plugins.cards():
        network = judge(evaluator or EVALUATOR, device)
    return Sheet(None, name, seeds, guide=None, evaluator=network, **checks)


def _end(
    file: Path,
    sheet: Sheet,
    content: dict[str, Any],
    begun: float,
    spent: Evaluations | None,
    json: bool,
) -> None:
    content = finish(file, sheet, content, time.perf_counter() - begun, spent, complete=True)
    if json:
        print(console.dumps({"file": file, **content}))
    else:
        show(content, (), file)


def asks_xtb(names: tuple[str, ...]) -> bool:
    """Whether the xTB dipole is asked and can be had."""
    return "mu" in names and find_spec("tblite") is not None
