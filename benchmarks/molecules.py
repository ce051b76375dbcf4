"""Processor time per molecule of D-Flow: one ragged batch against one torch L-BFGS per molecule.

    python benchmarks/molecules.py [--prior qm9-heavy] [--molecules 32]
    python benchmarks/molecules.py --untrained            without any weights, for the speed alone

All sides have the same networks, targets, numbers of atoms, solver and tolerance, in one process
and one run, on one thread; a molecule is done when its guide is at the target. The first two sides
solve the same problem from the same source points with the same most evaluations; the third is what
`ctrlgen molecule generate` does, whose starts are the best of a few draws, with valences in its
cost and further starts. The times are the processor's (`time.process_time`), so that other work on
the machine counts little. Prints a table and writes benchmarks/results/molecules.json.
"""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch._dynamo  # torch.optim imports it at first use, which is not a peer's time
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ctrlgen.costs import PropertyCost
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes
from ctrlgen.domains.molecules.elements import MAX_ATOMS, alphabet
from ctrlgen.domains.molecules.generation import Task, generate, steer
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.molecule_batches import Generated, alphabet_of, fitted
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.scoring import GUIDES, Guide
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior, load
from ctrlgen.runs.json_files import write_json

RESULTS = Path(__file__).parent / "results" / "molecules.json"


def untrained(
    name: str, width: int = 128, depth: int = 6, guide_width: int = 96
) -> tuple[Prior, PropertyNetwork]:
    """Networks of the embedded sizes with random weights: the same work, no chemistry."""
    torch.manual_seed(0)
    kinds = len(alphabet(name))
    network = build(
        "geot", classes=kinds, scale=0.2, frequencies=[1 / kinds] * kinds, width=width, depth=depth
    )
    guide = PropertyNetwork(kinds, [0.0] * 6, list(DEVIATION.values()), width=guide_width, depth=4)
    for module in (network, guide):
        for parameter in module.parameters():
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.02)
        module.eval().requires_grad_(False)
    source = Atoms(MAX_ATOMS[name], 3 + kinds)
    return Prior(Flow(network, CondOT()), source, AtomCodec()), guide


@dataclass(frozen=True)
class Problem:
    """Molecules with a gap that is within reach.

    Attributes:
        prior: of molecules.
        cost: of the gap, one target per molecule.
        seeds: of the molecules, shape (B,).
        counts: their numbers of atoms, shape (B,).
        settings: of D-Flow, one start each.
    """

    prior: Prior
    cost: PropertyCost
    seeds: Tensor
    counts: Tensor
    settings: Settings


def problem(
    prior: Prior, network: PropertyNetwork, molecules: int, steps: int, evaluations: int = 25
) -> Problem:
    """Targets half a deviation from where the guide is without steering.

    Args:
        prior: of molecules.
        network: the guide, on the same device.
        molecules: how many.
        steps: midpoint steps of the flow.
        evaluations: of the objective, at most.
    """
    settings = Settings(
        steps=steps, batch=molecules, draws=1, valence=0.0, restarts=0, evaluations=evaluations
    )
    seeds, name = torch.arange(molecules), alphabet_of(prior)
    counts = sizes(name).only(range(3, MAX_ATOMS[name] + 1)).draw([], seeds).to(prior.device)
    with torch.no_grad():
        bound = fitted(prior, counts)
        start = Guide(network, ["gap"], "hard")(bound.sample(seeds, bound.solver(steps)))
    wanted = start + 0.5 * DEVIATION["gap"]
    cost = PropertyCost(Guide(network, ["gap"]), wanted, wanted, scale=DEVIATION["gap"])
    return Problem(prior, cost, seeds, counts, settings)


class Arrived(Exception):
    """The molecule is at its target, or the budget is spent."""


