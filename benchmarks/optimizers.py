"""The per-sample L-BFGS beside torch's and scipy's, in one run.

    python -m benchmarks.optimizers

(a) pace: iterations, evaluations and seconds of one row to a gradient of 1e-6, against
    torch.optim.LBFGS(line_search_fn="strong_wolfe") and scipy's L-BFGS-B, all with 100 pairs;
(b) batch: many rows at once, against one torch.optim.LBFGS per row in sequence, and against one
    torch.optim.LBFGS on the summed batch. Two tasks: quadratics of condition 1 to 1e3 for 30
    iterations, and inverse problems through a small random network down to -45 dB;
(c) overhead: time of a round beyond the objective's own.

Seconds are CPU seconds of one thread, which a busy machine distorts less than wall time. Prints
tables and writes benchmarks/results/optimizers.json.
"""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import scipy
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.minimizers import Function, Outcome, by_scipy, by_torch, by_us, random
from ctrlgen.optimizers import LBFGS, FunctionObjective
from ctrlgen.runs.json_files import write_results

RESULTS = Path(__file__).parent / "results" / "optimizers.json"


def rosenbrock(x: Tensor) -> Tensor:
    valley = 100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()
    return valley.sum(dim=1)


def quadratic(condition: float, d: int = 50) -> Function:
    eigenvalues = torch.logspace(0, math.log10(condition), d, dtype=torch.float64)
    basis = torch.linalg.qr(random(d, d, seed=1)).Q
    return lambda x: 0.5 * (eigenvalues * (x @ basis).square()).sum(dim=1)


def logistic(d: int = 50, n: int = 200) -> Function:
    features = random(n, d, seed=2) * torch.logspace(0, -2, d, dtype=torch.float64)
    labels = random(n, seed=3).sign()
    softplus = torch.nn.functional.softplus
    return lambda w: softplus(-(w @ features.T) * labels).mean(dim=1) + 1e-4 * w.square().sum(dim=1)


def pace() -> dict[str, dict[str, Outcome]]:
    """Part (a)."""
    valley = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    problems: dict[str, tuple[Function, Tensor]] = {
        "Rosenbrock, d = 2": (rosenbrock, valley),
        "Rosenbrock, d = 10": (rosenbrock, valley.repeat(5)),
        "Rosenbrock, d = 100": (rosenbrock, valley.repeat(50)),
        "quadratic, condition 1e2": (quadratic(1e2), random(50, seed=5)),
        "quadratic, condition 1e4": (quadratic(1e4), random(50, seed=5)),
        "quadratic, condition 1e6": (quadratic(1e6), random(50, seed=5)),
        "logistic regression, d = 50": (logistic(), random(50, seed=6)),
    }
    return {
        name: {
            "ctrlgen": by_us(function, x0, 1e-6),
            "torch": by_torch(function, x0[None], 1e-6),
            "scipy": by_scipy(function, x0, 1e-6),
        }
        for name, (function, x0) in problems.items()
    }


def quadratics(rows: int) -> dict[str, dict[str, float]]:
    """Part (b), first task: median value after 30 iterations."""
    d, iterations = 20, 30
    conditions = torch.logspace(0, 3, rows, dtype=torch.float64)
    scales = conditions[:, None] ** torch.linspace(0, 1, d, dtype=torch.float64)
    x0 = random(rows, d, seed=7)

    def value(x: Tensor, scales: Tensor) -> Tensor:
        return 0.5 * (scales * x.square()).sum(dim=1)

    optimizer = LBFGS(max_iterations=iterations, gradient_tolerance=0, change_tolerance=0)
    began = time.process_time()
    ours = optimizer.minimize(FunctionObjective(value, scales=scales), x0)
    seconds = time.process_time() - began
    alone = [
        by_torch(lambda x, i=i: value(x, scales[i : i + 1]), x0[i : i + 1], 0, iterations)  # type: ignore[misc]
        for i in range(rows)
    ]
    shared = by_torch(lambda x: value(x, scales), x0, 0, iterations)
    return {
        "ctrlgen, one batch": {
            "median value": ours.value.median().item(),
            "objective calls": ours.rounds,
            "row evaluations": int(ours.calls.sum()),
            "seconds": seconds,
        },
        "torch, one per row": {
            "median value": torch.tensor([run.value for run in alone]).median().item(),
            "objective calls": sum(run.evaluations for run in alone),
            "row evaluations": sum(run.evaluations for run in alone),
            "seconds": sum(run.seconds for run in alone),
        },
        "torch, shared": {
            "median value": shared.value,
            "objective calls": shared.evaluations,
            "row evaluations": shared.evaluations * rows,
            "seconds": shared.seconds,
        },
    }


