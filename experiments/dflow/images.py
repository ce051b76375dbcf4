r"""D-Flow on image inverse problems: the tasks of Tables 1 and 9 of arXiv 2402.14017, at our size.

    python -m ctrlgen.experiments.dflow.images --prior mnist --images 64
    python -m ctrlgen.experiments.dflow.images --prior cifar10 --images 32

Tasks: centre inpainting (a hole of 10 x 10), x2 super-resolution (bicubic), Gaussian deblurring
(std 1 pixel, circular) and denoising; measurement noise 0 and 0.05 in [-1, 1]. Images are the
held-out ones of the package, none of them seen in training, all of a task in one batch. Noiseless
tasks run from every start (blurs from the guided ones) and do not stop before 55 dB; noisy ones
run the paper's presets (χ^d with λ = 0.01, stop at 32 dB) from its blend, from the guided mean and
from the mean refined; noisy super-resolution also with the Gaussian NLL in place of χ^d.
The plain baseline is H†y; noiseless results are also given with what was measured put back,
x + H†(y − Hx) ("spliced"). Further parts: the λ ablation (its Figure 7) and bits per dimension (its
Figure 3).

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the table and the figures beside it. The published
runs are on ImageNet-128 with a far larger prior, 10 to 15.5 minutes (noiseless) or 2.5 to 4 (noisy)
on a V100: the protocol is comparable, the numbers are not.
"""

from __future__ import annotations

import time
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
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.metrics import psnr
from ctrlgen.domains.images.operators import Denoise, GaussianBlur, Inpainting, SuperResolution
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi, GaussianNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.operators.base import LinearOperator, measure
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.likelihood import bits_per_dimension, log_likelihood
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers import Midpoint

__all__ = ["INITIALIZERS", "TASKS", "Task", "main"]

