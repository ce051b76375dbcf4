"""What D-Flow spends until it explains a measurement, by what it descends and where it starts.

    python benchmarks/fewer_evaluations.py [--images 8] [--tasks sr2,inpaint]

The six tasks of the matrix of methods, on held-out digits. A row runs until the measurement has
45 dB, or those of the noise where there is some, or L-BFGS has called the objective `--limit`
times; an image that is not there by then counts with all that it spent. Passes are evaluations of
the network and backward passes together, those of the start included.

    cost             −PSNR, as in the paper
    squares          ‖Hx − y‖² below it (`DFlow(descend="squares")`)
    long             the same, and a first step of length 3 in place of the cautious 1/|g|_1
    coarse           the same, first through two steps of Euler until 30 dB, then through the solver

from noise, and from the guided mean refined onto the measurement. Rows are written one at a time to
benchmarks/results/fewer_evaluations.json, and one that is there is not run again.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import NegativePSNR
from ctrlgen.experiments.methods.matrix import TASKS
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Initializer
from ctrlgen.operators.base import LinearOperator
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "fewer_evaluations.json"
NOISELESS, COARSE = -45.0, -30.0
LONG = 3.0
FORMS = ("cost", "squares", "long", "coarse")


class At(Initializer):
    """Points that are given."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __call__(self, prior: Prior, measurement: Any, seeds: Any, z: Tensor) -> Tensor:
        return self.points


def starts(linear: bool) -> dict[str, Initializer]:
    """By name; only a linear operator refines."""
    mean = cg.GuidedStart(temperature=0.0, start=0.3)
    return {"noise": cg.SourceSample(), "refined": cg.Refined(mean) if linear else mean}


def run(
    prior: Prior, cost: NegativePSNR, form: str, start: Initializer, target: float, limit: int
) -> list[Result]:
    """The results of a row, one for each of its phases."""
    seeds = range(len(cost.y))
    first = None if form in ("cost", "squares") else LONG
    optimizer = cg.LBFGS(max_iterations=limit, max_evaluations=limit, first_step=first)
    settings: dict[str, Any] = {"descend": "cost" if form == "cost" else "squares"}
    phases = []
    if form == "coarse":
        method = cg.DFlow(
            solver=cg.Euler(2), optimizer=optimizer, initializer=start,
            target=max(target, COARSE), **settings,
        )  # fmt: skip
        phases.append(method(prior, cost, seeds=seeds))
        start = At(phases[0].controls)
    method = cg.DFlow(optimizer=optimizer, initializer=start, target=target, **settings)
    phases.append(method(prior, cost, seeds=seeds))
    return phases


def row(phases: Sequence[Result], truth: Tensor, target: float) -> dict[str, Any]:
    """The numbers of a row, one per image."""
    error = (phases[-1].samples - truth).square().flatten(1).mean(1)
    forward = sum(phase.evaluations for phase in phases)
    backward = sum(phase.backward_passes for phase in phases)
    assert isinstance(forward, Tensor) and isinstance(backward, Tensor)
    return {
        "there": int((phases[-1].costs <= target).sum()),
        "passes": (forward + backward).tolist(),
        "evaluations": forward.tolist(),
        "calls": [phase.objective_calls.tolist() for phase in phases],
        "psnr": [round(v, 2) for v in (-10 * torch.log10(error / 4)).tolist()],
    }


def main(
    images: Annotated[int, typer.Option(min=1, help="held-out digits")] = 8,
    tasks: Annotated[str, typer.Option(help="names, with commas")] = ",".join(TASKS),
    forms: Annotated[str, typer.Option(help="names, with commas")] = ",".join(FORMS),
    limit: Annotated[int, typer.Option(min=1, help="objective calls")] = 200,
) -> None:
    """Run the rows that are not there, write them down and print all."""
    torch.set_num_threads(1)
    prior = cg.load("mnist")
    truth = cg.images.held_out("mnist", images).images
    setting = {"images": images, "limit": limit, "torch": torch.__version__}
    machine = platform.machine()
    rows: dict[str, Any] = {}
    if RESULTS.exists() and read_json(RESULTS)["setting"] == setting:
        rows = read_json(RESULTS)["rows"]
    for task in tasks.split(","):
        problem = TASKS[task].problem(truth)
        cost = NegativePSNR(problem.operator, problem.y, problem.sigma)
        target = -20 * math.log10(2 / problem.sigma) if problem.sigma else NOISELESS
        linear = isinstance(problem.operator, LinearOperator)
        for name, start in starts(linear).items():
            for form in forms.split(","):
                key = f"{task}/{name}/{form}"
                if key in rows or (name, form) == ("refined", "coarse"):
                    continue
                begun = time.process_time()
                phases = run(prior, cost, form, start, target, limit)
                rows[key] = row(phases, truth, target) | {"target": target}
                rows[key]["seconds"] = time.process_time() - begun
                content = {"setting": setting, "machine": machine, "rows": rows}
                write_json(RESULTS, content, named=True, indent=1)
                Console().print(key, rows[key], soft_wrap=True)
    show(rows)


def show(rows: dict[str, Any]) -> None:
    """One line per row: images there, median and worst passes, median PSNR of the image."""
    table = Table(title="passes to the target")
    for column in ("task", "start", "descends", "there", "median", "worst", "PSNR, dB"):
        table.add_column(column, justify="left" if column in ("task", "start") else "right")
    for key, item in rows.items():
        passes = torch.tensor(item["passes"]).double()
        quality = torch.tensor(item["psnr"]).quantile(0.5).item()
        there = f"{item['there']}/{len(passes)}"
        numbers = (f"{passes.quantile(0.5):.0f}", f"{passes.max():.0f}", f"{quality:.1f}")
        table.add_row(*key.split("/"), there, *numbers)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
