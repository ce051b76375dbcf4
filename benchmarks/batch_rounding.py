"""How far molecules are apart that are computed in batches of other sizes.

    python benchmarks/batch_rounding.py

Eight molecules of ragged sizes, drawn and steered, of both priors, in one batch and in smaller
ones, on one thread: the largest distance of an atom from where it is in the one batch, in Angstrom,
and how many molecules are the same to the last bit. Every molecule has the same source point,
target and number of objective calls in all of them. Heavy atoms are exact by construction; with all
atoms a sum over the places of a batch rounds as its largest molecule decides, and a search
magnifies that. Prints a table and writes benchmarks/results/batch_rounding.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ctrlgen.costs import PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.scoring import GUIDES, Guide
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import split
from ctrlgen.priors.prior import load
from ctrlgen.runs.json_files import write_json

RESULTS = Path(__file__).parent / "results" / "batch_rounding.json"

COUNTS = {"qm9-heavy": [5, 9, 7, 8, 9, 6, 8, 9], "qm9": [12, 21, 17, 18, 15, 19, 16, 20]}
TARGET = 5500.0  # meV


def molecules(prior: str, calls: int, batch: int, steps: int) -> Tensor:
    """Signals (8, N, 3 + K) of a prior: draws where there are no calls, else steered by as many."""
    model = load(prior)
    guide = regressor(GUIDES[alphabet_of(model)])
    counts = torch.tensor(COUNTS[prior])

    def cost(rows: Tensor, atoms: Tensor) -> PropertyCost:
        return PropertyCost(Guide(guide, ["gap"]), TARGET, TARGET, scale=DEVIATION["gap"])

    settings = Settings(
        steps=steps, draws=1, restarts=0, batch=batch, tolerance=1e-6,
        **({"evaluations": calls} if calls else {"iterations": 0}),
    )  # fmt: skip
    task = Task(cost=cost, counts=lambda rows, seeds: counts[rows])
    found = generate(model, task, range(len(counts)), settings)
    return found.samples


def compare(one: Tensor, other: Tensor) -> dict[str, Any]:
    """The largest distance in Angstrom, and how many rows are equal."""
    a, b = split(one), split(other)
    apart = torch.where(a.mask, (a.positions - b.positions).norm(dim=2), 0)
    return {
        "distance": float(apart.max()),
        "equal": int((one == other).flatten(1).all(1).sum()),
        "classes": int(
            (torch.where(a.mask, a.hard, -1) == torch.where(b.mask, b.hard, -1)).all(1).sum()
        ),
    }


def main(
    calls: Annotated[str, typer.Option(help="of the objective, 0 for draws")] = "0,3,12",
    batches: Annotated[str, typer.Option(help="beside that of eight")] = "3,1",
    priors: Annotated[str, typer.Option(help="with commas between")] = "qm9-heavy,qm9",
    steps: Annotated[int, typer.Option(help="midpoint steps")] = 10,
) -> None:
    """Compute, print the table and write the results."""
    torch.set_num_threads(1)
    rows = []
    for prior in priors.split(","):
        for count in map(int, calls.split(",")):
            begun = time.process_time()
            whole = molecules(prior, count, 8, steps)
            for batch in map(int, batches.split(",")):
                row = {"prior": prior, "objective calls": count, "batch": batch, "steps": steps}
                row |= compare(whole, molecules(prior, count, batch, steps))
                rows.append({**row, "processor seconds": round(time.process_time() - begun, 1)})
                print(rows[-1], flush=True)
    write_json(RESULTS, {"torch": torch.__version__, "rows": rows})
    table = Table(
        "prior", "objective calls", "batch", "largest distance (A)", "equal to the last bit"
    )
    for row in rows:
        what = str(row["objective calls"] or "a draw")
        distance, equal = f"{row['distance']:.1e}", f"{row['equal']} of 8"
        table.add_row(row["prior"], what, str(row["batch"]), distance, equal)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
