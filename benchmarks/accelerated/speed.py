"""Part 3: D-Flow on a full batch against torch's L-BFGS one by one, and the memory of gradients.

Both sides begin at the same points, solve the same problem with the same solver and stop at the
same target or after as many calls of the objective; the one-by-one side runs a few samples of the
batch.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.accelerated.session import Clock, Record
from benchmarks.accelerated.workbench import Workbench, synchronise
from benchmarks.dflow import peak, torch_lbfgs
from benchmarks.molecules import one_by_one
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.operators import SuperResolution
from ctrlgen.domains.molecules.generation import steer
from ctrlgen.methods.source.objective import SourceObjective
from ctrlgen.methods.starts import GuidedStart
from ctrlgen.operators.base import measure
from ctrlgen.optimizers import LBFGS

__all__ = ["headline", "run"]

_TARGET = -40.0  # minus the PSNR in dB


def run(bench: Workbench, record: Record, clock: Clock) -> None:
    """Images, molecules, memory."""
    record.put(images=images(bench))
    record.put(molecules=molecules(bench))
    rows: list[dict[str, Any]] = []
    for steps in bench.sizes.peaks:
        for gradient in ("direct", "checkpoint"):
            mib = peak(bench.images, bench.sizes.images, steps, gradient)
            rows.append({"evaluations": 2 * steps, "gradient": gradient, "peak_mib": round(mib, 1)})
            record.put(samples=bench.sizes.images, memory=rows)
            if clock.left < 0:
                return


def _side(seconds: float, count: int, calls: int, reached: int) -> dict[str, Any]:
    """Seconds of a side; calls are those of the objective, over all samples."""
    return {
        "samples": count, "seconds": seconds, "samples_per_second": count / seconds,
        "objective_calls": calls, "at_target": reached,
    }  # fmt: skip


def _compared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    speed = ours["samples_per_second"] / theirs["samples_per_second"]
    return {"batch": ours, "one by one": theirs, "times_as_fast": speed}


def images(bench: Workbench) -> dict[str, Any]:
    """Images a second of x2 super-resolution to 40 dB."""
    prior, sizes = bench.images, bench.sizes
    seeds, operator = torch.arange(sizes.images), SuperResolution(2).to(bench.device)
    cost = NegativePSNR(operator, measure(operator, bench.truth(sizes.images)))
    x0 = GuidedStart()(prior, cost.measurement, seeds.to(bench.device), prior.start(seeds))
    objective = SourceObjective(prior, cost, prior.solver(3), None, seeds.to(bench.device), x0)
    optimizer = LBFGS(max_iterations=sizes.calls, max_evaluations=sizes.calls)
    LBFGS(max_iterations=2).minimize(objective, x0)  # warm-up
    synchronise(bench.device)
    began = time.perf_counter()
    solution = optimizer.minimize(objective, x0, target=_TARGET)
    synchronise(bench.device)
    seconds = time.perf_counter() - began
    reached = int((solution.monitor <= _TARGET).sum())
    ours = _side(seconds, sizes.images, int(solution.calls.sum()), reached)

    calls = hits = 0
    began = time.perf_counter()
    for row in range(sizes.alone):
        index = torch.tensor([row], device=bench.device)
        spent, hit = torch_lbfgs(objective.take(index), x0[index], _TARGET, sizes.calls)
        calls, hits = calls + spent, hits + hit
    synchronise(bench.device)
    theirs = _side(time.perf_counter() - began, sizes.alone, calls, hits)
    return {"target_db": -_TARGET, **_compared(ours, theirs)}


def molecules(bench: Workbench) -> dict[str, Any]:
    """Molecules a second to a gap half a deviation away."""
    posed, alone = bench.molecules, bench.sizes.alone
    least = posed.settings.tolerance**2
    synchronise(bench.device)
    began = time.perf_counter()
    steered = steer(posed.prior, posed.cost, posed.seeds, posed.counts, posed.settings)
    synchronise(bench.device)
    seconds = time.perf_counter() - began
    reached = int((steered.costs <= least).sum())
    ours = _side(seconds, len(posed.counts), int(steered.objective_calls.sum()), reached)
    began = time.perf_counter()
    few = posed.cost.take(torch.arange(alone))
    spent, best = one_by_one(posed.prior, few, posed.counts[:alone], posed.settings)
    synchronise(bench.device)
    hits = sum(value <= least for value in best)
    theirs = _side(time.perf_counter() - began, alone, sum(spent), hits)
    return {"tolerance": posed.settings.tolerance, **_compared(ours, theirs)}


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """Samples a second, and how many times those of one by one."""
    told = {}
    for kind in ("images", "molecules"):
        row = content[kind]
        told[kind] = {
            "per_second": round(row["batch"]["samples_per_second"], 2),
            "times_as_fast": round(row["times_as_fast"], 1),
        }
    return told
