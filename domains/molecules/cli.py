"""`ctrlgen molecule ...`: generate, optimise, sample and score molecules; list the properties.

Each run writes FILE.sdf with tags, FILE.xyz, FILE.csv, FILE.json and FILE.png. The first three grow
with every batch, so an interrupted run leaves what is done, and says what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctrlgen import console
from ctrlgen.domains.molecules.options import (
    Run,
    Wanted,
    check_files,
    read_molecules,
    scorer,
    seeds_of,
    wish_of,
)

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.design import Designer
    from ctrlgen.domains.molecules.generation import Settings, Task

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Molecules with wanted properties, as SDF with honest numbers beside each.",
)

INTERRUPTED = 130


@app.command()
def generate(
    ctx: typer.Context,
    properties: Wanted.Property = None,
    weight: Wanted.Weight = None,
    maximise: Wanted.Maximise = None,
    minimise: Wanted.Minimise = None,
    formula: Wanted.Formula = None,
    element: Wanted.Element = None,
    fragment: Wanted.Fragment = None,
    similar: Wanted.Similar = None,
    resemblance: Wanted.Resemblance = 1.0,
    far: Wanted.Far = False,
    atoms: Annotated[
        str | None,
        typer.Option(
            help="Atoms, N or LOW..HIGH: 3..29 for qm9, 2..9 heavy ones for qm9-heavy; "
            "by default drawn to suit the properties."
        ),
    ] = None,
    number: Run.Number = None,
    seeds: Run.Seeds = None,
    prior: Run.Prior = "qm9-heavy",
    guide: Run.Guide = None,
    evaluator: Run.Evaluator = None,
    steps: Run.Steps = 20,
    iterations: Run.Iterations = 25,
    tolerance: Run.Tolerance = 0.05,
    normalise: Run.Normalise = "none",
    restarts: Run.Restarts = 1,
    rank: Run.Rank = None,
    batch: Run.Batch = 16,
    data: Run.Data = None,
    device: Run.Device = "cpu",
    out: Run.Out = None,
    overwrite: Run.Overwrite = False,
    json: Run.Json = False,
) -> None:
    """Make molecules that have the wanted properties.

    [dim]Examples:[/]

      ctrlgen molecule generate --property gap=6.8eV -n 64 -o molecules.sdf

      ctrlgen molecule generate -p mu=3D -p "gap>=6eV" --element "N<=2" --atoms 7..9
    """
    wish = wish_of(
        properties,
        weight,
        maximise,
        minimise,
        formula,
        element,
        fragment,
        similar,
        resemblance,
        far,
    )
    names = seeds_of(seeds, number, 16)
    file = check_files(out, "molecules", overwrite)
    settings = _settings(steps, iterations, tolerance, normalise, restarts, batch)
    designer = _designer(wish, prior, atoms, guide, evaluator, device)
    _run(ctx, designer, designer.task(), names, settings, file, rank, data, json)


@app.command()
def optimize(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="SDF or XYZ of the lead, with positions.")],
    properties: Wanted.Property = None,
    weight: Wanted.Weight = None,
    maximise: Wanted.Maximise = None,
    minimise: Wanted.Minimise = None,
    formula: Wanted.Formula = None,
    element: Wanted.Element = None,
    fragment: Wanted.Fragment = None,
    similar: Wanted.Similar = None,
    resemblance: Wanted.Resemblance = 1.0,
    far: Wanted.Far = False,
    radius: Annotated[
        float,
        typer.Option(
            help="How far from the lead's source point, over the distance of two random ones."
        ),
    ] = 0.3,
    number: Run.Number = None,
    seeds: Run.Seeds = None,
    prior: Run.Prior = "qm9-heavy",
    guide: Run.Guide = None,
    evaluator: Run.Evaluator = None,
    steps: Run.Steps = 20,
    iterations: Run.Iterations = 25,
    tolerance: Run.Tolerance = 0.05,
    restarts: Run.Restarts = 1,
    rank: Run.Rank = None,
    batch: Run.Batch = 16,
    data: Run.Data = None,
    device: Run.Device = "cpu",
    out: Run.Out = None,
    overwrite: Run.Overwrite = False,
    json: Run.Json = False,
) -> None:
    """Improve a given molecule: search around the source point that it comes from.

    [dim]Example:[/]  ctrlgen molecule optimize lead.sdf --property mu=3D --radius 0.3 -n 8

    The first molecule of FILE is the lead; every seed gives another variant of as many atoms.
    """
    wish = wish_of(
        properties,
        weight,
        maximise,
        minimise,
        formula,
        element,
        fragment,
        similar,
        resemblance,
        far,
    )
    names = seeds_of(seeds, number, 8)
    target = check_files(out, f"optimize-{file.stem}", overwrite)
    settings = _settings(steps, iterations, tolerance, "none", restarts, batch)
    lead = read_molecules(file, "file")[0]
    designer = _designer(wish, prior, None, guide, evaluator, device)
    task = designer.lead_task(lead, radius, settings)
    _run(ctx, designer, task, names, settings, target, rank, data, json)


@app.command()
def properties(json: Run.Json = False) -> None:
    """List the properties: units, and the range of QM9's molecules."""
    from ctrlgen.domains.molecules.properties import PROPERTIES
    from ctrlgen.domains.molecules.sizes import sizes

    table, found = sizes("qm9"), []
    for name, known in PROPERTIES.items():
        common = table.ranges[name][table.members >= 100]
        low, high = float(common[:, 0].min()), float(common[:, 1].max())
        units = list(known.units)
        about = {"name": name, "text": known.text, "unit": known.unit, "units": units}
        found.append({**about, "low": low, "high": high})
    if json:
        print(console.dumps(found))
        return
    rows = [
        (
            f"[bold]{p['name']}[/]",
            p["text"],
            f"{p['low']:.4g} to {p['high']:.4g} {p['unit']}",
            ", ".join(p["units"]),
        )
        for p in found
    ]
    columns = ("name", "property", "QM9 (0.5 % to 99.5 %)", "units")
    console.stdout.print(console.table("Properties", columns, rows))
    console.stdout.print("\n[dim]--property gap=6.8eV, gap=6..7eV, gap>=6eV; a unit is needed")


