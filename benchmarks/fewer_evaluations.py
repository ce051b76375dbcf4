"""What D-Flow spends until it explains a measurement, by what it descends and where it starts.

    python benchmarks/fewer_evaluations.py [--images 8] [--tasks sr2,inpaint]
    python benchmarks/fewer_evaluations.py --tasks gap --forms cost,squares,secants

The six tasks of the matrix of methods, on held-out digits. A row runs until the measurement has
45 dB, or those of the noise where there is some, or L-BFGS has called the objective `--limit`
times; an image that is not there by then counts with all that it spent. Passes are evaluations of
the network and backward passes together, those of the start included.

    cost             −PSNR, as in the paper
    squares          ‖Hx − y‖² below it (`DFlow(descend="squares")`)
    long             the same, and a first step of length 3 in place of the cautious 1/|g|_1; of
                     molecules, L-BFGS as `ctrlgen molecule generate` sets it
    coarse           the same, first through two steps of Euler until 30 dB, then through the solver
    secants          squares, from a first point that forward solves alone bring towards the
                     measurement (`MultiSecant`), which begins with the same noise

from noise, and from the guided mean refined onto the measurement. The task `gap` is eight molecules
of `qm9-heavy` whose gap is to be half a deviation from where their draw has it, through ten
midpoint steps, until it is to the tolerance of `ctrlgen molecule generate`, in 25 calls. Rows are
written one at a time to benchmarks/results/fewer_evaluations.json, and one that is there is not run
again.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import NegativePSNR, PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes
from ctrlgen.domains.molecules.elements import MAX_ATOMS
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.molecule_batches import alphabet_of, fitted
from ctrlgen.domains.molecules.scoring import GUIDES, Guide
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.experiments.methods.matrix import TASKS
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Initializer
from ctrlgen.operators.base import LinearOperator
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json, write_results

RESULTS = Path(__file__).parent / "results" / "fewer_evaluations.json"
NOISELESS, COARSE = -45.0, -30.0
LONG = 3.0
MOLECULES, MOLECULE_STEPS, MOLECULE_CALLS = 8, 10, 25
FORMS = ("cost", "squares", "long", "coarse", "secants")
FROM_NOISE = ("coarse", "secants")


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
    first = LONG if form in ("long", "coarse") else None
    if form == "secants":
        start = cg.MultiSecant()
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


def gap(form: str) -> tuple[list[Result], float]:
    """Molecules at a gap: their result and the target of their cost."""
    prior, network, settings = cg.load("qm9-heavy"), regressor(GUIDES["qm9-heavy"]), Settings()
    seeds, solver = torch.arange(MOLECULES), prior.solver(MOLECULE_STEPS)
    name = alphabet_of(prior)
    counts = sizes(name).only(range(3, MAX_ATOMS[name] + 1)).draw([], seeds)
    bound = fitted(prior, counts)
    with torch.no_grad():
        drawn = Guide(network, ["gap"], "hard")(bound.sample(seeds, solver))
    wanted = drawn + 0.5 * DEVIATION["gap"]
    cost = PropertyCost(Guide(network, ["gap"]), wanted, wanted, scale=DEVIATION["gap"])
    target = settings.tolerance**2
    optimizer = cg.LBFGS(max_evaluations=MOLECULE_CALLS)
    if form == "long":
        own = settings.method(bound, bound.source.mask(seeds)).optimizer  # type: ignore[attr-defined]
        optimizer = replace(own, max_evaluations=MOLECULE_CALLS)
    method = cg.DFlow(
        solver=solver,
        optimizer=optimizer,
        initializer=cg.MultiSecant(solver=solver) if form == "secants" else cg.SourceSample(),
        descend="cost" if form == "cost" else "squares",
        target=target,
    )
    return [method(bound, cost, seeds=seeds)], target


def row(phases: Sequence[Result], truth: Tensor | None, target: float) -> dict[str, Any]:
    """The numbers of a row, one per sample; the PSNR where the truth is known."""
    forward = sum(phase.evaluations for phase in phases)
    backward = sum(phase.backward_passes for phase in phases)
    assert isinstance(forward, Tensor) and isinstance(backward, Tensor)
    numbers: dict[str, Any] = {}
    if truth is not None:
        error = (phases[-1].samples - truth).square().flatten(1).mean(1)
        numbers["psnr"] = [round(v, 2) for v in (-10 * torch.log10(error / 4)).tolist()]
    return {
        "there": int((phases[-1].costs <= target).sum()),
        "passes": (forward + backward).tolist(),
        "evaluations": forward.tolist(),
        "calls": [phase.objective_calls.tolist() for phase in phases],
        **numbers,
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
        problem = None if task == "gap" else TASKS[task].problem(truth)
        linear = problem is not None and isinstance(problem.operator, LinearOperator)
        for name, start in starts(linear).items():
            for form in forms.split(","):
                key = f"{task}/{name}/{form}"
                if key in rows or (name == "refined" and (form in FROM_NOISE or not problem)):
                    continue
                begun = time.process_time()
                if problem is None:
                    phases, target = gap(form)
                else:
                    cost = NegativePSNR(problem.operator, problem.y, problem.sigma)
                    target = -20 * math.log10(2 / problem.sigma) if problem.sigma else NOISELESS
                    phases = run(prior, cost, form, start, target, limit)
                new = row(phases, truth if problem else None, target) | {"target": target}
                new["seconds"] = time.process_time() - begun
                if RESULTS.exists() and read_json(RESULTS)["setting"] == setting:
                    rows = read_json(RESULTS)["rows"]  # another run may have written since
                rows[key] = new
                content = {"setting": setting, "machine": machine, "rows": rows}
                write_results(RESULTS, content)
                Console().print(key, rows[key], soft_wrap=True)
    show(rows)


def show(rows: dict[str, Any]) -> None:
    """One line per row: images there, median and worst passes, median PSNR of the image."""
    table = Table(title="passes to the target")
    for column in ("task", "start", "descends", "there", "median", "worst", "PSNR, dB"):
        table.add_column(column, justify="left" if column in ("task", "start") else "right")
    for key, item in rows.items():
        passes = torch.tensor(item["passes"]).double()
        quality = torch.tensor(item.get("psnr", [])).double()
        shown = f"{quality.quantile(0.5):.1f}" if len(quality) else ""
        there = f"{item['there']}/{len(passes)}"
        numbers = (f"{passes.quantile(0.5):.0f}", f"{passes.max():.0f}", shown)
        table.add_row(*key.split("/"), there, *numbers)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
