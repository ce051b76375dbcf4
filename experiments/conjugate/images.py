r"""Conjugate integrators in few steps: Tables 1-4 of arXiv 2405.17673, at our size.

    python -m ctrlgen.experiments.conjugate.images
    python -m ctrlgen.experiments.conjugate.images --prior mnist --images 64 --budgets 5,20

Tasks, without noise: a hole of 10 x 10 in the middle, x2 and x4 super-resolution (bicubic) and
Gaussian deblurring (std 1 pixel, circular), at 5, 10 and 20 evaluations of the network by C-ΠGDM
and ΠGDM, C-ΠGFM and ΠGFM (which is OT-ODE of constant weight), DDRM and DPS; λ = 0 throughout.
C-ΠGFM runs twice, with the Jacobian as derived and as the released code has it, to which the
paper's numbers belong.

Every method has nine settings for every task and budget, three strengths and three start times, of
which it takes the one of the highest median PSNR on other held-out images than those of the result:

    C-ΠGDM, ΠGDM     w, and the diffusion time τ of the first step
    C-ΠGFM, ΠGFM     w, and t of the first step
    DDRM, DPS        η or ζ, and t of the first step on the clock of DDPM

The paper reports that the conjugate form is better in 5 evaluations than the plain one in 5, and
not worse than that in 20. Both are asked of the rows, for every task and metric, image by image
(`trials`), and printed as they come out.

Further parts, on the tuning images: median PSNR over λ and w at the fewest evaluations (the paper's
Figure 2, x4); and on the result's, measurements with noise 0.05 in [-1, 1], C-ΠGDM with one factor
per singular value ("exact") beside the approximation of the released code, both tuned likewise.

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the tables and the figures beside it. The published
runs are on 256 x 256 images with far larger priors: the protocol is comparable, the numbers are
not. Fréchet distances depend on the embedder and on the number of images, both named.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import ctrlgen
from ctrlgen.experiments.conjugate.settings import (
    DECAYS,
    FORMS,
    METHODS,
    NOISE,
    NOISY,
    PAIRS,
    SWEEPS,
    SWEPT,
    TASKS,
    WEIGHTS,
    noisy_settings,
    settings,
)
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, integers, names
from ctrlgen.experiments.shared.quality import quality
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.experiments.shared.trials import METRICS, Trial, compare, run, split, tune
from ctrlgen.methods import CPiGDM, CPiGFM, Method
from ctrlgen.operators.base import LinearOperator
from ctrlgen.priors.prior import Prior

__all__ = ["claims", "main"]


def plain_row(prior: Prior, trial: Trial) -> tuple[dict[str, Any], Tensor]:
    """The baseline that asks no network, H†y."""
    images = trial.operator.pinv(trial.y)
    assert prior.card is not None
    return quality(images, trial.truth, prior.card.name), images


def contest(
    prior: Prior,
    both: tuple[Trial, Trial],
    rows: Rows,
    name: str,
    choices: dict[str, Method],
) -> None:
    """The row of a method with the best of its settings; `both` are the result's images, others."""
    rows.get(f"tune-{name}", partial(tune, prior, both[1], choices))
    best = choices[rows.rows[f"tune-{name}"]["best"]]

    def work() -> tuple[dict[str, Any], Tensor]:
        row, images, _ = run(prior, both[0], best)
        return row, images

    rows.get(name, work)


def sweep(prior: Prior, trial: Trial, best: CPiGDM | CPiGFM) -> tuple[dict[str, Any], Tensor]:
    """Median PSNR over λ and w, all else as in the tuned setting.

    Returns:
        The row, with "psnr" a list over λ of lists over w, and the images of the best of them.
    """
    table: list[list[float]] = []
    spent, top, pictures = 0.0, -float("inf"), trial.truth
    for decay in DECAYS:
        line = []
        for weight in WEIGHTS:
            method = replace(best, decay=decay, weight=weight)
            row, images, _ = run(prior, trial, method, whole=False)
            line.append(torch.tensor(row["psnr"]).median().item())
            spent += row["seconds"]
            if line[-1] > top:
                top, pictures = line[-1], images
        table.append(line)
    return {"decays": DECAYS, "weights": WEIGHTS, "psnr": table, "seconds": spent}, pictures


