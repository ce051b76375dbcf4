"""Part 2: overhead of every method, and what the forms of a network are worth.

    overhead = wall / (F · forward pass + V · backward pass),

F forward and V backward passes as counted in the run, at the raw network's speed on the same batch.
A method that differentiates twice (Flow-Priors) passes back through its backward passes as well;
these are among the V, at two for each that is differentiated, by `ctrlgen.rows.counts.Evaluations`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.accelerated.session import Clock, Record
from benchmarks.accelerated.workbench import Workbench, synchronise
from benchmarks.methods import overhead_of
from ctrlgen.methods.tuned import METHODS
from ctrlgen.priors.prior import Prior

__all__ = ["forms", "headline", "run"]


def run(bench: Workbench, record: Record, clock: Clock) -> None:
    """Every method at every batch, as far as the time goes; a method that raises is recorded."""
    rows: dict[str, dict[str, Any]] = {str(batch): {} for batch in bench.sizes.batches}
    errors: dict[str, str] = {}
    truth = bench.truth(max(bench.sizes.batches))
    for batch in bench.sizes.batches:
        repeats = bench.sizes.repeats if batch < 1024 else 1
        for name in METHODS:
            if clock.left < 0:
                record.put(rows=rows, errors=errors, note=f"no time for {name} at batch {batch}")
                return
            try:
                row = overhead_of(name, bench.images, truth[:batch], repeats, bench.sizes.budget)
                rows[str(batch)][name] = row
            except Exception as error:  # one method says nothing about the next
                errors[f"{name} at {batch}"] = f"{type(error).__name__}: {error}"[:500]
            record.put(rows=rows, errors=errors)


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """The largest overhead at each batch, and how many methods stay within 1.10."""
    told: dict[str, Any] = {"errors": len(content["errors"])}
    for batch, rows in content["rows"].items():
        if rows:
            worst = max(rows, key=lambda name: rows[name]["ratio"])
            within = sum(row["ratio"] <= 1.10 for row in rows.values())
            told[f"batch {batch}"] = {
                "methods": len(rows), "within 1.10": within, "largest": worst,
                "ratio": round(rows[worst]["ratio"], 3),
            }  # fmt: skip
    return told


FORMS: dict[str, Callable[[Prior], Prior]] = {
    "plain": lambda prior: prior,
    "graphed": Prior.graphed,
    "half": Prior.half,
    "half, graphed": lambda prior: prior.half().graphed(),
    "compiled": lambda prior: prior.compiled(),
    "half, compiled": lambda prior: prior.half().compiled(),
    "half, compiled, graphed": lambda prior: prior.half().compiled().graphed(),
}


def forms(bench: Workbench, record: Record, clock: Clock) -> None:
    """Seconds of one evaluation and its backward pass, of every form of the network."""
    molecules = bench.molecules
    counts = molecules.counts
    batches: dict[str, tuple[Prior, Tensor]] = {}
    for batch in bench.sizes.batches:
        batches[f"images {batch}"] = bench.images, bench.images.start(torch.arange(batch))
    bound = molecules.prior.bind(counts=counts)
    batches[f"molecules {len(counts)}"] = bound, bound.start(molecules.seeds)
    record.put(no_compiler=bench.no_compiler)
    rows: dict[str, dict[str, Any]] = {}
    for form, make in FORMS.items():
        if "compiled" in form and bench.no_compiler:
            continue
        rows[form] = {}
        for batch_name, (prior, x) in batches.items():
            if clock.left < 0:
                record.put(note=f"no time for {form}, {batch_name}")
                return
            try:
                rows[form][batch_name] = _timed(make(prior), prior, x, bench.sizes.repeats)
            except Exception as error:  # as where there is no compiler
                rows[form][batch_name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            record.put(rows=rows)


def _timed(fast: Prior, plain: Prior, x: Tensor, repeats: int) -> dict[str, Any]:
    """Seconds, and the largest difference of a gradient over the largest entry."""

    def both(prior: Prior) -> Tensor:
        point = x.detach().requires_grad_()
        return torch.autograd.grad(prior.velocity(point, 0.5).square().sum(), point)[0]

    began = time.perf_counter()
    first, expected = both(fast), both(plain)
    synchronise(x.device)
    ready = time.perf_counter() - began
    difference = float((first - expected).abs().max() / expected.abs().max())
    seconds = []
    for _ in range(max(3, repeats)):
        began = time.perf_counter()
        both(fast)
        synchronise(x.device)
        seconds.append(time.perf_counter() - began)
    return {"seconds": sorted(seconds)[len(seconds) // 2], "first": ready, "difference": difference}
