r"""The papers' tables on their own priors: a data set, your copy of its weights, your images.

    python -m ctrlgen.experiments.published.images ffhq-256 \
        --weights ffhq_10m.safetensors --images DIR
    python -m ctrlgen.experiments.published.images afhq-cat-256 \
        --network my_unet.py:build --images DIR --tasks sr2 --methods d-flow,pnp-flow --device cuda

A configuration (`CONFIGURATIONS`) holds the size, the network by name where `from_adm` knows it,
the tasks with the operators of the papers, and for every task the methods at their published
presets; measurement noise is in [-1, 1]. Weights are safetensors (docs/pretrained.md has the lines
that convert). A network of rectified-flow or OT-FM code comes as a function of yours,
FILE.py:NAME: it returns network(x, t) with times that `--time` scales (999 for rectified flow).
Images are the first `--count` files of the folder by name, cropped to the middle and resampled.

Rows are cached as in the other experiments; results.json and table.md lie in `--out`. These priors
are for GPUs: a D-Flow run on one image of 256 x 256 is some 10^4 passes through 10^8 parameters.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from ctrlgen.adapters import from_adm, from_callable
from ctrlgen.domains.images.files import read_image, with_channels
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.experiments.published.settings import (
    CONFIGURATIONS,
    TASKS,
    Configuration,
    Task,
    cost_of,
)
from ctrlgen.experiments.shared.options import Cache, Device, Out, names
from ctrlgen.experiments.shared.rows import Rows, publish
from ctrlgen.methods import Method
from ctrlgen.operators.base import measure
from ctrlgen.plugins import named_in_file
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.status import Status

__all__ = ["main"]

_SUFFIXES = (".png", ".jpg", ".jpeg")


def prior_of(
    configuration: Configuration,
    weights: Path | None,
    network: str | None,
    scale: float,
    device: str,
) -> Prior:
    """The prior of a configuration from weights or from a function of the user's.

    Raises:
        ValueError: unless exactly that is given which the configuration needs.
    """
    if configuration.model is not None and network is None:
        if weights is None:
            raise ValueError("weights: expected a .safetensors file, or network FILE.py:NAME")
        return from_adm(weights, configuration.model).to(device)
    if network is None:
        raise ValueError("network: expected FILE.py:NAME, a function that returns network(x, t)")
    build = named_in_file(network, "network")
    made = build() if weights is None else build(weights)
    shape = (3, configuration.size, configuration.size)
    return Prior(from_callable(made, time=scale), Gaussian(shape)).to(device)


def images_of(folder: Path, count: int, size: int) -> Tensor:
    """The first images of a folder by name, shape (count, 3, size, size) in [-1, 1].

    Raises:
        ValueError: for a folder with fewer images.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in _SUFFIXES)
    if len(files) < count:
        raise ValueError(f"images: expected at least {count} PNG or JPEG files, got {len(files)}")
    return torch.stack(
        [with_channels(read_image(file, (size, size), "images"), 3) for file in files[:count]]
    )


def run_row(
    prior: Prior, truth: Tensor, task: Task, method: Method, batch: int
) -> tuple[dict[str, Any], Tensor]:
    """A method on all images of a task, `batch` at a time; the result does not depend on it."""
    found, spent, diverged = [], torch.zeros(2, dtype=torch.long), 0
    began = time.perf_counter()
    for first in range(0, len(truth), batch):
        part = truth[first : first + batch]
        seeds = range(first, first + len(part))
        operator = task.operator(tuple(part.shape[1:]), seeds)
        y = measure(operator, part, task.noise, seeds)
        cost = cost_of(method, operator, y, task.noise, task.compare)
        result = method(prior, cost, seeds=seeds)
        found.append(result.samples)
        spent += torch.tensor([result.network.forward_rows, result.network.vjp_rows])
        diverged += int((result.status == Status.DIVERGED).sum())
    images = torch.cat(found)
    row = {
        "method": repr(method),
        "noise": task.noise,
        "psnr": psnr(images, truth).tolist(),
        "ssim": ssim(images, truth).tolist(),
        "evaluations": float(spent[0]) / len(truth),
        "vjps": float(spent[1]) / len(truth),
        "diverged": diverged,
        "seconds": time.perf_counter() - began,
    }
    return row, images


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Medians over all images as a Markdown table."""
    lines = [
        "| task | method | PSNR | SSIM | evaluations | vjps | diverged | seconds an image |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        task, method = name.split("--")
        each = row["seconds"] / len(row["psnr"])
        lines.append(
            f"| {task} | {method} | {np.median(row['psnr']):.2f} | {np.median(row['ssim']):.3f} "
            f"| {row['evaluations']:.0f} | {row['vjps']:.0f} | {row['diverged']} | {each:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    configuration: Annotated[str, typer.Argument(help=", ".join(CONFIGURATIONS))],
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of images")],
    weights: Annotated[Path | None, typer.Option(exists=True, help=".safetensors")] = None,
    network: Annotated[str | None, typer.Option(help="FILE.py:NAME that builds a network")] = None,
    time_scale: Annotated[float, typer.Option("--time", help="the network takes t times this")] = 1,
    tasks: Annotated[str, typer.Option(help="with commas; all by default")] = "",
    methods: Annotated[str, typer.Option(help="with commas; all by default")] = "",
    count: Annotated[int, typer.Option(min=2, help="images")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 4,
    out: Out = None,
    cache: Cache = Path("runs"),
    device: Device = "cpu",
) -> None:
    """Run a configuration, or what is left of it, and write results.json and table.md."""
    if configuration not in CONFIGURATIONS:
        raise UnknownName("configuration", configuration, CONFIGURATIONS)
    chosen = CONFIGURATIONS[configuration]
    wanted = names("tasks", tasks, chosen.contests) if tasks else list(chosen.contests)
    known = {name for contest in chosen.contests.values() for name in contest}
    only = set(names("methods", methods, known)) if methods else known
    truth = images_of(images, count, chosen.size).to(device)
    prior = prior_of(chosen, weights, network, time_scale, device)
    source = {"weights": str(weights), "network": network, "time": time_scale}
    key = {**source, "images": str(images), "count": count}
    rows = Rows(cache / "published" / configuration, key)
    for task in wanted:
        for name, method in chosen.contests[task].items():
            if name in only:
                work = partial(run_row, prior, truth, TASKS[task], method, batch)
                rows.get(f"{task}--{name}", work)
    out = out or cache / "published" / configuration
    results = {"configuration": configuration, **key, "rows": rows.rows}
    if any(not math.isfinite(v) for row in rows.rows.values() for v in row["psnr"]):
        typer.echo("some images are not finite; they are in the table as they are", err=True)
    publish(out, results, table(rows.rows))


if __name__ == "__main__":
    typer.run(main)
