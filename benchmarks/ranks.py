"""Whether restorations could have been the truth: calibration on an embedded prior, by ranks.

    python benchmarks/ranks.py [--truths 60] [--draws 4]

Digits are drawn from the `mnist` prior itself, so that the prior is right by construction, and
measured: all but a hole of 10 x 10, with noise 0.2 in [-1, 1]. Each method restores each of them
from several seeds, at its usual settings. Ranks of the truth among its restorations, in functions
of the image that the measurement leaves open, are uniform where the method draws from the posterior
(`ctrlgen.testing.ranks`). Writes benchmarks/results/ranks.json, a method at a time.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

import ctrlgen as cg
from ctrlgen.runs.json_files import read_json, write_results
from ctrlgen.testing.calibration import ranked

RESULTS = Path(__file__).parent / "results" / "ranks.json"
HOLE, NOISE, STEPS = 10, 0.2, 20
METHODS = {"pigdm": 20, "dps": 20, "d-flow": 36}
"""By name, evaluations of the network per image."""


def functions(images: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of images (B, 1, 28, 28) and their measurements: shape (B,) each."""
    low = (images.shape[2] - HOLE) // 2
    hole = images[:, 0, low : low + HOLE, low : low + HOLE].double()
    place = torch.linspace(-1, 1, HOLE, dtype=torch.float64)
    operator = cg.images.Inpainting.centre(HOLE, tuple(images.shape[1:]))
    return {
        "ink[hole]": hole.mean((1, 2)),
        "right[hole]": (hole * place).mean((1, 2)),
        "low[hole]": (hole * place[:, None]).mean((1, 2)),
        "edges[hole]": hole.diff(dim=1).abs().mean((1, 2)) + hole.diff(dim=2).abs().mean((1, 2)),
        "residual": operator.observed(operator(images) - y).double().flatten(1).norm(dim=1),
    }


def main(
    truths: Annotated[int, typer.Option(min=50, help="digits drawn from the prior")] = 60,
    draws: Annotated[int, typer.Option(min=4, help="restorations of each")] = 4,
) -> None:
    """Run each method, print its line and write it down."""
    torch.set_num_threads(1)
    prior = cg.load("mnist")
    seeds = range(10_000, 10_000 + truths)
    images = prior.sample(seeds, prior.solver(STEPS))
    operator = cg.images.Inpainting.centre(HOLE, tuple(images.shape[1:]))
    problem = cg.InverseProblem.of(operator, images, NOISE, seeds)
    every = problem.take(torch.arange(truths).repeat_interleave(draws))
    exact = functions(images, problem.y)
    setting = {"truths": truths, "draws": draws, "hole": HOLE, "noise": NOISE,
               "machine": platform.machine(), "torch": torch.__version__}  # fmt: skip
    rows: dict[str, Any] = {}
    if RESULTS.exists() and read_json(RESULTS)["setting"] == setting:
        rows = read_json(RESULTS)["rows"]
    for name, evaluations in METHODS.items():
        if name in rows:
            continue
        begun = time.process_time()
        method = every.method(name, evaluations=evaluations)
        results = [  # in batches that fit a small machine
            cg.solve(prior, every.take(part), method, seeds=part.tolist())
            for part in torch.arange(truths * draws).split(60)
        ]
        samples = torch.cat([result.samples for result in results])
        verdict = ranked(exact, functions(samples, every.y))
        error = (samples - every.truth).square().flatten(1).mean(1)  # type: ignore[operator]
        rows[name] = {
            "p": verdict.p_value,
            "p of": verdict.p_values,
            "coverage": {f"{level:.2f}": share for level, share in verdict.coverage.items()},
            "psnr": float((-10 * torch.log10(error / 4)).median()),
            "evaluations": int(torch.cat([r.evaluations for r in results]).double().median()),
            "vjps": int(torch.cat([r.backward_passes for r in results]).double().median()),
            "method": results[0].method,
            "seconds": time.process_time() - begun,
        }
        Console().print(name, rows[name])
        write_results(RESULTS, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
