r"""Does `ctrlgen compare` on a few images recommend what the matrix of methods found on many?

    python -m ctrlgen.experiments.methods.choice --prior mnist
    python -m ctrlgen.experiments.methods.choice --prior cifar10 --tasks inpaint,denoise

The comparison has the last held-out images, of which a third is for tuning, and strong methods of
several families; the matrix (`ctrlgen.experiments.methods.matrix`) has the first ones, at the usual
settings. Of every task, in dB of the median PSNR over the matrix's images,

    regret        best of the matrix − recommended method at its usual settings, by the matrix
    regret tuned  best of the matrix − recommended method at the settings that the comparison chose,
                  run on the matrix's images

so that both are judged on images that the comparison never had. Below zero is better than the best
of the matrix. The cost is that of the comparison.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import ctrlgen
from ctrlgen.comparison import Comparison, Study
from ctrlgen.domains.images.data import held_out
from ctrlgen.experiments.methods.matrix import TASKS, Task
from ctrlgen.experiments.shared.options import Cache, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish, timed
from ctrlgen.experiments.shared.trials import psnr
from ctrlgen.methods import Method
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json

__all__ = ["METHODS", "asked", "main", "table"]

METHODS = "dps,tfg,ugd,freedom,ddrm,ancestral-pigdm,optimal-control,flow-priors"
WITHIN = 0.3
"""dB of regret that are allowed."""


def asked(matrix: dict[str, Any], task: str, budget: int) -> dict[str, float]:
    """Median PSNR of the methods of the matrix at a budget."""
    return {
        name: median(map(float, matrix["rows"][f"{task}-{name}-{budget}"]["psnr"]))
        for name in matrix["methods"]
        if f"{task}-{name}-{budget}" in matrix["rows"]
    }


def tuned_row(
    prior: Prior, task: Task, truth: Tensor, method: Method
) -> tuple[dict[str, Any], Tensor]:
    """A method with the settings of the comparison on the matrix's images."""
    problem = task.problem(truth)
    result, account = timed(method, prior, problem.cost(method), range(len(truth)))
    return {"psnr": psnr(result.samples, truth).tolist(), **account}, result.samples


def judged(
    made: Comparison, matrix: dict[str, Any], task: str, budget: int, row: dict[str, Any]
) -> dict[str, Any]:
    """What a recommendation is worth by the matrix."""
    (verdict,) = made.content["verdicts"]
    scores = asked(matrix, task, budget)
    best = max(scores, key=lambda name: scores[name])
    setting = next(r["setting"] for r in made.rows if r["method"] == verdict["best"])
    passes = {
        "evaluations": made.content["search"]["evaluations"],
        "backward_passes": made.content["search"]["backward_passes"],
    }
    for ran in made.rows:
        if ran["reason"] is None:
            for name in passes:
                passes[name] += round(ran[name] * len(ran["values"]))
    return {
        "recommended": verdict["best"],
        "setting": setting,
        "share": verdict["share"],
        "sentence": verdict["sentence"],
        "best_of_matrix": best,
        "best_psnr": scores[best],
        "regret": scores[best] - scores[verdict["best"]],
        "regret_tuned": scores[best] - median(row["psnr"]),
        "cost": {**passes, "seconds": made.content["seconds"]},
        "values": {r["method"]: r.get("mean") for r in made.rows},
    }


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"`ctrlgen compare` on {results['images']} images of {results['prior']}, "
        f"{results['budget']} evaluations; regret in dB of the median PSNR over the "
        f"{results['matrix_images']} images of the matrix.",
        "",
        "| task | recommended | best in draws | best of the matrix | regret | regret tuned | "
        "evaluations | backward passes | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, row in results["tasks"].items():
        share = "" if row["share"] is None else f"{100 * row['share']:.0f} %"
        lines.append(
            f"| {task} | {row['recommended']}, {row['setting']} | {share} | "
            f"{row['best_of_matrix']} {row['best_psnr']:.2f} | {row['regret']:.2f} | "
            f"{row['regret_tuned']:.2f} | {row['cost']['evaluations']} | "
            f"{row['cost']['backward_passes']} | {row['cost']['seconds']:.0f} |"
        )
    v = results["verdicts"]
    lines += [
        "",
        f"Within {WITHIN} dB: {v['within']} of {v['tasks']} tasks at the usual settings, "
        f"{v['within_tuned']} at the chosen ones.",
    ]
    return "\n".join(lines) + "\n"


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "mnist",
    images: Annotated[int, typer.Option(min=3, help="of the comparison, the last ones")] = 12,
    tasks: Annotated[str, typer.Option(help="of the matrix, with commas")] = ",".join(TASKS),
    methods: Annotated[str, typer.Option(help="names, with commas")] = METHODS,
    budget: Annotated[int, typer.Option(help="evaluations per image")] = 50,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
) -> None:
    """Compare, ask the matrix, and write results.json and a table."""
    torch.set_num_threads(threads)
    wanted = names("tasks", tasks, TASKS)
    model = ctrlgen.load(prior)
    every = held_out(prior).images
    matrix = read_json(RESULTS / f"method_matrix_{prior}" / "results.json")
    if images + matrix["images"] > len(every):
        raise ValueError(f"images: expected at most {len(every) - matrix['images']}, got {images}")
    assert model.card is not None
    place = cache / "method_choice" / prior
    rows = Rows(place / "rows", {"sha256": model.card.sha256, "images": images, "budget": budget})
    found: dict[str, Any] = {}
    for task in wanted:
        study = Study(model, TASKS[task].problem(every[-images:]), methods.split(","), [budget])
        made = study.run(place / f"{task}-{images}-{budget}")
        typer.echo(f"{task}: {made.sentences[0]}")
        truth, name = every[: matrix["images"]], f"{task}-{made.content['verdicts'][0]['best']}"
        rows.get(name, partial(tuned_row, model, TASKS[task], truth, made.best()))
        found[task] = judged(made, matrix, task, budget, rows.rows[name])
    results = {
        "prior": prior,
        "sha256": model.card.sha256,
        "images": images,
        "budget": budget,
        "methods": methods.split(","),
        "matrix_images": matrix["images"],
        "tasks": found,
        "verdicts": {
            "tasks": len(found),
            "within": sum(row["regret"] <= WITHIN for row in found.values()),
            "within_tuned": sum(row["regret_tuned"] <= WITHIN for row in found.values()),
        },
    }
    publish(out or RESULTS / f"method_choice_{prior}", results, table(results))


if __name__ == "__main__":
    typer.run(main)