NOISE = 0.05
LEVELS = (35, 40, 45, 55)  # dB at which the objective calls spent are counted
MAP = 0.02  # λ of the Gaussian NLL
LAMBDAS = (0.0, 0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Task:
    """An inverse problem of the table.

    Attributes:
        name: as printed.
        operator: from the shape of one image.
        projected: whether the PSNR without noise is taken between H†Hx and H†y, as for blurs.
    """

    name: str
    operator: Callable[[tuple[int, ...]], LinearOperator]
    projected: bool = False


TASKS = {
    task.name: task
    for task in (
        Task("inpaint", lambda shape: Inpainting.centre(10, shape)),
        Task("sr2", lambda shape: SuperResolution(2)),
        Task("deblur", lambda shape: GaussianBlur(1.0), projected=True),
        Task("denoise", lambda shape: Denoise()),
    )
}

INITIALIZERS: dict[str, Initializer] = {
    "source": SourceSample(),
    "blend": Blend(0.1),
    "guided": GuidedStart(),
    "mean": GuidedStart(temperature=0.0, start=0.3),
    "refined": Refined(GuidedStart(temperature=0.0, start=0.3)),
}


def problem(task: Task, truth: Tensor, noise: float, seeds: range) -> NegativePSNR:
    """The cost of a task for some true images, shape (B, C, H, W) in [-1, 1]."""
    operator = task.operator(tuple(truth.shape[1:]))
    y = measure(operator, truth, noise, seeds)
    # H† amplifies noise beyond any target: a noisy blur is compared as it was measured.
    return NegativePSNR(operator, y, noise, projected=task.projected and noise == 0)


def reached(result: Result) -> dict[str, list[int | None]]:
    """Per level in dB, the objective calls a sample had spent when it got there, None if never."""
    best = result.history["cost"].cummin(0).values
    counts = {}
    for level in LEVELS:
        there = best <= -level
        first = there.float().argmax(0)
        spent = result.history["objective_calls"].gather(0, first.unsqueeze(0)).squeeze(0)
        counts[str(level)] = [
            int(n) if hit else None for n, hit in zip(spent, there.any(0), strict=True)
        ]
    return counts


def run_row(
    prior: Prior, truth: Tensor, task: Task, noise: float, method: DFlow
) -> tuple[dict[str, Any], Tensor]:
    """One row of the table: D-Flow on all images at once, with the baseline H†y."""
    seeds = range(len(truth))
    cost = problem(task, truth, noise, seeds)
    began = time.perf_counter()
    result = method(prior, cost, seeds=seeds)
    seconds = time.perf_counter() - began
    assert prior.card is not None
    plain = cost.operator.pinv(cost.y)
    ours, baseline = (quality(images, truth, prior.card.name) for images in (result.samples, plain))
    margin = torch.tensor(ours["psnr"]) - torch.tensor(baseline["psnr"])
    if noise == 0:
        spliced = cost.operator.splice(result.samples, cost.y)  # type: ignore[attr-defined]
        ours["psnr_spliced"] = psnr(spliced, truth).tolist()
    row = {
        "task": task.name,
        "noise": noise,
        "method": result.method,
        "summary": result.summary(),
        "measurement_psnr": (-result.costs).tolist(),
        "status": result.status.tolist(),
        "objective_calls": result.objective_calls.tolist(),
        "reached": reached(result),
        "dflow": ours,
        "pseudo_inverse": baseline,
        "better_than_pseudo_inverse": (margin > 0).double().mean().item(),
        "median_margin_db": margin.median().item(),
        "mean_margin_db": margin.mean().item(),
        "source_radius_over_root_d": (
            prior.source.radius(result.controls)
            / prior.source.degrees_of_freedom(result.controls).sqrt()
        ).tolist(),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    return row, result.samples


def bits_row(prior: Prior, name: str, images: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Bits per dimension of some images, 20 midpoint steps and one probe per image."""
    with torch.no_grad():
        log_p = log_likelihood(prior, images, Midpoint(20), seeds=range(len(images)))
    bits = bits_per_dimension(log_p, images[0].numel()).tolist()
    return {"images": name, "bits_per_dimension": bits}, images


def run(
    prior: Prior, truth: Tensor, rows: Rows, iterations: int, evaluations: int, few: int
) -> dict[str, Any]:
    """All parts of the experiment; returns what goes into results.json beside the rows."""
    optimizer = LBFGS(max_iterations=iterations, max_evaluations=evaluations)
    for task in ("sr2", "inpaint", "deblur"):
        for start in ("guided", "mean", "refined") if task == "deblur" else INITIALIZERS:
            method = DFlow(initializer=INITIALIZERS[start], target=-55.0, optimizer=optimizer)
            rows.get(f"{task}-{start}", partial(run_row, prior, truth, TASKS[task], 0.0, method))
    for task in TASKS:
        preset = "denoise" if task == "denoise" else f"{task}-noisy"
        for start in ("blend", "mean", "refined"):
            method = DFlow.preset(preset, optimizer=optimizer, initializer=INITIALIZERS[start])
            rows.get(
                f"{task}-{start}-noisy", partial(run_row, prior, truth, TASKS[task], NOISE, method)
            )
    # The χ^d law asks for the norm of a sample, which costs PSNR; the density itself does not.
    method = DFlow.preset(
        "sr2-noisy",
        optimizer=optimizer,
        initializer=INITIALIZERS["mean"],
        regularizer=GaussianNLL(MAP),
    )
    rows.get("sr2-map-noisy", partial(run_row, prior, truth, TASKS["sr2"], NOISE, method))
    some = truth[:few]
    for weight in LAMBDAS:
        method = DFlow.preset("inpaint-noisy", optimizer=optimizer, regularizer=Chi(weight))
        rows.get(
            f"lambda-{weight:g}", partial(run_row, prior, some, TASKS["inpaint"], NOISE, method)
        )
    sets = {
        "held-out images": some,
        "samples of the prior": prior.sample(range(few)),
        "x2: H†y": TASKS["sr2"].operator(tuple(truth.shape[1:])).project(some),
        "x2: D-Flow, guided": rows.images["sr2-guided"][:few],
        "x2: D-Flow, guided, T = 0": rows.images["sr2-mean"][:few],
        "x2: D-Flow, refined": rows.images["sr2-refined"][:few],
        "noisy inpainting, λ = 0": rows.images["lambda-0"],
        "noisy inpainting, λ = 0.01": rows.images["lambda-0.01"],
        "noisy inpainting, λ = 1": rows.images["lambda-1"],
    }
    for number, (name, images) in enumerate(sets.items()):
        rows.get(f"bits-{number}", partial(bits_row, prior, name, images))
    return {"levels_db": LEVELS, "lambdas": LAMBDAS, "noise": NOISE}


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "mnist",
    images: Annotated[int, typer.Option(help="held-out images, all in one batch")] = 64,
    iterations: Annotated[int, typer.Option(help="L-BFGS iterations per image")] = 200,
    evaluations: Annotated[int, typer.Option(help="objective calls per image")] = 150,
    few: Annotated[int, typer.Option(help="images for the ablation and bits per dimension")] = 8,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, a table and figures."""
    from ctrlgen.experiments.dflow.images_figures import figures, table

    torch.set_num_threads(threads)
    model = ctrlgen.load(prior, device=device)
    truth = held_out(prior, images).images.to(device)
    assert model.card is not None
    key = {"sha256": model.card.sha256, "images": images, "evaluations": evaluations, "few": few}
    rows = Rows(cache / "dflow_images" / prior, key)
    settings = run(model, truth, rows, iterations, evaluations, few)
    out = out or RESULTS / f"dflow_{prior}"
    results = {"prior": prior, **key, **settings, "rows": rows.rows}
    publish(out, results, table(results))
    figures(results, rows.images, truth, out)


if __name__ == "__main__":
    typer.run(main)
