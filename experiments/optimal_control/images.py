r"""Diffusion optimal control against DPS: the experiments of arXiv 2412.16748, at our size.

    python -m ctrlgen.experiments.optimal_control.images --prior mnist
    python -m ctrlgen.experiments.optimal_control.images --prior cifar10 --images 8

Tasks: x4 and x2 super-resolution (bicubic) and 70 % of random pixels missing, other ones in every
image, with noise 0.05 in [-1, 1]; held-out images, all of a row in one batch. Parts:

    methods    optimal control at T = 20 steps, FlowGrad and OC-Flow, from noise as published and
               from the mean of a guided start; DPS at the same T, as published and with a step
               that grows as the steps get fewer. On x4 super-resolution also the published rate of
               Adam and 0, 1, 4 and 16 directions of curvature
    steps      T = 5, 10, 20, 50 on x4 super-resolution; optimal control may make as many
               evaluations at each of them, so that fewer steps are more iterations
    random     an untrained network in the place of the prior's: whether the measurement is met

What stops at a target stops where the residual is the noise, ‖Hx − y‖² = mσ². The start from the
guided mean is not of the paper; it has a row of its own, so that it can be told what the control
adds to it. Three statements of the paper are decided here, by `verdicts`, and recorded as true or
false for every row of optimal control: that it is better than DPS at the same number of steps; that
few steps break DPS and not it; that it meets the measurement with a random network where DPS does
not.

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the table and the figures beside it. The published
runs are on 256 x 256 faces with a far larger network: the protocol is comparable, the numbers are
not.
"""

from __future__ import annotations

import copy
import math
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
from ctrlgen.costs.measurement import MeasurementCost
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import Inpainting, SuperResolution
from ctrlgen.experiments.optimal_control.images_settings import (
    COUNTS,
    METHODS,
    NOISE,
    RANDOM,
    STEPS,
    SWEPT,
    VARIANTS,
    Form,
)
from ctrlgen.experiments.optimal_control.images_verdicts import swept, verdicts
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish, timed
from ctrlgen.operators.base import LinearOperator, Operator, measure
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat

__all__ = ["TASKS", "Misfit", "Task", "main", "problem", "untrained"]

CHOSEN = 8  # held-out images on which settings were chosen; the others are those of the results
AT_NOISE = 20 * math.log10(2 / NOISE)  # dB, of a measurement whose residual is the noise


@dataclass(frozen=True)
class Task:
    """An inverse problem of the table.

    Attributes:
        operator: from the shape of one image and the seeds of all.
        strength: one over the largest singular value of H, squared.
    """

    operator: Callable[[tuple[int, ...], range], LinearOperator]
    strength: float = 1.0


TASKS = {
    "sr4": Task(lambda shape, seeds: SuperResolution(4), 16.0),
    "sr2": Task(lambda shape, seeds: SuperResolution(2), 4.0),
    "inpaint": Task(lambda shape, seeds: Inpainting.random(0.7, shape, seeds)),
}


class Misfit(MeasurementCost):
    """How far ‖Hx − y‖ is from what the noise makes of it; zero where they are equal.

    "norm" is ‖Hx − y‖ − σ√m, what the published code minimises; "likelihood" is half of
    ‖Hx − y‖²/σ² − m, −log p(y|x) up to a constant. m entries are measured.

    Args:
        operator: H.
        y: measurements, shape (B, *measurement).
        noise: σ > 0 in units of y.
        form: "norm" or "likelihood".
    """

    def __init__(self, operator: Operator, y: Tensor, noise: float, form: Form) -> None:
        super().__init__(operator, y, noise)
        if not noise > 0:
            raise ValueError(f"noise: expected a standard deviation > 0, got {noise}")
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        square = flat(self.residual(x)).square().sum(1)
        count = self.operator.measured(self.y).to(x)
        if self.form == "likelihood":
            return 0.5 * (square / self.noise**2 - count)
        return square.clamp_min(1e-12).sqrt() - self.noise * count.sqrt()  # no slope at zero


def _seeds(truth: Tensor) -> range:
    """One per image: its place in the held-out set."""
    return range(CHOSEN, CHOSEN + len(truth))


