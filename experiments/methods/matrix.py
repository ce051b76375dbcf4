r"""Every method on every image task that it can do, on the same held-out images.

    python -m ctrlgen.experiments.methods.matrix --prior mnist
    python -m ctrlgen.experiments.methods.matrix --prior cifar10 --images 32 --budgets 100

Tasks: a hole of 10 x 10 in the middle, 70 % of random pixels missing (other ones in every image)
and x2 super-resolution without noise, Gaussian deblurring with noise 0.05, denoising of noise 0.2
and a non-linear blur with noise 0.05, in [-1, 1]. A budget is the evaluations of the network per
image, forward passes only, that a method may make at most, at the settings of `ctrlgen image`; what
it did make is in the table, backward passes beside it. A method whose least is above the budget, or
that needs a linear operator where there is none, is listed with the reason. All images of a row are
one batch and all of them are counted: a sample that diverged with its last finite state. Whether a
method reduces the residual is asked image by image, against the prior's own sample of that seed.

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the table and the figure beside it. With `--keep`
the rows that are there already stay and those that are asked for take their places: after a change
of some methods these alone are run. `--note` says under the table what a reader must know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import ctrlgen
from ctrlgen.costs import NegativePSNR
from ctrlgen.costs.problems import InverseProblem, psnr_of
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import (
    Denoise,
    GaussianBlur,
    Inpainting,
    NonlinearBlur,
    SuperResolution,
)
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, integers, names
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish, timed
from ctrlgen.methods.tuned import METHODS, build, named
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json
from ctrlgen.solvers import Midpoint

__all__ = ["TASKS", "Task", "main", "verdicts"]

STEPS = 25  # midpoint steps of the unguided samples


@dataclass(frozen=True)
class Task:
    """An inverse problem of the matrix.

    Attributes:
        operator: from the shape of one image and the seeds of all.
        noise: σ_y in [-1, 1].
    """

    operator: Callable[[tuple[int, ...], range], Operator]
    noise: float = 0.0

    @property
    def kind(self) -> str:
        """The command of `ctrlgen image` that does it."""
        return self.operator((1, 32, 32), range(1)).task

    def problem(self, truth: Tensor) -> InverseProblem:
        """The measurements of some images, whose seeds are their places."""
        seeds = range(len(truth))
        operator = self.operator(tuple(truth.shape[1:]), seeds)
        return InverseProblem.of(operator, truth, self.noise, seeds)


TASKS = {
    "inpaint": Task(lambda shape, seeds: Inpainting.centre(10, shape)),
    "random-inpaint": Task(lambda shape, seeds: Inpainting.random(0.7, shape, seeds)),
    "sr2": Task(lambda shape, seeds: SuperResolution(2)),
    "deblur": Task(lambda shape, seeds: GaussianBlur(1.0), 0.05),
    "denoise": Task(lambda shape, seeds: Denoise(), 0.2),
    "nonlinear-blur": Task(lambda shape, seeds: NonlinearBlur(), 0.05),
}


def run_row(
    prior: Prior, truth: Tensor, task: Task, name: str, budget: int
) -> tuple[dict[str, Any], Tensor]:
    """A method on all images of a task at once."""
    problem = task.problem(truth)
    # PSNR asks for the mean of what the measurement allows; a sample lies some 3 dB below.
    mean = name == "d-flow" and problem.case.near
    method = problem.method(name, evaluations=budget, init="mean" if mean else None)
    cost = problem.cost(method)
    result, account = timed(method, prior, cost, range(len(truth)))
    assert prior.card is not None
    row = {
        "budget": budget,
        **quality(result.samples, truth, prior.card.name),
        "measurement_psnr": psnr_of(cost, result.costs).tolist(),
        **account,
    }
    return row, result.samples


def plain_row(prior: Prior, truth: Tensor, task: Task) -> tuple[dict[str, Any], Tensor]:
    """The baseline that asks no network, H†y."""
    problem = task.problem(truth)
    images = problem.operator.pinv(problem.y)
    assert prior.card is not None
    return quality(images, truth, prior.card.name), images


def unguided_row(prior: Prior, truth: Tensor, task: Task) -> tuple[dict[str, Any], Tensor]:
    """What the prior draws from the same seeds when it is told nothing."""
    problem = task.problem(truth)
    images = prior.sample(range(len(truth)), Midpoint(STEPS), device=truth.device)
    cost = NegativePSNR(problem.operator, problem.y)
    assert prior.card is not None
    row = {
        **quality(images, truth, prior.card.name),
        "measurement_psnr": (-cost(images)).tolist(),
        "evaluations": 2 * STEPS,
    }
    return row, images


def verdicts(results: dict[str, Any]) -> dict[str, Any]:
    """What the rows say of the claims: residuals, divergence, D-Flow on the noiseless hole.

    Args:
        results: as written, at least its "tasks", "methods", "budgets" and "rows".

    Returns:
        "reduced": by row, the share of images with a smaller residual than the unguided sample.
        "not_reduced": the rows where that is not all of them. "diverged": by row, where there are
        any. "best_psnr": by task, the method and budget of the highest median PSNR.
    """
    reduced: dict[str, float] = {}
    diverged: dict[str, int] = {}
    best: dict[str, str] = {}
    rows = results["rows"]
    for task in results["tasks"]:
        before = torch.tensor(rows[f"{task}-unguided"]["measurement_psnr"])
        names = [
            f"{task}-{name}-{budget}"
            for name in results["methods"]
            for budget in results["budgets"]
            if f"{task}-{name}-{budget}" in rows
        ]
        for name in names:
            after = torch.tensor(rows[name]["measurement_psnr"])
            reduced[name] = float((after > before).double().mean())
            if rows[name]["diverged"]:
                diverged[name] = rows[name]["diverged"]
        if names:
            best[task] = max(
                names, key=lambda name: float(torch.tensor(rows[name]["psnr"]).median())
            )
    return {
        "reduced": reduced,
        "not_reduced": sorted(name for name, share in reduced.items() if share < 1),
        "diverged": diverged,
        "best_psnr": best,
    }


def run(
    prior: Prior,
    truth: Tensor,
    rows: Rows,
    tasks: list[str],
    methods: list[str],
    budgets: list[int],
) -> dict[str, Any]:
    """All rows; returns what goes into results.json beside them."""
    refused: dict[str, str] = {}
    for task in tasks:
        rows.get(f"{task}-plain", partial(plain_row, prior, truth, TASKS[task]))
        rows.get(f"{task}-unguided", partial(unguided_row, prior, truth, TASKS[task]))
        case = TASKS[task].problem(truth).case
        for name in methods:
            for budget in budgets:
                row = f"{task}-{name}-{budget}"
                try:
                    build(name, case, evaluations=budget)
                except ValueError as error:
                    refused[row] = str(error)
                    continue
                rows.get(row, partial(run_row, prior, truth, TASKS[task], name, budget))
    noises = {task: TASKS[task].noise for task in tasks}
    return {"tasks": noises, "methods": methods, "budgets": budgets, "refused": refused}


def joined(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Results where rows of the later ones take the places of earlier ones.

    Args:
        before: of `results.json`.
        after: likewise, of the same weights and images.

    Raises:
        ValueError: for results of other weights or images.
    """
    for name in ("prior", "sha256", "images"):
        if before[name] != after[name]:
            raise ValueError(
                f"keep: the results that are there have {name} {before[name]!r}, "
                f"these have {after[name]!r}"
            )
    both = (before, after)
    every = {name for part in both for name in part["methods"]}
    return {
        **after,
        "tasks": {k: t.noise for k, t in TASKS.items() if any(k in part["tasks"] for part in both)},
        "methods": [name for name in METHODS if name in every],
        "budgets": sorted({budget for part in both for budget in part["budgets"]}),
        "refused": before["refused"] | after["refused"],
        "rows": before["rows"] | after["rows"],
    }


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "mnist",
    images: Annotated[int, typer.Option(min=2, help="held-out images, all in one batch")] = 64,
    tasks: Annotated[str, typer.Option(help="of the table, with commas")] = ",".join(TASKS),
    methods: Annotated[str, typer.Option(help="names, with commas")] = ",".join(METHODS),
    budgets: Annotated[str, typer.Option(help="evaluations per image, with commas")] = "20,50,100",
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
    keep: Annotated[bool, typer.Option(help="leave the other rows that are there")] = False,
    note: Annotated[str, typer.Option(help="below the table")] = "",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, a table and a figure."""
    from ctrlgen.experiments.methods.matrix_figure import figure, table

    torch.set_num_threads(threads)
    wanted = names("tasks", tasks, TASKS)
    asked = [named(name) for name in methods.split(",")]
    levels = integers("budgets", budgets, "20,100")
    model = ctrlgen.load(prior, device=device)
    truth = held_out(prior, images).images.to(device)
    assert model.card is not None
    key = {"sha256": model.card.sha256, "images": images}
    out = out or RESULTS / f"method_matrix_{prior}"
    before = read_json(out / "results.json") if keep else None
    rows = Rows(cache / "method_matrix" / prior, key)
    about = run(model, truth, rows, wanted, asked, levels)
    results = {"prior": prior, **key, **about, "rows": rows.rows}
    if before is not None:
        results = joined(before, results)
    if note:
        results["note"] = note
    results["verdicts"] = verdicts(results)
    publish(out, results, table(results))
    figure(results, out / "quality.png")


if __name__ == "__main__":
    typer.run(main)