def inverse_problems(rows: int) -> dict[str, dict[str, float]]:
    """Part (b), second task: every row to -45 dB through a frozen network, in float32."""
    d, seen, target = 64, 40, -45.0
    layers = [random(d, d, seed=10 + i).float() / 8 for i in range(12)]

    def network(x: Tensor) -> Tensor:
        for layer in layers:
            x = x + 0.5 * torch.tanh(x @ layer)
        return x

    y = network(random(rows, d, seed=30).float())[:, :seen]
    x0 = random(rows, d, seed=31).float()

    def decibel(x: Tensor, y: Tensor) -> Tensor:
        return 10 * torch.log10((network(x)[:, :seen] - y).square().mean(dim=1) + 1e-12)

    began = time.process_time()
    ours = LBFGS(max_iterations=1000).minimize(FunctionObjective(decibel, y=y), x0, target=target)
    seconds = time.process_time() - began

    def met(values: Tensor) -> bool:
        return bool((values <= target).all())

    alone = [
        by_torch(lambda x, i=i: decibel(x, y[i : i + 1]), x0[i : i + 1], 0, 1000, met)  # type: ignore[misc]
        for i in range(rows)
    ]
    ever = torch.zeros(rows, dtype=torch.bool)

    def everybody(values: Tensor) -> bool:
        ever.logical_or_(values <= target)
        return bool(ever.all())

    shared = by_torch(lambda x: decibel(x, y), x0, 0, 1000, everybody)
    return {
        "ctrlgen, one batch": {
            "rows at target": int((ours.monitor <= target).sum()),
            "objective calls": ours.rounds,
            "row evaluations": int(ours.calls.sum()),
            "seconds": seconds,
        },
        "torch, one per row": {
            "rows at target": sum(run.value <= target for run in alone),
            "objective calls": sum(run.evaluations for run in alone),
            "row evaluations": sum(run.evaluations for run in alone),
            "seconds": sum(run.seconds for run in alone),
        },
        "torch, shared": {
            "rows at target": int(ever.sum()),
            "objective calls": shared.evaluations,
            "row evaluations": shared.evaluations * rows,
            "seconds": shared.seconds,
        },
    }


def overhead() -> list[dict[str, float]]:
    """Part (c)."""
    table = []
    for d, rows, history in (
        (784, 1, 10),
        (784, 64, 10),
        (784, 64, 100),
        (10**6, 1, 10),
        (10**6, 4, 10),
    ):
        scales = torch.logspace(0, 5, d)
        spent = 0.0

        def value(x: Tensor, scales: Tensor = scales) -> Tensor:
            return 0.5 * (scales * x.square()).sum(dim=1)

        objective = FunctionObjective(value)
        x0 = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
        optimizer = LBFGS(
            max_iterations=max(30, history),
            history=history,
            gradient_tolerance=0,
            change_tolerance=0,
        )
        began = time.process_time()
        found = optimizer.minimize(objective, x0)
        seconds = time.process_time() - began
        for _ in range(20):
            x = x0.clone().requires_grad_(True)
            began = time.process_time()
            torch.autograd.grad(value(x).sum(), x)
            spent += (time.process_time() - began) / 20
        table.append(
            {
                "unknowns": d,
                "rows": rows,
                "pairs": history,
                "rounds": found.rounds,
                "ms per round": 1e3 * seconds / found.rounds,
                "ms of the objective": 1e3 * spent,
                "ms of overhead": 1e3 * (seconds / found.rounds - spent),
            }
        )
    return table


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table with one column per key."""
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(
            *(f"{item:.3g}" if isinstance(item, float) else f"{item}" for item in row.values())
        )
    Console().print(table)


def main() -> None:
    """Run everything, print it and write it down."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    paces = pace()
    columns = [
        {
            "to a gradient of 1e-6": name,
            **{
                f"{who} {what}": getattr(run, what)
                for what in ("iterations", "evaluations", "seconds")
                for who, run in runs.items()
            },
        }
        for name, runs in paces.items()
    ]
    for what in ("iterations", "evaluations", "seconds"):
        kept = [
            {k: v for k, v in row.items() if " " not in k or k.endswith((what, "1e-6"))}
            for row in columns
        ]
        show(f"(a) {what}", kept)
    batches = {
        "8 quadratics, condition 1 to 1e3, 30 iterations": quadratics(8),
        "64 quadratics, condition 1 to 1e3, 30 iterations": quadratics(64),
        "64 inverse problems through a network, to -45 dB": inverse_problems(64),
    }
    for title, runs in batches.items():
        show(f"(b) {title}", [{"optimizer": who, **run} for who, run in runs.items()])
    rounds = overhead()
    show("(c) CPU milliseconds per round, float32", rounds)
    RESULTS.parent.mkdir(exist_ok=True)
    report = {
        "pace": {
            name: {who: run._asdict() for who, run in runs.items()} for name, runs in paces.items()
        },
        "batch": batches,
        "overhead": rounds,
        "setting": {
            "torch": torch.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "load average before": load,
        },
    }
    write_results(RESULTS, report)
    Console().print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