def _settings(
    steps: int, iterations: int, tolerance: float, normalise: str, restarts: int, batch: int
) -> Settings:
    from ctrlgen.domains.molecules.generation import Settings

    return Settings(
        steps=steps,
        iterations=iterations,
        tolerance=tolerance,
        normalise=normalise,  # type: ignore[arg-type]  # it checks
        restarts=restarts,
        batch=batch,
    )


def _designer(wish: Any, prior: str, atoms: str | None, *rest: Any) -> Designer:
    from ctrlgen.domains.molecules.design import Designer

    guide, evaluator, device = rest
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


class _Progress:
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


def _run(
    ctx: typer.Context,
    designer: Designer,
    task: Task,
    seeds: list[int],
    settings: Settings,
    file: Path,
    rank: str | None,
    data: Path | None,
    json: bool,
) -> None:
    from ctrlgen.domains.molecules.metrics import reference_smiles
    from ctrlgen.domains.molecules.reports import about, finish, show

    reference = reference_smiles(data, designer.name) if data is not None else None
    sheet = designer.sheet(seeds, reference, xtb=_xtb(designer.wish.names))
    order: Callable[..., Any] | None = scorer(rank, designer.name) if rank else None
    file.parent.mkdir(parents=True, exist_ok=True)
    progress, begun = _Progress(len(seeds)), time.perf_counter()
    content = about(designer, settings, str((ctx.obj or {}).get("command", "")))
    try:
        done = designer.run(
            task, sheet, settings, rank=order, watch=progress, keep=lambda: sheet.write(file)
        )
    except BaseException as error:
        progress.close()
        finish(file, sheet, content, time.perf_counter() - begun, None)
        if not isinstance(error, KeyboardInterrupt):
            raise
        kept = f"{len(sheet.rows)} of {len(seeds)} molecules are in {file}"
        lost = ", ".join(map(str, sheet.missing)) or "none; restarts were cut short"
        console.screen.print(
            f"[yellow]interrupted[/] {kept}; missing seeds: {lost}", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    progress.close()
    content = finish(file, sheet, content, time.perf_counter() - begun, done)
    if json:
        print(console.dumps({"file": file, **content}))
    else:
        show(content, designer.wish.names, file)


def _xtb(names: tuple[str, ...]) -> bool:
    """Whether the xTB dipole is asked and can be had."""
    from importlib.util import find_spec

    return "mu" in names and find_spec("tblite") is not None
