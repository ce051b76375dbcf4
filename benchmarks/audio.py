"""What a clip of sound costs: objective calls, their parts, and takes in one batch or one by one.

    python benchmarks/audio.py [--takes 8] [--device cpu]

A gap of 10 % in a clip of 4 s, on processor time (the wall on a device):

(a) objective call: −PSNR of the decoded waveform and its gradient in the source, six evaluations of
    the network; with the shares of the network and of the decoder, each measured alone, forward and
    backward, at the same batch;
(b) roofline: GFLOP/s of the products of matrices in one evaluation of the network, over all of its
    time, beside a plain product in the same process. What runs alone at a share of the plain
    product gains at most its inverse from a batch;
(c) takes: the whole run of the preset `fast`, several takes in one batch against one by one. A goal
    that is out of reach keeps all of them busy for as long.

Prints tables and writes benchmarks/results/audio.json.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ctrlgen
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.examples import example
from ctrlgen.domains.audio.loudness import gain
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.restoration import Settings, method_for
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import write_json
from ctrlgen.solvers import Midpoint

RESULTS = Path(__file__).parent / "results" / "audio.json"
UNREACHED = 90.0  # dB


def problem(prior: Prior, takes: int) -> NegativePSNR:
    """The gap, once for every take."""
    network: Any = prior.codec.network  # type: ignore[attr-defined]
    length = network.samples(prior.source.shape[0])
    x = example("freedoom-27").samples[None, :, :length].float()
    x = torch.nn.functional.pad(x, (0, length - x.shape[2]))
    x = (x * gain(x)[:, None, None]).expand(takes, -1, -1).to(prior.device)
    known = torch.ones(length, dtype=torch.bool, device=prior.device)
    known[length * 9 // 20 : length * 11 // 20] = False
    mask = TimeMask(known)
    return NegativePSNR(mask, mask(x), peak=1.0)


def seconds(work: Callable[[], object], x: Tensor, repeats: int) -> float:
    """Median time of some work: of the processor, or of the wall on a device."""
    clock, times = time.perf_counter if x.is_cuda else time.process_time, []
    for turn in range(repeats + 1):
        began = clock()
        work()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        if turn:  # the first one warms up
            times.append(clock() - began)
    return statistics.median(times)


def calls(prior: Prior, batch: int, repeats: int) -> dict[str, Any]:
    """Part (a) at one batch size; seconds are of the whole batch."""
    seeds = torch.arange(batch, device=prior.device)
    cost, x0 = problem(prior, batch), prior.start(range(batch))
    objective = SourceObjective(prior, cost, Midpoint(3), None, seeds, x0)
    t = torch.full((batch,), 0.5, device=x0.device)

    def call() -> None:
        point = x0.clone().requires_grad_()
        torch.autograd.grad(objective(point).value.sum(), point)

    def network() -> None:
        point = x0.clone().requires_grad_()
        torch.autograd.grad(prior.velocity(point, t).sum(), point)

    def decoder() -> None:
        point = x0.clone().requires_grad_()
        torch.autograd.grad(cost(prior.codec.decode(point)).sum(), point)

    whole = seconds(call, x0, repeats)
    parts = {"network": 6 * seconds(network, x0, repeats), "decoder": seconds(decoder, x0, repeats)}
    return {
        "batch": batch,
        "seconds": whole,
        "seconds_per_clip": whole / batch,
        "share": {name: value / whole for name, value in parts.items()},
    }


def roofline(prior: Prior, batches: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Part (b): operations are those of products of matrices, as torch counts them."""
    square = torch.randn(1024, 1024, device=prior.device)
    plain = 2 * 1024**3 / seconds(lambda: square @ square, square, repeats) / 1e9
    rates = []
    with torch.no_grad():
        for batch in batches:
            x = prior.start(range(batch))
            t = torch.full((batch,), 0.5, device=x.device)
            with FlopCounterMode(display=False) as counter:
                prior.velocity(x, t)
            spent = seconds(lambda x=x, t=t: prior.velocity(x, t), x, repeats)  # type: ignore[misc]
            rates.append({"batch": batch, "gflops": counter.get_total_flops() / spent / 1e9})
    return {
        "plain_gflops": plain,
        "network": rates,
        "most_speed_up": plain / rates[0]["gflops"],
    }


def takes_row(prior: Prior, takes: int, iterations: int) -> dict[str, Any]:
    """Part (c)."""

    def run(seeds: range) -> int:
        goal = torch.full((len(seeds),), UNREACHED, device=prior.device)
        method = method_for(Settings(iterations=iterations), goal)
        result = method(prior, problem(prior, len(seeds)), seeds=seeds)
        return int(result.network.forward_rows) // len(seeds)

    x = torch.zeros(1, device=prior.device)
    clock = time.perf_counter if x.is_cuda else time.process_time
    began = clock()
    evaluations = run(range(takes))
    batched, began = clock() - began, clock()
    for seed in range(takes):
        run(range(seed, seed + 1))
    alone = clock() - began
    return {
        "takes": takes,
        "iterations": iterations,
        "evaluations_per_take": evaluations,
        "batched_seconds": batched,
        "one_by_one_seconds": alone,
        "speed_up": alone / batched,
    }


def main(
    prior: Annotated[str, typer.Option(help="name, or a card's path")] = "freedoom-music",
    takes: Annotated[int, typer.Option(min=2)] = 8,
    iterations: Annotated[int, typer.Option(min=0, help="of L-BFGS")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="of a timed call")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    out: Annotated[Path, typer.Option(help="JSON to write")] = RESULTS,
) -> None:
    """Run all parts, print them and write the JSON."""
    torch.set_num_threads(threads)
    model = ctrlgen.load(prior, device=device)
    assert model.card is not None
    results: dict[str, Any] = {
        "prior": model.card.name, "sha256": model.card.sha256, "device": device,
        "threads": threads, "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }  # fmt: skip
    console = Console()
    with console.status("objective calls"):
        results["calls"] = [calls(model, batch, repeats) for batch in (1, takes)]
    with console.status("roofline"):
        results["roofline"] = roofline(model, (1, takes), 3 * repeats)
    with console.status("takes"):
        results["takes"] = takes_row(model, takes, iterations)
    report(console, results)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, results, named=True)


def report(console: Console, results: dict[str, Any]) -> None:
    """Print the tables."""
    table = Table(title="(a) one objective call, value and gradient")
    for column in ("clips", "seconds", "a clip", "network", "decoder and cost"):
        table.add_column(column, justify="right")
    for row in results["calls"]:
        share = row["share"]
        table.add_row(
            str(row["batch"]), f"{row['seconds']:.3f}", f"{row['seconds_per_clip']:.3f}",
            f"{share['network']:.0%}", f"{share['decoder']:.0%}",
        )  # fmt: skip
    console.print(table)
    row = results["roofline"]
    rates = ", ".join(f"{each['gflops']:.1f} at {each['batch']} clips" for each in row["network"])
    console.print(
        f"(b) GFLOP/s: a plain product {row['plain_gflops']:.1f}, the network {rates}: at most "
        f"{row['most_speed_up']:.2f} times from a batch"
    )
    row = results["takes"]
    console.print(
        f"(c) {row['takes']} takes of {row['evaluations_per_take']} evaluations: "
        f"{row['batched_seconds']:.1f} s in one batch, {row['one_by_one_seconds']:.1f} s one by "
        f"one, {row['speed_up']:.2f} times"
    )


if __name__ == "__main__":
    typer.run(main)