def one_by_one(
    prior: Prior, cost: PropertyCost, counts: Tensor, settings: Settings
) -> tuple[list[int], list[float]]:
    """torch.optim.LBFGS on every molecule in turn; evaluations and best costs."""
    spent, best = [], []
    for row in range(len(counts)):
        index = torch.tensor([row])
        bound = fitted(prior, counts[index])
        x = bound.start([row]).requires_grad_()
        method = settings.method(prior, bound.source.mask(x))  # type: ignore[attr-defined]
        objective = SourceObjective(
            bound, cost.take(index), method.solver, method.regularizer, index, x
        )
        budget = settings.evaluations or 10**6
        optimizer = torch.optim.LBFGS(
            [x], max_iter=settings.iterations, max_eval=budget, history_size=10,
            line_search_fn="strong_wolfe", tolerance_grad=1e-7, tolerance_change=1e-9,
        )  # fmt: skip
        costs: list[float] = []

        def closure(
            x: Tensor = x,
            objective: SourceObjective = objective,
            costs: list[float] = costs,
            optimizer: torch.optim.Optimizer = optimizer,
            budget: int = budget,
        ) -> Tensor:
            if costs and (len(costs) >= budget or min(costs) <= settings.tolerance**2):
                raise Arrived
            optimizer.zero_grad()
            found = objective(x)
            costs.append(float(found.monitor.detach()))
            found.value.sum().backward()
            return found.value.sum().detach()

        with contextlib.suppress(Arrived):
            optimizer.step(closure)  # type: ignore[arg-type]
        spent.append(len(costs))
        best.append(min(costs))
    return spent, best


def main(
    prior: Annotated[str, typer.Option(help="qm9-heavy, qm9 or a card")] = "qm9-heavy",
    molecules: Annotated[int, typer.Option(help="in one batch")] = 32,
    steps: Annotated[int, typer.Option(help="midpoint steps")] = 20,
    guide: Annotated[str, typer.Option(help="card or name; the prior's by default")] = "",
    untrained_: Annotated[
        bool, typer.Option("--untrained", help="random weights of the same sizes")
    ] = False,
    out: Annotated[Path, typer.Option(help="JSON to write")] = RESULTS,
) -> None:
    """Compare the processor time per molecule, and per molecule that reaches its target."""
    torch.set_num_threads(1)
    if untrained_:
        model, network = untrained(prior)
    else:
        model = load(prior)
        network = regressor(guide or GUIDES[alphabet_of(model)])
    default = Settings(steps=steps, batch=molecules)
    posed = problem(model, network, molecules, steps)
    cost, seeds, counts, settings = posed.cost, posed.seeds, posed.counts, posed.settings

    began = time.process_time()
    found: Generated = steer(model, cost, seeds, counts, settings)
    ours = time.process_time() - began
    began = time.process_time()
    spent, best = one_by_one(model, cost, counts, settings)
    theirs = time.process_time() - began
    task = Task(cost=lambda rows, atoms: cost.take(rows), counts=lambda rows, own: counts[rows])
    began = time.process_time()
    whole = generate(model, task, seeds, default)
    all_in = time.process_time() - began
    with torch.no_grad():
        reached = cost(whole.samples)

    def side(seconds: float, costs: list[float], evaluations: list[int]) -> dict[str, Any]:
        there = sum(cost <= settings.tolerance**2 for cost in costs)
        return {
            "cpu_seconds": seconds,
            "cpu_seconds_per_molecule": seconds / molecules,
            "at_target": there,
            "cpu_seconds_per_molecule_at_target": seconds / there if there else None,
            "evaluations": sum(evaluations),
            "cpu_seconds_per_evaluation": seconds / sum(evaluations),
        }

    sides = {
        "one ragged batch": side(ours, found.costs.tolist(), found.objective_calls.tolist()),
        "torch L-BFGS, one by one": side(theirs, best, spent),
        "one ragged batch, draws and restarts": side(
            all_in, reached.tolist(), whole.objective_calls.tolist()
        ),
    }
    per_target = {label: row["cpu_seconds_per_molecule_at_target"] for label, row in sides.items()}
    peer = per_target["torch L-BFGS, one by one"]
    ratios = {label: peer / own if peer and own else None for label, own in per_target.items()}
    content = {
        "prior": prior, "untrained": untrained_, "molecules": molecules, "steps": steps,
        "settings": repr(settings), "torch": torch.__version__, "machine": platform.machine(),
        "sides": sides, "speedup_to_target": ratios,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, content, named=True, indent=1)
    shown = Table(title=f"{molecules} molecules, {steps} midpoint steps, one thread")
    for column in (
        "",
        "CPU s / molecule",
        "at target",
        "CPU s / at target",
        "evaluations",
        "speed",
    ):
        shown.add_column(column)
    for label, row in sides.items():
        each = row["cpu_seconds_per_molecule_at_target"]
        shown.add_row(
            label,
            f"{row['cpu_seconds_per_molecule']:.2f}",
            f"{row['at_target']}/{molecules}",
            "-" if each is None else f"{each:.2f}",
            str(row["evaluations"]),
            "-" if ratios[label] is None else f"x {ratios[label]:.1f}",
        )
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
