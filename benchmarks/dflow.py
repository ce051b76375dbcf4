"""Speed, memory and evaluations of D-Flow, in one run.

    python benchmarks/dflow.py [--prior mnist] [--samples 32] [--device cpu]

(a) overhead: wall time of a run over (network evaluations counted, forward and backward, times the
    time of one raw evaluation at the same batch);
(b) peers: the batch with per-sample L-BFGS, against one torch.optim.LBFGS per sample in sequence
    and one on the summed batch, all from the same points to the same target;
(c) memory: peak of direct against checkpointed gradients, for 6 and 100 evaluations a solve, each
    in a process of its own.

Prints tables and writes benchmarks/results/dflow.json.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch._dynamo  # torch.optim imports it at first use, which is not a peer's time
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ctrlgen
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import SuperResolution
from ctrlgen.methods import DFlow
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.methods.starts import GuidedStart
from ctrlgen.operators.base import measure
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import write_json
from ctrlgen.solvers import Midpoint

RESULTS = Path(__file__).parent / "results" / "dflow.json"


def problem(prior: Prior, samples: int) -> NegativePSNR:
    """x2 super-resolution of held-out images."""
    assert prior.card is not None
    truth = held_out(prior.card.name, samples).images.to(prior.device)
    operator = SuperResolution(2)
    return NegativePSNR(operator, measure(operator, truth))


def overhead(prior: Prior, cost: NegativePSNR, samples: int, repeats: int = 5) -> dict[str, float]:
    """Part (a). All rows end with the same evaluation, so that every one has the same batch."""
    optimizer = LBFGS(
        max_iterations=100, max_evaluations=12, gradient_tolerance=0, change_tolerance=0
    )
    method = DFlow(optimizer=optimizer)
    x = prior.start(range(samples))
    t = torch.full((samples,), 0.5, device=x.device)

    def raw() -> float:
        point = x.clone().requires_grad_()
        began = time.perf_counter()
        torch.autograd.grad(prior.flow.network(point, t).sum(), point)
        synchronise(x)
        return time.perf_counter() - began

    method(prior, cost, seeds=range(samples))  # warm-up
    ratios, run, single, calls = [], 0.0, 0.0, 0
    for _ in range(repeats):  # interleaved: the machine's mood changes
        before = [raw() for _ in range(20)]
        began = time.perf_counter()
        result = method(prior, cost, seeds=range(samples))
        synchronise(x)
        run = time.perf_counter() - began
        single = sorted([*before, *(raw() for _ in range(20))])[20]
        calls = result.network.forward
        assert result.network.vjp == calls
        assert result.network.forward_rows == result.network.vjp_rows == calls * samples
        ratios.append(run / (calls * single))
    return {
        "ratio": sorted(ratios)[len(ratios) // 2],
        "least": min(ratios),
        "largest": max(ratios),
        "seconds": run,
        "raw_evaluation_seconds": single,
        "evaluations": calls,
    }


def synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


class Arrived(Exception):
    """Every row is at the target, or the budget is spent."""


def torch_lbfgs(
    objective: SourceObjective, x0: Tensor, target: float, evaluations: int
) -> tuple[int, int]:
    """torch.optim.LBFGS on the sum of all rows, until every row has reached the target.

    Returns:
        Evaluations spent, and rows that are at the target at the end.
    """
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=evaluations, history_size=100, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip
    spent, values = 0, x0.new_full((len(x0),), torch.inf)

    def closure() -> Tensor:
        nonlocal spent, values
        if spent == evaluations or bool((values <= target).all()):
            raise Arrived
        spent += 1
        optimizer.zero_grad()
        value = objective(x).value
        value.sum().backward()
        values = value.detach()
        return value.sum()

    with contextlib.suppress(Arrived):
        optimizer.step(closure)
    return spent, int((values <= target).sum())


def peers(prior: Prior, cost: NegativePSNR, samples: int, target: float) -> dict[str, Any]:
    """Part (b)."""
    seeds, limit = torch.arange(samples), 200
    x0 = GuidedStart()(prior, cost.measurement, seeds, prior.start(seeds))
    objective = SourceObjective(prior, cost, Midpoint(3), None, seeds, x0)

    clock = time.perf_counter if x0.is_cuda else time.process_time  # of this process alone
    began = clock()
    ours = LBFGS(max_iterations=limit, max_evaluations=limit).minimize(objective, x0, target=target)
    batched = clock() - began

    # A peer alone needs no arithmetic that is alike in every batch; the training mode has none.
    prior.flow.network.train()  # type: ignore[attr-defined]
    began, spent, there = clock(), [], 0
    for i in range(samples):
        row = torch.tensor([i], device=x0.device)
        n, hit = torch_lbfgs(objective.take(row), x0[row], target, limit)
        spent.append(n)
        there += hit
    sequential = clock() - began

    began = clock()
    shared, arrived = torch_lbfgs(objective, x0, target, limit)
    shared_seconds = clock() - began
    return {
        "target_db": -target,
        "limit": limit,
        "per_sample_batched": {
            "seconds": batched,
            "on_target": int((ours.monitor <= target).sum()),
            "evaluations_slowest": int(ours.calls.max()),
            "evaluations_total": int(ours.calls.sum()),
        },
        "torch_sequential": {
            "seconds": sequential,
            "on_target": there,
            "evaluations_slowest": max(spent),
            "evaluations_total": sum(spent),
        },
        "torch_shared": {
            "seconds": shared_seconds,
            "on_target": arrived,
            "evaluations_slowest": shared,
            "evaluations_total": shared * samples,
        },
        "speed_up_over_sequential": sequential / batched,
    }


def peak(prior: Prior, samples: int, steps: int, gradient: str) -> float:
    """MiB that one solve, forward and backward, adds to the peak of this process."""
    x = prior.start(range(samples)).requires_grad_()
    torch.autograd.grad(prior.velocity(x, 0.5).sum(), x)  # the libraries' own buffers first
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = used(x)
    signal = prior.generate(x, Midpoint(steps, gradient=gradient))  # type: ignore[arg-type]
    torch.autograd.grad(signal.square().sum(), x)
    return used(x) - before


def used(x: Tensor) -> float:
    if x.is_cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory(prior: str, samples: int, device: str) -> list[dict[str, Any]]:
    """Part (c)."""
    rows = []
    for steps in (3, 50):
        for gradient in ("direct", "checkpoint"):
            arguments = [str(samples), str(steps), gradient, device]
            done = subprocess.run(
                [sys.executable, __file__, "--peak", ",".join(arguments), "--prior", prior],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            mib = float(done.stdout)
            rows.append({"evaluations": 2 * steps, "gradient": gradient, "peak_mib": mib})
    return rows


def main(
    prior: Annotated[str, typer.Option(help="embedded prior")] = "mnist",
    samples: Annotated[int, typer.Option(help="images in the batch")] = 32,
    target: Annotated[float, typer.Option(help="cost to reach: minus the PSNR in dB")] = -40.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    peak_of: Annotated[str, typer.Option("--peak", hidden=True)] = "",
) -> None:
    """Run all three parts and write benchmarks/results/dflow.json."""
    torch.set_num_threads(threads)
    model = ctrlgen.load(prior, device=peak_of.split(",")[3] if peak_of else device)
    if peak_of:
        count, steps, gradient, _ = peak_of.split(",")
        print(peak(model, int(count), int(steps), gradient))
        return
    console = Console()
    cost = problem(model, samples)
    results: dict[str, Any] = {
        "prior": prior, "samples": samples, "device": device, "threads": threads,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
    }  # fmt: skip
    with console.status("memory"):
        results["memory"] = memory(prior, samples, device)
    with console.status("overhead"):
        results["overhead"] = overhead(model, cost, samples)
    with console.status("peers"):
        results["peers"] = peers(model, cost, samples, target)
    report(console, results)
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, results, named=True)


def report(console: Console, results: dict[str, Any]) -> None:
    """Print the three tables."""
    a = results["overhead"]
    console.print(
        f"(a) wall time / (evaluations x raw evaluation): {a['ratio']:.3f} "
        f"({a['least']:.3f} to {a['largest']:.3f})"
    )
    b = results["peers"]
    table = Table(title=f"(b) {results['samples']} samples to {b['target_db']:g} dB")
    for column in ("optimiser", "seconds", "on target", "evaluations, slowest", "total"):
        table.add_column(column, justify="left" if column == "optimiser" else "right")
    for name in ("per_sample_batched", "torch_sequential", "torch_shared"):
        row = b[name]
        table.add_row(
            name.replace("_", " "), f"{row['seconds']:.1f}", str(row["on_target"]),
            str(row["evaluations_slowest"]), str(row["evaluations_total"]),
        )  # fmt: skip
    console.print(table)
    console.print(f"speed-up over sequential runs: {b['speed_up_over_sequential']:.1f}")
    table = Table(title="(c) peak memory of one solve, forward and backward")
    for column in ("evaluations", "gradient", "MiB"):
        table.add_column(column, justify="right")
    for row in results["memory"]:
        table.add_row(str(row["evaluations"]), row["gradient"], f"{row['peak_mib']:.0f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
