r"""NDTM on image inverse problems: Tables 1-3 and 9-12 of arXiv 2502.03686, at our size.

    python -m ctrlgen.experiments.ndtm.images
    python -m ctrlgen.experiments.ndtm.images --prior mnist --tasks sr4,blind-motion

Tasks, all with noise 0.01 in [-1, 1]: x4 super-resolution (bicubic), random inpainting with 90 % of
the pixels removed (other ones in every image), non-linear deblurring, and blind deblurring of an
unknown kernel, Gaussian (std 1.5 pixels) or a shaken camera's (another in every image), in a window
of 9 x 9 with zeros outside of the image. Rows:

    NDTM            with the weights of Proposition 3.1, and with those of the authors' code
    CT-DTM, FTM     the same control of a reverse diffusion's score and of a flow's velocity
    DPS, RED-diff   on all tasks; DDRM and C-ΠGDM where H is linear, at their 20 evaluations
    blind NDTM      beside NDTM that takes the kernel for the identity, and that knows it
    H†y, y          what was measured, no network (y at the image's size, hidden pixels zero)

Every method has four settings, of which it takes the one of the highest median PSNR on other
held-out images than those of the result; settings start from those of `ctrlgen image`. NDTM starts
from the measurement where that resembles the image, as in the paper. A blind kernel is told from
the true one by their total variation distance, half the sum of absolute differences, in [0, 1].

The ablations of the paper's Figure 3 (inner iterations N at as many sampling steps, γ, w_T and the
weighting) change one number of NDTM at a time, on the tuning images. "NDTM better than RED-diff and
DPS on non-linear deblurring" is asked of the rows, image by image (`trials`), and printed as it
comes out; so are the same questions on the other tasks.

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the tables and the figures beside it. The published
runs are on 256 x 256 images with far larger priors: the protocol is comparable, the numbers are
not. Fréchet distances depend on the embedder and on the number of images, both named.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn.functional import interpolate

import ctrlgen
from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.experiments.ndtm.settings import (
    ABLATED,
    BLIND,
    NOISE,
    SHOWN,
    TASKS,
    WINDOW,
    WindowBlur,
    ablations,
    blind_settings,
    methods_for,
    settings,
)
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, names
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.experiments.shared.trials import METRICS, Trial, compare, run, split, tune
from ctrlgen.methods import Method
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.controls.blind import BlindBlur
from ctrlgen.methods.tuned import build
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior

__all__ = ["claims", "main"]


def plain_row(
    prior: Prior, trial: Trial, images: Tensor, **more: Any
) -> tuple[dict[str, Any], Tensor]:
    """A baseline that asks no network."""
    assert prior.card is not None
    row = {
        **quality(images, trial.truth, prior.card.name),
        "measurement_psnr": (-NegativePSNR(trial.operator, trial.y)(images)).tolist(),
        **more,
    }
    return row, images


def blind_row(
    prior: Prior, trial: Trial, method: Method, cost: CostLike, kernels: Tensor | None = None
) -> tuple[dict[str, Any], Tensor]:
    """A row of blind deblurring by a method that believes in some kernels, or finds its own."""
    row, images, result = run(prior, trial, method, cost)
    if kernels is None:
        kernels = result.controls
        row["kernels"] = _drawn(kernels)
    assert isinstance(trial.operator, WindowBlur)
    row["kernel_error"] = (kernels - trial.operator.kernel).abs().flatten(1).sum(1).div(2).tolist()
    return row, images


def _drawn(kernels: Tensor) -> list[list[list[float]]]:
    """The kernels of the images in the figure, in few digits."""
    return [[[round(w, 4) for w in line] for line in kernel] for kernel in kernels[:SHOWN].tolist()]


def _row(prior: Prior, trial: Trial, method: Method, whole: bool) -> tuple[dict[str, Any], Tensor]:
    row, images, _ = run(prior, trial, method, whole=whole)
    return row, images


def known_kernel(
    prior: Prior, both: tuple[Trial, Trial], rows: Rows, task: str, evaluations: int
) -> None:
    """All rows of a task whose operator is known; `both` are the result's images and others."""
    trial, other = both
    y, shape = trial.y, trial.truth.shape[2:]
    shown = y if y.shape[2:] == shape else interpolate(y, size=tuple(shape), mode="nearest")
    inverse = trial.operator.pinv(y)
    rows.get(f"{task}-measurement", partial(plain_row, prior, trial, shown))
    if not torch.equal(inverse, shown):
        rows.get(f"{task}-pinv", partial(plain_row, prior, trial, inverse))
    case = trial.case
    for name in methods_for(task):
        choices = settings(name, case, evaluations)
        rows.get(f"tune-{task}-{name}", partial(tune, prior, other, choices))
        best = choices[rows.rows[f"tune-{task}-{name}"]["best"]]
        rows.get(f"{task}-{name}", partial(_row, prior, trial, best, True))
    if task not in ABLATED:
        return
    base = build("ndtm", case, evaluations=evaluations)
    for axis, value, method in ablations(case, evaluations):
        word = "base" if method == base else f"{axis}-{value}"
        rows.get(f"ablation-{task}-{word}", partial(_row, prior, other, method, False))