def problem(task: Task, truth: Tensor, form: Form) -> MeasurementCost:
    """The cost of a task for some true images, shape (B, C, H, W) in [-1, 1]."""
    seeds = _seeds(truth)
    operator = task.operator(tuple(truth.shape[1:]), seeds)
    y = measure(operator, truth, NOISE, seeds)
    if form == "psnr":
        return NegativePSNR(operator, y, NOISE)
    return Misfit(operator, y, NOISE, form)


def run_row(
    prior: Prior, truth: Tensor, task: Task, name: str, steps: int
) -> tuple[dict[str, Any], Tensor]:
    """A variant on all images of a task at once, with T = `steps`."""
    variant = VARIANTS[name]
    cost = problem(task, truth, variant.form)
    target = -AT_NOISE if variant.form == "psnr" else 0.0
    method = variant.build(steps, task.strength, target)
    result, account = timed(method, prior, cost, _seeds(truth))
    assert prior.card is not None
    with torch.no_grad():
        measured = -problem(task, truth, "psnr")(result.samples)
    row = {
        "steps": steps,
        **quality(result.samples, truth, prior.card.name),
        "measurement_psnr": measured.tolist(),
        **account,
    }
    return row, result.samples


def plain_row(prior: Prior, truth: Tensor, task: Task) -> tuple[dict[str, Any], Tensor]:
    """The baseline that asks no network, H†y."""
    cost = problem(task, truth, "psnr")
    images = cost.operator.pinv(cost.y)
    assert prior.card is not None
    return quality(images, truth, prior.card.name), images


def untrained(prior: Prior, seed: int = 0) -> Prior:
    """The prior with a network of the same architecture and random weights.

    Every matrix and kernel is drawn from N(0, 1/fan-in), those too that training starts from zero:
    as built, the last layer gives zero and the velocity is that of a Gaussian, which is no random
    network. Biases are zero.

    Args:
        prior: with a network that is a module.
        seed: of the weights.
    """
    network: Any = copy.deepcopy(prior.flow.network)
    draw = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim < 2:
            parameter.data.zero_()
            continue
        weights = torch.randn(parameter.shape, generator=draw) / parameter[0].numel() ** 0.5
        parameter.data.copy_(weights)
    twin = copy.copy(prior)
    twin.flow = type(prior.flow)(network, prior.flow.path, prior.flow.kind)
    return twin


def run(prior: Prior, truth: Tensor, rows: Rows) -> dict[str, Any]:
    """All parts; returns what goes into results.json beside the rows."""
    for task, names in METHODS.items():
        rows.get(f"{task}-plain", partial(plain_row, prior, truth, TASKS[task]))
        for name in names:
            rows.get(f"{task}-{name}", partial(run_row, prior, truth, TASKS[task], name, STEPS))
    for name in SWEPT:
        for steps in COUNTS:
            rows.get(swept(name, steps), partial(run_row, prior, truth, TASKS["sr4"], name, steps))
    random = untrained(prior)
    for task, names in RANDOM.items():
        for name in names:
            rows.get(
                f"random-{task}-{name}", partial(run_row, random, truth, TASKS[task], name, STEPS)
            )
    return {"noise": NOISE, "steps": STEPS, "counts": COUNTS, "verdicts": verdicts(rows.rows)}


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "mnist",
    images: Annotated[int, typer.Option(min=2, help="held-out images, all in one batch")] = 16,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, a table and figures."""
    from ctrlgen.experiments.optimal_control.images_figures import figures, table

    torch.set_num_threads(threads)
    model = ctrlgen.load(prior, device=device)
    truth = held_out(prior, CHOSEN + images).images[CHOSEN:].to(device)
    assert model.card is not None
    key = {"sha256": model.card.sha256, "images": images}
    rows = Rows(cache / "optimal_control" / prior, key)
    about = run(model, truth, rows)
    out = out or RESULTS / f"optimal_control_{prior}"
    results = {"prior": prior, **key, **about, "rows": rows.rows}
    publish(out, results, table(results))
    figures(results, rows.images, truth, out)


if __name__ == "__main__":
    typer.run(main)
