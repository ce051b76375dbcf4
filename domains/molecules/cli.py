"""`ctrlgen molecule ...`: generate, optimise, sample and score molecules; list the properties.

Each of them is a run (`ctrlgen.runs`) that ends with FILE.sdf with tags, FILE.xyz, FILE.csv,
FILE.json and FILE.png; one that is cut off leaves what is done there, says what is missing, and
goes on with `ctrlgen resume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ctrlgen.commands import console
from ctrlgen.commands.options import reporting, sharing
from ctrlgen.commands.running import carry_out, place_of, typed
from ctrlgen.domains.molecules.options import Generation, Run, Sample, Score, Search

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

      ctrlgen molecule generate --scaffold ring.sdf --attach 2 --property gap=5eV

      ctrlgen molecule generate -p gap=3.3eV --search renoising --evaluations 0
    """
    _search(ctx, options, "molecules", atoms=atoms)


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
    _search(ctx, options, f"optimize-{file.stem}", lead=file, radius=radius)


def _search(
    ctx: typer.Context,
    options: Search,
    stem: str,
    *,
    atoms: str | None = None,
    lead: Path | None = None,
    radius: float = 0.0,
) -> None:
    """Search from noise, or around the first molecule of a file within a radius."""
    from ctrlgen.domains.molecules.runs import Designing

    plan = Designing(options, atoms=atoms, lead=lead, radius=radius)
    _run(ctx, plan, options, stem, (lead, options.fragment, options.similar, options.held[0]))


_SUFFIXES = (".sdf", ".xyz", ".csv", ".json", ".png")


def _run(
    ctx: typer.Context, plan: Any, options: Any, stem: str, inputs: Sequence[Path | None] = ()
) -> None:
    """Carry a plan out; its errors name the paths that were typed."""
    overwrite = options.overwrite
    with place_of(options.out, stem, options, _SUFFIXES, overwrite=overwrite, inputs=inputs) as (
        folder,
        file,
    ):
        job = plan.job()
        about = plan.about(job)
        for text in about["warnings"]:
            console.warn(text)
        carry_out(
            replace(plan, out=file).lasting(), job, folder, options,
            json=options.json, command=typed(ctx), domain="molecules", title=plan.what, about=about,
        )  # fmt: skip


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
@sharing(Sample)
def sample(ctx: typer.Context, options: Sample) -> None:
    """Draw molecules from a prior, steered by nothing or by a score of RDKit molecules.

    [dim]Examples:[/]

      ctrlgen molecule sample -n 64 -o molecules.sdf

      ctrlgen molecule sample -n 4 --steps 6 --score mine.py:score --method evolution

      ctrlgen molecule sample -n 4 --steps 6 --score "qed>=0.5, sa<=4"
    """
    from ctrlgen.domains.molecules.sampling import Drawing

    _run(ctx, Drawing(options), options, "molecules")


@app.command()
@reporting
@sharing(Score)
def score(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="SDF, MOL, XYZ, PDB or SMILES file; .sdf.gz and the like as well."),
    ],
    options: Score,
) -> None:
    """Say of the molecules of a file what is said of generated ones.

    [dim]Example:[/]  ctrlgen molecule score molecules.sdf

    Bonds, charges, stereo marks, isotopes, titles and properties of the file are kept. A record
    that cannot be scored is a row with its reason.
    """
    from ctrlgen.domains.molecules.scored import Scoring

    _run(ctx, Scoring(options, file=file), options, f"score-{file.stem}", (file,))
