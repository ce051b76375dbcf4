r"""A scaffold that every molecule holds, against the same atoms asked for by a cost.

    python -m ctrlgen.experiments.molecules.scaffolds --molecules 16

With `--rows scaffold --draws 32 --evaluations 12 --restarts 3` it is `ctrlgen molecule generate`
with its own settings.

Scaffolds are rings of five heavy atoms, positions by ETKDG and MMFF94, of which one carbon gives up
a hydrogen; molecules have six to nine heavy atoms, drawn from p(n | gap), and a gap is asked for.

    free noise       draws of the pinned prior, its noise as it comes; nothing is steered
    matched noise    the same with noise matched to the scaffold (`scaffold_pins`)
    scaffold         `--scaffold`: the best of some matched draws, steered by D-Flow
    fragment         `--fragment`: as much of the same for the soft cost of the same atoms

A molecule is whole when it is in one piece and stable by the bond table; it holds the scaffold when
its atoms are bound as there, and in the rows of pinned priors lie at their places within 0.001 Å.
Unique ones are counted among the whole ones that hold it, by the first block of the InChIKey. No
molecule is left out of a share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.molecule_batches import fitted
from ctrlgen.domains.molecules.properties import parse_request
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.scaffolds import Scaffold
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import Atoms
from ctrlgen.experiments.shared.options import Cache, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.extras import require
from ctrlgen.rows.status import Status

__all__ = ["main", "measure", "table"]

RINGS = {"pyrrole": "c1cc[nH]c1", "cyclopentane": "C1CCCC1"}
ROWS = ("free noise", "matched noise", "scaffold", "fragment")


def ring(smiles: str) -> Any:
    """A molecule with its hydrogens at a minimum of MMFF94, the same every time."""
    chem, forces = require("rdkit.Chem", "molecules"), require("rdkit.Chem.AllChem", "molecules")
    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    forces.EmbedMolecule(mol, randomSeed=7)
    forces.MMFFOptimizeMolecule(mol)
    return mol


def measure(rows: list[Mapping[str, Any]], held: str) -> dict[str, Any]:
    """Shares over all rows of a table.

    Args:
        rows: columns of molecules, with "pieces", "stable (EDM)" and others of `Columns`.
        held: the column that says whether the scaffold is there.
    """
    whole = [bool(row["stable (EDM)"]) and row["pieces"] == 1 for row in rows]
    kept = [bool(row[held]) for row in rows]
    both = [row for row, a, b in zip(rows, whole, kept, strict=True) if a and b]
    errors = [row["error gap (meV)"] for row in both if row["error gap (meV)"] is not None]
    errors = [error for error in errors if error == error]
    return {
        "molecules": len(rows),
        "whole": sum(whole) / len(rows),
        "held": sum(kept) / len(rows),
        "whole and held": len(both) / len(rows),
        "valid": sum(bool(row["valid"]) for row in rows) / len(rows),
        "satisfied (evaluator)": sum(bool(row["satisfied (evaluator)"]) for row in rows)
        / len(rows),
        "unique": len({(row["inchikey"] or "").split("-")[0] for row in both} - {""}),
        "error gap of these (meV)": sum(errors) / len(errors) if errors else None,
        "smiles": [row["smiles"] for row in both],
    }


def drawn(designer: Designer, number: int, steps: int, matched: bool) -> Tensor:
    """Draws of a pinned prior, its noise matched or as it comes, shape (number, N, 3 + C)."""
    seeds = torch.arange(number)
    counts = designer.task().counts(seeds, seeds)
    prior = fitted(designer.prior, counts)
    if not matched:
        prior.source = Atoms(prior.source.shape[0], prior.source.shape[1], counts)
    return prior.sample(seeds, prior.solver(steps))


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| | | molecules | whole | holds it | both | unique of these | has the gap (evaluator) "
        "| its error, meV | CPU s |",
        "|---" * 10 + "|",
    ]
    for name, rows in results["rings"].items():
        for row, value in rows.items():
            error = value["error gap of these (meV)"]
            shares = (value[k] for k in ("whole", "held", "whole and held"))
            cells = [name, row, str(value["molecules"]), *(f"{100 * x:.0f} %" for x in shares)]
            cells += [str(value["unique"]), f"{100 * value['satisfied (evaluator)']:.0f} %"]
            cells += ["" if error is None else f"{error:.0f}", f"{value['seconds']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    molecules: Annotated[int, typer.Option(min=1, help="of each ring and row")] = 16,
    rings: Annotated[str, typer.Option(help="with commas between")] = ",".join(RINGS),
    rows: Annotated[str, typer.Option(help="with commas between")] = ",".join(ROWS),
    gap: Annotated[str, typer.Option(help="that is asked for")] = "6eV",
    steps: Annotated[int, typer.Option(help="midpoint steps of the flow")] = 10,
    draws: Annotated[int, typer.Option(help="screened for each start")] = 16,
    evaluations: Annotated[int, typer.Option(help="of D-Flow's objective")] = 6,
    restarts: Annotated[int, typer.Option(help="of D-Flow")] = 0,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
) -> None:
    """Run the experiment, or what is left of it; writes results.json and a table."""
    torch.set_num_threads(threads)
    asked, wanted = names("rings", rings, RINGS), names("rows", rows, ROWS)
    request = parse_request(f"gap={gap}")
    settings = Settings(
        steps=steps, draws=draws, evaluations=evaluations, restarts=restarts, batch=molecules
    )
    key: dict[str, Any] = {"molecules": molecules, "gap": str(request), "settings": repr(settings)}
    results: dict[str, Any] = {**key, "rings": {}}
    for name in asked:
        mol = ring(RINGS[name])
        pinned = Designer(Wish(requests=(request,), scaffold=Scaffold(mol, (1,))), atoms="6..9")
        soft = Designer(Wish(requests=(request,), fragment=mol), atoms="6..9")
        done = Rows(cache / "scaffold_molecules" / name, key)

        def row(
            columns: Columns, held: str, make: Callable[[], tuple[Tensor, dict[str, Any]]]
        ) -> tuple[dict[str, Any], Tensor]:
            began = time.process_time()
            signals, account = make()
            account["seconds"] = time.process_time() - began
            return {**measure(list(columns(signals)), held), **account}, signals

        def draw(matched: bool) -> Callable[[], tuple[Tensor, dict[str, Any]]]:
            return lambda: (drawn(pinned, molecules, steps, matched), {})  # noqa: B023

        def search(designer: Designer) -> Callable[[], tuple[Tensor, dict[str, Any]]]:
            def run() -> tuple[Tensor, dict[str, Any]]:
                made = designer.run(designer.task(), range(molecules), settings).result
                on_target = float((made.status == Status.TARGET).float().mean())
                spent = float(made.evaluations.double().mean())
                return made.samples, {"evaluations": spent, "on target": on_target}

            return run

        ways = {
            "free noise": (pinned, "scaffold", draw(False)),
            "matched noise": (pinned, "scaffold", draw(True)),
            "scaffold": (pinned, "scaffold", search(pinned)),
            "fragment": (soft, "fragment", search(soft)),
        }
        for what in wanted:
            designer, held, make = ways[what]
            told = designer.columns(tolerance=settings.tolerance)
            done.get(what, partial(row, told, held, make))
        results["rings"][name] = done.rows
    publish(out or RESULTS / "scaffold_molecules", results, table(results))


if __name__ == "__main__":
    typer.run(main)
