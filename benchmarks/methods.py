"""Overhead of every method over its network evaluations, and peers with the same network.

    python -m benchmarks.methods [--prior cifar10] [--samples 16] [--device cpu]

(a) overhead: time of a run (on a CPU, of the processor) over that of its network evaluations alone,
    F forward passes and V backward ones at the raw network's speed on the same batch. x2
    super-resolution with noise 0.05, at some tens of evaluations; no sample stops early. Raw passes
    are timed before and after every run, and the median of the repeats is given.
(b) peers: samplers of azula and deepinv, where installed, against ours (`benchmarks.peers`).

Prints tables and writes benchmarks/results/methods.json.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ctrlgen
from benchmarks.peers import azula_peers, deepinv_peers
from benchmarks.timing import seconds_of
from ctrlgen.costs.problems import InverseProblem
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import SuperResolution
from ctrlgen.methods import Method
from ctrlgen.methods.tuned import METHODS, Case, build
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import write_results

RESULTS = Path(__file__).parent / "results" / "methods.json"
NOISE, BUDGET = 0.05, 24


def raw_passes(prior: Prior, x: Tensor, repeats: int) -> tuple[float, float]:
    """Median seconds of a forward pass without graph, and of one with its backward pass."""
    t = torch.full((len(x),), 0.5, device=x.device)

    def forward() -> None:
        with torch.no_grad():
            prior.flow.network(x, t)

    def both() -> None:
        point = x.clone().requires_grad_()
        torch.autograd.grad(prior.flow.network(point, t).sum(), point)

    ours = [(seconds_of(forward, x), seconds_of(both, x)) for _ in range(repeats)]
    return statistics.median(a for a, _ in ours), statistics.median(b for _, b in ours)


def method_for(name: str, case: Case, budget: int = BUDGET) -> Method:
    """A method at a few evaluations, or what it takes, with a target that no sample reaches."""
    options = {"target": 120.0} if "target" in METHODS[name].options else {}
    for factor in (1, 2, 4, 8, 16):
        try:
            return build(name, case, evaluations=factor * budget, **options)
        except ValueError:  # its least is above that
            continue
    return build(name, case, evaluations=32 * budget, **options)


def overhead_of(
    name: str, prior: Prior, truth: Tensor, repeats: int, budget: int = BUDGET
) -> dict[str, Any]:
    """Time of a method's run over that of its network evaluations alone, on one batch.

    Args:
        name: of the method, a key of `METHODS`.
        prior: whose network is evaluated.
        truth: images (B, C, H, W), the batch.
        repeats: of which the median is taken.
        budget: network evaluations of a run, or as few more as the method takes.
    """
    operator = SuperResolution(2).to(truth.device)
    seeds = range(len(truth))
    problem = InverseProblem.of(operator, truth, NOISE, seeds)
    method = method_for(name, problem.case, budget)
    cost = problem.cost(method)
    ratios, spent = [], []
    method(prior, cost, seeds=seeds)  # warm-up
    for _ in range(repeats):
        before = raw_passes(prior, truth, 3)
        found: list[Any] = []
        run = partial(method, prior, cost, seeds=seeds)
        spent.append(seconds_of(lambda r=run, f=found: f.append(r()), truth))  # type: ignore
        network = found[0].network
        after = raw_passes(prior, truth, 3)
        forward, both = ((a + b) / 2 for a, b in zip(before, after, strict=True))
        f, v = network.forward_rows / len(truth), network.vjp_rows / len(truth)
        ratios.append(spent[-1] / (f * forward + v * (both - forward)))
    return {
        "ratio": statistics.median(ratios), "least": min(ratios), "largest": max(ratios),
        "seconds_per_sample": statistics.median(spent) / len(truth),
        "evaluations": f, "vjps": v, "jvps": network.jvp_rows / len(truth),
        "method": repr(method),
    }  # fmt: skip


def overhead(prior: Prior, truth: Tensor, repeats: int, console: Console) -> dict[str, Any]:
    """Part (a)."""
    rows = {}
    for name in METHODS:
        rows[name] = overhead_of(name, prior, truth, repeats)
        console.print(f"{name}: {rows[name]['ratio']:.3f}", style="dim")
    return rows


def main(
    prior: Annotated[str, typer.Option(help="embedded prior")] = "cifar10",
    samples: Annotated[int, typer.Option(min=2, help="images in the batch")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="of the peers' samplers")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="of every timing")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
) -> None:
    """Run both parts and write benchmarks/results/methods.json."""
    torch.set_num_threads(threads)
    console = Console(width=110)
    model = ctrlgen.load(prior, device=device)
    truth = held_out(prior, samples).images.to(device)
    results: dict[str, Any] = {
        "prior": prior, "samples": samples, "steps": steps, "repeats": repeats, "device": device,
        "threads": threads, "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }  # fmt: skip
    peers: dict[str, Any] = {}
    for package, run in (("azula", azula_peers), ("deepinv", deepinv_peers)):
        if importlib.util.find_spec(package) is None:
            peers[package] = {"unavailable": f"{package} is not installed"}
            continue
        with console.status(package):
            peers[package] = run(model, truth, steps, repeats)
    results["peers"] = peers
    results["overhead"] = overhead(model, truth, repeats, console)
    report(console, results)
    RESULTS.parent.mkdir(exist_ok=True)
    write_results(RESULTS, results)


def report(console: Console, results: dict[str, Any]) -> None:
    """Print both tables."""
    table = Table(title="(a) time / network time")
    for column in ("method", "ratio", "least", "largest", "s / sample", "evaluations", "vjps"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in results["overhead"].items():
        table.add_row(
            name, *(f"{row[key]:.3f}" for key in ("ratio", "least", "largest")),
            f"{row['seconds_per_sample']:.3f}", f"{row['evaluations']:g}", f"{row['vjps']:g}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="(b) peers, seconds per sample")
    for column in ("peer", "ours", "theirs", "ratio", "PSNR ours", "theirs", "difference, 1 image"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    for package, rows in results["peers"].items():
        if "unavailable" in rows:
            console.print(f"{package}: {rows['unavailable']}")
            continue
        for name, row in rows.items():
            table.add_row(
                name, *(f"{row[key]:.3f}" for key in ("ours", "theirs", "ratio")),
                *(f"{row[key]:.2f}" for key in ("ours_psnr", "psnr")),
                f"{row['one_image_difference']:.1e}" if "one_image_difference" in row else "",
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
