"""`ctrlgen molecule ...`: generate, optimise, sample and score molecules; list the properties.

Each run writes FILE.sdf with tags, FILE.xyz, FILE.csv, FILE.json and FILE.png. The first three grow
with every batch, so an interrupted run leaves what is done, and says what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlgen.commands import console
from ctrlgen.commands.options import reporting, sharing
from ctrlgen.domains.molecules.inputs import check_records, places, read_molecule, seeds_of
from ctrlgen.domains.molecules.options import Generation, Run, Search

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Molecules with wanted properties, as SDF with honest numbers beside each.",
)


@app.command()
@reporting
@sharing(Generation)
def generate(
    ctx: typer.Context,
    options: Generation,
    atoms: Annotated[
        str | None,
        typer.Option(
            help="Atoms, N or LOW..HIGH: 3..29 for qm9, 2..9 heavy ones for qm9-heavy; "
            "by default drawn to suit the properties."
        ),
    ] = None,
) -> None:
    """Make molecules that have the wanted properties.

    [dim]Examples:[/]

      ctrlgen molecule generate --property gap=6.8eV -n 64 -o molecules.sdf

      ctrlgen molecule generate -p mu=3D -p "gap>=6eV" --element "N<=2" --atoms 7..9
    """
    _search(ctx, options, "molecules", 16, atoms=atoms)


@app.command()
@reporting
@sharing(Search)
def optimize(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="SDF or XYZ of the lead, with positions.")],
    options: Search,
    radius: Annotated[
        float,
        typer.Option(
            help="How far from the lead's source point, over the distance of two random ones."
        ),
    ] = 0.05,
) -> None:
    """Improve a given molecule: search around the source point that it comes from.

    [dim]Example:[/]  ctrlgen molecule optimize lead.sdf --property mu=3D -n 8

    The first molecule of FILE is the lead; every seed gives another variant of as many atoms. The
    cost asks for likeness to it (--resemblance; less of it for a larger step), or to the molecule
    of --similar.
    """
    _search(ctx, options, f"optimize-{file.stem}", 8, lead=file, radius=radius)


def _search(
    ctx: typer.Context,
    options: Search,
    stem: str,
    number: int,
    *,
    atoms: str | None = None,
    lead: Path | None = None,
    radius: float = 0.0,
) -> None:
    """Search from noise, or around the first molecule of a file within a radius."""
    from ctrlgen.domains.molecules import runs
    from ctrlgen.domains.molecules.lead_optimization import LIKENESS

    wish = options.wish
    names = seeds_of(options.seeds, options.number, number)
    settings = runs.settings_of(options)
    start = None if lead is None else read_molecule(lead, "file")
    if start is not None and wish.like is None:
        wish = replace(wish, like=start, resemblance=LIKENESS * wish.resemblance)
    inputs = (lead, options.fragment, options.similar)
    with places(options.out, stem, options.overwrite, inputs) as file:
        designer = runs.designer_of(
            wish, options.prior, atoms, options.guide, options.evaluator, options.device
        )
        task = designer.task() if start is None else designer.lead_task(start, radius, settings)
        runs.run(ctx, designer, task, names, settings, file, options, start)


@app.command()
def properties(json: Run.Json = False) -> None:
    """List the properties: units, and the range of QM9's molecules."""
    from ctrlgen.domains.molecules.atom_counts import sizes
    from ctrlgen.domains.molecules.properties import PROPERTIES

    table = sizes("qm9")
    found: list[dict[str, Any]] = []
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


@app.command()
@reporting
def sample(
    prior: Run.Prior = "qm9-heavy",
    number: Run.Number = None,
    seeds: Run.Seeds = None,
    atoms: Annotated[str | None, typer.Option(help="Atoms of the prior, N or LOW..HIGH.")] = None,
    steps: Run.Steps = 50,
    batch: Run.Batch = 64,
    evaluator: Run.Evaluator = None,
    posebusters: Run.PoseBusters = False,
    device: Run.Device = "cpu",
    out: Run.Out = None,
    overwrite: Run.Overwrite = False,
    json: Run.Json = False,
) -> None:
    """Draw molecules from a prior, steered by nothing.

    [dim]Example:[/]  ctrlgen molecule sample -n 64 -o molecules.sdf
    """
    from ctrlgen.domains.molecules import sampling

    names = seeds_of(seeds, number, 16)
    with places(out, "molecules", overwrite) as file:
        sampling.sample(
            prior, names, atoms, steps, batch, evaluator, device, file, json, posebusters
        )


@app.command()
@reporting
def score(
    file: Annotated[
        Path,
        typer.Argument(help="SDF, MOL, XYZ, PDB or SMILES file; .sdf.gz and the like as well."),
    ],
    evaluator: Run.Evaluator = None,
    embed: Annotated[
        bool,
        typer.Option("--embed", help="Positions by ETKDG for SMILES and flat drawings."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End at the first record that cannot be scored.")
    ] = False,
    xtb: Annotated[bool, typer.Option("--xtb", help="GFN2-xTB dipoles as well.")] = False,
    posebusters: Run.PoseBusters = False,
    out: Run.Out = None,
    overwrite: Run.Overwrite = False,
    json: Run.Json = False,
) -> None:
    """Say of the molecules of a file what is said of generated ones.

    [dim]Example:[/]  ctrlgen molecule score molecules.sdf

    Bonds, charges, stereo marks, isotopes, titles and properties of the file are kept. A record
    that cannot be scored is a row with its reason.
    """
    from ctrlgen.domains.molecules import runs
    from ctrlgen.domains.molecules.readers import read_records

    with places(out, f"score-{file.stem}", overwrite, (file,)) as target:
        records = read_records(file, "file", embed)
        if strict:
            check_records(records, file)
        runs.score(records, evaluator, target, json, xtb=xtb, posebusters=posebusters)