def unknown_kernel(
    prior: Prior, both: tuple[Trial, Trial], rows: Rows, task: str, evaluations: int
) -> None:
    """All rows of a blind task; `both` are the result's images and others."""
    trial = both[0]
    assert isinstance(trial.operator, WindowBlur)
    kernels = _drawn(trial.operator.kernel)
    rows.get(f"{task}-measurement", partial(plain_row, prior, trial, trial.y, kernels=kernels))
    nonblind = settings("ndtm", trial.case, evaluations)
    for name in ("blind", "delta", "known"):
        choices = blind_settings(evaluations) if name == "blind" else nonblind
        costs: list[CostLike] = []
        believed: list[Tensor | None] = []
        for part in both:
            blind = BlindBlur(part.y, WINDOW, NOISE)  # believes in the identity at first
            assert isinstance(part.operator, WindowBlur)
            kernel = blind.kernel if name == "delta" else part.operator.kernel
            nonblind_cost = SquaredError(WindowBlur(kernel), part.y, NOISE)
            costs.append(blind if name == "blind" else nonblind_cost)
            believed.append(None if name == "blind" else kernel)
        rows.get(f"tune-{task}-{name}", partial(tune, prior, both[1], choices, costs[1]))
        best = choices[rows.rows[f"tune-{task}-{name}"]["best"]]
        rows.get(f"{task}-{name}", partial(blind_row, prior, trial, best, costs[0], believed[0]))


def claims(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What the rows say of the paper's ordering, by task, baseline and metric.

    Args:
        rows: those of the result, by name; tasks that were not run are left out.

    Returns:
        For each question "task", "ours", "theirs", "metric", the differences of `trials.compare`
        and "holds"; "paper" where it is the ordering that the paper reports.
    """
    asked = [(task, "ndtm", theirs) for task in TASKS for theirs in ("red-diff", "dps")]
    asked += [(task, "blind", theirs) for task in BLIND for theirs in ("measurement", "delta")]
    found = []
    for task, ours, theirs in asked:
        first, second = rows.get(f"{task}-{ours}"), rows.get(f"{task}-{theirs}")
        if first is None or second is None:
            continue
        for metric in METRICS:
            told = compare(first, second, metric)
            question = {"task": task, "ours": ours, "theirs": theirs, "metric": metric}
            paper = task == "nonlinear-deblur"
            found.append({**question, "paper": paper, **told, "holds": told["better"]})
    return found


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "cifar10",
    images: Annotated[int, typer.Option(min=2, help="held-out images, all in one batch")] = 32,
    tasks: Annotated[str, typer.Option(help="with commas")] = ",".join([*TASKS, *BLIND]),
    evaluations: Annotated[int, typer.Option(min=4, help="per image, at most")] = 80,
    blind: Annotated[int, typer.Option(min=6, help="the same, where the kernel is unknown")] = 120,
    few: Annotated[int, typer.Option(min=1, help="other images: tuning and ablations")] = 5,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, tables and figures."""
    from ctrlgen.experiments.ndtm.figures import figures, table

    torch.set_num_threads(threads)
    wanted = names("tasks", tasks, [*TASKS, *BLIND])
    parts = split(prior, images, few)
    model = ctrlgen.load(prior, device=device)
    assert model.card is not None
    key = {"sha256": model.card.sha256, "images": images, "few": few}
    key |= {"evaluations": evaluations, "blind": blind}
    rows = Rows(cache / "ndtm_images" / prior, key)
    for task in wanted:
        trials = []
        for truth, seeds in parts:
            operator: Operator
            if task in TASKS:
                operator = TASKS[task].operator(tuple(truth.shape[1:]), seeds)
            else:
                operator = WindowBlur(BLIND[task](seeds))
            trials.append(Trial.at(truth.to(device), seeds, operator.to(device), NOISE))
        both = (trials[0], trials[1])
        if task in TASKS:
            known_kernel(model, both, rows, task, evaluations)
        else:
            unknown_kernel(model, both, rows, task, blind)
    out = out or RESULTS / f"ndtm_{prior}"
    results = {"prior": prior, **key, "noise": NOISE, "tasks": wanted, "rows": rows.rows}
    results["claims"] = claims(rows.rows)
    publish(out, results, table(results))
    figures(results, rows.images, parts[0][0], out)


if __name__ == "__main__":
    typer.run(main)
