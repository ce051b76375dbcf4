r"""Does `ctrlgen compare` on a few images recommend what the matrix of methods found on many?

    python -m ctrlgen.experiments.methods.choice --prior mnist
    python -m ctrlgen.experiments.methods.choice --prior cifar10 --tasks inpaint,denoise

The comparison has the last held-out images, of which a third is for tuning, and strong methods of
several families; the matrix (`ctrlgen.experiments.methods.matrix`) has the first ones, at the usual
settings. Of every task, in dB of the mean PSNR, which is what the comparison ranks by,

    regret          best of the matrix − recommended method at its usual settings, by the matrix
    regret, median  the same of the medians over the images
    regret, chosen  best of the matrix − recommended method at the settings that the comparison
                    chose, on the first images of the matrix where they are not the usual ones

so that all are judged on images that the comparison never had. Below zero is better than the best
of the matrix. The cost is that of the comparison.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import mean, median
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
from ctrlgen.methods.tuned.knobs import FACTORS, USUAL
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json

__all__ = ["METHODS", "asked", "main", "table"]

METHODS = (
    "optimal-control,ndtm,ftm,ancestral-pigdm,ddrm,dps,freedom,ugd,tfg,red-diff,flow-priors,"
    "pnp-flow"
)
WITHIN = 0.3
"""dB of regret that are allowed."""


def asked(matrix: dict[str, Any], task: str, budget: int) -> dict[str, list[float]]:
    """PSNR of the images, by the methods of the matrix at a budget."""
    return {
        name: list(map(float, matrix["rows"][f"{task}-{name}-{budget}"]["psnr"]))
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


def judged(made: Comparison, scores: dict[str, list[float]], chosen: list[float]) -> dict[str, Any]:
    """What a recommendation is worth by the matrix.

    Args:
        made: the comparison, of one budget.
        scores: PSNR of the matrix's images by method.
        chosen: that of the recommended method at the chosen settings, of the first of these images.
    """
    (verdict,) = made.content["verdicts"]
    name, few, every = verdict["best"], len(chosen), len(made.content["problems"]["reported"])
    best = max(scores, key=lambda each: mean(scores[each]))
    passes = {
        "evaluations": made.content["search"]["evaluations"],
        "backward_passes": made.content["search"]["backward_passes"],
    }
    ran = [row for row in made.rows if row.get("problems")]
    for row in ran:
        for count in passes:
            passes[count] += round(row[count] * row["problems"])
    return {
        "recommended": name,
        "setting": next(row["setting"] for row in ran if row["method"] == name),
        "share": verdict["share"],
        "sentence": verdict["sentence"],
        "best_of_matrix": best,
        "best_psnr": mean(scores[best]),
        "regret": mean(scores[best]) - mean(scores[name]),
        "regret_median": max(map(median, scores.values())) - median(scores[name]),
        "regret_chosen": max(mean(each[:few]) for each in scores.values()) - mean(chosen),
        "problems": {row["method"]: row.get("problems", 0) for row in made.rows},
        "left": sum(row["reason"] is None and row["problems"] == every for row in made.rows),
        "cost": {**passes, "seconds": made.content["seconds"]},
        "values": {row["method"]: row.get("mean") for row in made.rows},
    }


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"`ctrlgen compare` on {results['images']} images of {results['prior']}, "
        f"{results['budget']} evaluations, {len(results['methods'])} methods; regret in dB of the "
        f"mean PSNR over the {results['matrix_images']} images of the matrix, of other settings "
        f"than the usual ones over the first {results['checked']}.",
        "",
        "| task | recommended | best in draws | methods left | best of the matrix | regret | "
        "regret, median | regret, chosen | evaluations | backward passes | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task, row in results["tasks"].items():
        share = "" if row["share"] is None else f"{100 * row['share']:.0f} %"
        lines.append(
            f"| {task} | {row['recommended']}, {row['setting']} | {share} | {row['left']} | "
            f"{row['best_of_matrix']} {row['best_psnr']:.2f} | {row['regret']:.2f} | "
            f"{row['regret_median']:.2f} | {row['regret_chosen']:.2f} | "
            f"{row['cost']['evaluations']} | {row['cost']['backward_passes']} | "
            f"{row['cost']['seconds']:.0f} |"
        )
    v = results["verdicts"]
    lines += [
        "",
        f"Within {WITHIN} dB, of {v['tasks']} tasks: {v['within']} at the usual settings, "
        f"{v['within_median']} by the median, {v['within_chosen']} at the chosen ones.",
    ]
    return "\n".join(lines) + "\n"


def main(
    prior: Annotated[str, typer.Option(help="mnist or cifar10")] = "mnist",
    images: Annotated[int, typer.Option(min=3, help="of the comparison, the last ones")] = 16,
    checked: Annotated[
        int, typer.Option(min=1, help="of the matrix, at settings that are not the usual ones")
    ] = 32,
    tasks: Annotated[str, typer.Option(help="of the matrix, with commas")] = ",".join(TASKS),
    methods: Annotated[str, typer.Option(help="names, with commas")] = METHODS,
    budget: Annotated[int, typer.Option(help="evaluations per image")] = 50,
    search: Annotated[
        bool, typer.Option(help="choose settings on a third of the images that are held aside")
    ] = False,
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
    rows = Rows(place / "rows", {"sha256": model.card.sha256, "images": checked, "budget": budget})
    results: dict[str, Any] = {}
    for task in wanted:
        problem = TASKS[task].problem(every[-images:])
        factors = FACTORS if search else ()
        study = Study(model, problem, methods.split(","), [budget], factors=factors)
        made = study.run(place / f"{task}-{images}-{budget}{'' if search else '-usual'}")
        typer.echo(f"{task}: {made.sentences[0]}")
        scores, method = asked(matrix, task, budget), made.best()
        best = next(row for row in made.rows if row["reason"] is None)
        if best["setting"] == USUAL:  # as the matrix has it
            chosen = scores[best["method"]]
        else:
            name, truth = f"{task}-{best['method']}-{best['setting']}", every[:checked]
            rows.get(name, partial(tuned_row, model, TASKS[task], truth, method))
            chosen = rows.rows[name]["psnr"]
        results[task] = judged(made, scores, chosen)
    verdicts = {
        f"within{kind}": sum(row[f"regret{kind}"] <= WITHIN for row in results.values())
        for kind in ("", "_median", "_chosen")
    }
    results = {
        "prior": prior,
        "sha256": model.card.sha256,
        "images": images,
        "budget": budget,
        "search": search,
        "methods": methods.split(","),
        "matrix_images": matrix["images"],
        "checked": checked,
        "tasks": results,
        "verdicts": {"tasks": len(results), **verdicts},
    }
    publish(out or RESULTS / f"method_choice_{prior}", results, table(results))


if __name__ == "__main__":
    typer.run(main)