def claims(rows: dict[str, Any], budgets: list[int]) -> list[dict[str, Any]]:
    """What the rows say of the paper's claim, by pair of methods, task and metric.

    Args:
        rows: those of the result, by name; what was not run is left out.
        budgets: evaluations; the least and the greatest are compared.

    Returns:
        For each question "ours", "theirs", "task" and "metric", with "better" (at the least),
        "not_worse" (than theirs at the greatest), the comparisons of both, and "holds".
    """
    least, greatest = min(budgets), max(budgets)
    found = []
    for (ours, theirs), task, metric in product(PAIRS, TASKS, METRICS):
        names = f"{task}-{ours}-{least}", f"{task}-{theirs}-{least}", f"{task}-{theirs}-{greatest}"
        if not all(name in rows for name in names):
            continue
        fast, same, slow = (rows[name] for name in names)
        at_least, at_most = compare(fast, same, metric), compare(fast, slow, metric)
        better, not_worse = at_least["better"], at_most["not_worse"]
        found.append(
            {
                "ours": ours,
                "theirs": theirs,
                "task": task,
                "metric": metric,
                "better": better,
                "not_worse": not_worse,
                "holds": better and not_worse,
                f"against_{least}": at_least,
                f"against_{greatest}": at_most,
            }
        )
    return found


def fill(
    prior: Prior,
    parts: tuple[tuple[Tensor, range], ...],
    rows: Rows,
    tasks: list[str],
    budgets: list[int],
) -> None:
    """All rows; `parts` are the images and seeds of the result and of the tuning."""

    def trials(task: str, noise: float) -> tuple[Trial, Trial]:
        made = [
            Trial.at(truth, seeds, TASKS[task](tuple(truth.shape[1:])), noise)
            for truth, seeds in parts
        ]
        return made[0], made[1]

    for task in tasks:
        both = trials(task, 0.0)
        operator = both[0].operator
        assert isinstance(operator, LinearOperator)
        rows.get(f"{task}-plain", partial(plain_row, prior, both[0]))
        for name, budget in product(METHODS, budgets):
            choices = settings(name, task, operator, budget)
            contest(prior, both, rows, f"{task}-{name}-{budget}", choices)
        if task == SWEPT:
            for name in SWEEPS:
                least = min(budgets)
                choices = settings(name, task, operator, least)
                best = choices[rows.rows[f"tune-{task}-{name}-{least}"]["best"]]
                assert isinstance(best, CPiGDM | CPiGFM)
                rows.get(f"sweep-{name}-{least}", partial(sweep, prior, both[1], best))
        if task in NOISY:
            both = trials(task, NOISE)
            rows.get(f"noisy-{task}-plain", partial(plain_row, prior, both[0]))
            for form, budget in product(FORMS, sorted({min(budgets), max(budgets)})):
                choices = noisy_settings(form, budget)
                contest(prior, both, rows, f"noisy-{task}-{form}-{budget}", choices)


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "cifar10",
    images: Annotated[int, typer.Option(min=2, help="held-out images, all in one batch")] = 32,
    tasks: Annotated[str, typer.Option(help="with commas")] = ",".join(TASKS),
    budgets: Annotated[str, typer.Option(help="evaluations per image, with commas")] = "5,10,20",
    few: Annotated[int, typer.Option(min=1, help="other images, for tuning and the sweep")] = 8,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, tables and figures."""
    from ctrlgen.experiments.conjugate.figures import figures, table

    torch.set_num_threads(threads)
    wanted = names("tasks", tasks, TASKS)
    levels = integers("budgets", budgets, "5,20")
    if levels[0] < 1:
        raise ValueError(f"budgets: expected positive integers, got {budgets!r}")
    parts = tuple((truth.to(device), seeds) for truth, seeds in split(prior, images, few))
    model = ctrlgen.load(prior, device=device)
    assert model.card is not None
    key = {"sha256": model.card.sha256, "images": images, "few": few}
    rows = Rows(cache / "conjugate" / prior, key)
    fill(model, parts, rows, wanted, levels)
    out = out or RESULTS / f"conjugate_{prior}"
    results = {"prior": prior, **key, "tasks": wanted, "budgets": levels, "noise": NOISE}
    results |= {"rows": rows.rows, "claims": claims(rows.rows, levels)}
    publish(out, results, table(results))
    figures(results, rows.images, parts[0][0], out)


if __name__ == "__main__":
    typer.run(main)
