"""The demonstration: four problems on held-out images, solved in about a minute on two cores.

Three inverse problems, where the measurement is met to a target PSNR, and one cost of a classifier:
draws from the prior, steered from one and the same seed to every digit. The prior is told which
digit has the hole.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.commands.report import announce
from ctrlgen.costs import ClassifierCost, NegativePSNR
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.domains.images.operators import Inpainting, SuperResolution
from ctrlgen.domains.images.panel import SCENES
from ctrlgen.methods import DFlow
from ctrlgen.methods.regularizers import Chi
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import GuidedStart, Refined
from ctrlgen.operators.base import LinearOperator, measure
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.documents import write_whole
from ctrlgen.priors.prior import load
from ctrlgen.rows.status import Status
from ctrlgen.runs.interrupts import exit_code
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.outputs import output_folder, reserved
from ctrlgen.runs.shards import packed

__all__ = ["Scene", "run"]

_COUNT = 6
_BUDGET = 120  # objective calls per sample
_STEER_SEEDS = (0, 1)
_CONFIDENT = 0.01  # nats: a probability of 99 %


@dataclass
class Scene:
    """One problem of the demonstration and what came of it.

    Attributes:
        title: heading of its panel.
        rows: images by row, each (N, C, H, W), under the words beside them.
        result: of D-Flow.
        target: in the units of `courses`.
        seconds: of the run.
        numbers: for the table and the JSON.
        operator: of the measurement in the first row, to tint what it hides.
    """

    title: str
    rows: dict[str, Tensor]
    result: Result
    target: float
    seconds: float
    numbers: dict[str, Any] = field(default_factory=dict)
    operator: LinearOperator | None = None


def run(out: Path | None = None, *, overwrite: bool = False, json: bool = False) -> Path:
    """Solve all problems, then write `figure.png` and `result.json` and show a table.

    Args:
        out: folder to write; a new one under runs/ by default.
        overwrite: replace earlier results there.
        json: print the numbers instead of the table.

    Returns:
        The figure's path.
    """
    from ctrlgen.domains.images.demo_figure import demo_figure

    with reserved(out, "demo", overwrite=overwrite) as folder:
        begun, problems, cause = time.perf_counter(), _scenes(), None
        scenes: list[Scene] = []
        try:
            for problem in problems:
                scenes.append(problem())
        except KeyboardInterrupt as stop:
            if not scenes:
                raise
            cause = stop
        content: dict[str, Any] = {
            "complete": cause is None,
            "seconds": round(time.perf_counter() - begun, 1),
            "processor_seconds": round(time.process_time(), 1),
            "threads": torch.get_num_threads(),
            "scenes": {scene.title: scene.numbers for scene in scenes},
        }
        with output_folder(folder) as place:
            if cause is None:
                demo_figure(place / "figure.png", scenes, content["seconds"])
            write_whole(place / SCENES, packed(_tensors(scenes)))
            write_json(place / "result.json", content)
    if cause is not None:
        there = f"{len(scenes)} of {len(problems)} problems"
        console.warn(f"interrupted; {there} are in {folder / 'result.json'}")
        raise typer.Exit(exit_code(cause))
    figure = folder / "figure.png"
    if json:
        print(console.dumps({"figure": figure, **content}))
    else:
        _show(scenes, content["seconds"])
        console.say(f"\n{figure}")
    announce(folder)
    return figure


def _scenes() -> list[Callable[[], Scene]]:
    return [
        lambda: _restore("Twice the size", "mnist", lambda shape, seeds: SuperResolution(2), 45),
        lambda: _restore(
            "A hole in the middle",
            "mnist",
            lambda shape, seeds: Inpainting.centre(10, shape),
            40,
            told=True,
        ),
        lambda: _restore("Seven pixels of ten missing", "cifar10", _scattered, 40),
        _steer,
    ]


def _scattered(shape: tuple[int, ...], seeds: range) -> LinearOperator:
    return Inpainting.random(0.7, shape, seeds)


def _restore(
    title: str,
    name: str,
    operator: Callable[[tuple[int, ...], range], LinearOperator],
    target: int,
    told: bool = False,
) -> Scene:
    """Restore the first held-out images of a data set from noiseless measurements."""
    prior, seeds = load(name), range(_COUNT)
    truth, label, _ = held_out(name, _COUNT)
    prior = prior.bind(label=label) if told else prior
    made = operator(tuple(truth.shape[1:]), seeds)
    cost = NegativePSNR(made, measure(made, truth))
    method = DFlow(
        initializer=Refined(GuidedStart(temperature=0.0, start=0.3)),
        optimizer=LBFGS(max_iterations=400, max_evaluations=_BUDGET),
        target=-target,
    )
    result, seconds = _timed(title, method, prior, cost, seeds, unit="dB", sign=-1, goal=target)
    plain = made.pinv(cost.y)
    scores = {
        "psnr": psnr(result.samples, truth),
        "psnr_pseudo_inverse": psnr(plain, truth),
        "ssim": ssim(result.samples, truth),
        "ssim_pseudo_inverse": ssim(plain, truth),
        "measurement_psnr": -result.costs,
    }
    scene = Scene(
        title,
        {"seen": cost.y, "restored": result.samples, "truth": truth},
        result,
        target,
        seconds,
        operator=made,
    )
    scene.numbers = {
        "prior": name,
        "told": told,
        "operator": type(made).__name__,
        **_about(scene),
        **scores,
    }
    return scene


def _steer() -> Scene:
    """From each of a few seeds, samples that a classifier takes for each of the ten digits."""
    from ctrlgen.domains.images.classifier import load_classifier

    prior, classifier = load("mnist"), load_classifier()
    seeds = [seed for seed in _STEER_SEEDS for _ in range(10)]
    label = torch.arange(10).repeat(len(_STEER_SEEDS))
    method = DFlow(
        optimizer=LBFGS(max_iterations=100, max_evaluations=_BUDGET // 2),
        regularizer=Chi(0.01),
        target=_CONFIDENT,
    )
    title, cost = "One seed, every digit", ClassifierCost(classifier, label)
    with warnings.catch_warnings():  # one seed for ten digits is what is shown
        warnings.filterwarnings("ignore", message="seeds: ")
        result, seconds = _timed(
            title, method, prior, cost, seeds, unit="nats", sign=1, goal=_CONFIDENT
        )
    drawn = prior.sample(_STEER_SEEDS, prior.solver(3))  # that of D-Flow
    rows = {
        f"seed {seed}": torch.cat((plain[None], steered))
        for seed, plain, steered in zip(_STEER_SEEDS, drawn, result.samples.split(10), strict=True)
    }
    sure = classifier(result.samples).softmax(1).gather(1, label[:, None]).squeeze(1)
    scene = Scene(title, rows, result, _CONFIDENT, seconds)
    scene.numbers = {"prior": "mnist", "probability": sure, **_about(scene)}
    return scene


def _timed(
    title: str,
    method: DFlow,
    prior: Any,
    cost: Any,
    seeds: Any,
    *,
    unit: str,
    sign: int,
    goal: float,
) -> tuple[Result, float]:
    begun = time.perf_counter()
    with console.SampleProgress(title, seeds, unit=unit, sign=sign, target=goal) as progress:
        result = method(prior, cost, seeds=seeds, observer=progress)
    seconds = time.perf_counter() - begun
    console.log.info("%s: done in %.0f s", title, seconds)
    return result, seconds


def _about(scene: Scene) -> dict[str, Any]:
    return {
        "target": scene.target,
        "reached": int(scene.result.converged.sum()),
        "samples": len(scene.result),
        "evaluations": scene.result.evaluations,
        "objective_calls": scene.result.objective_calls,
        "seconds": round(scene.seconds, 1),
        "status": [Status(code).label for code in scene.result.status.tolist()],
        "seeds": scene.result.seeds,
        "summary": scene.result.summary(),
    }


def _tensors(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """What a report shows of the scenes, by the number of each."""
    tensors: dict[str, Tensor] = {}
    for place, scene in enumerate(scenes):
        result = scene.result
        own = {"samples": result.samples, "costs": result.costs}
        own |= {f"history.{name}": result.history[name] for name in ("cost", "evaluations")}
        if scene.operator is not None:
            own |= {"measurement": scene.rows["seen"], "truth": scene.rows["truth"]}
            own["baseline"] = scene.operator.pinv(scene.rows["seen"])
        tensors |= {f"{place}.{name}": value for name, value in own.items()}
    return tensors


def _show(scenes: list[Scene], seconds: float) -> None:
    rows = []
    for scene in scenes:
        n = scene.numbers
        middle = int(n["objective_calls"].median())
        if "psnr" in n:
            quality = f"{float(n['psnr'].median()):.1f}"
            plain = f"{float(n['psnr_pseudo_inverse'].median()):.1f}"
        else:
            quality, plain = f"p = {float(n['probability'].median()):.3f}", ""
        done = f"{n['reached']}/{n['samples']}"
        rows.append(
            (
                scene.title,
                n["prior"],
                done,
                str(middle),
                quality,
                f"[dim]{plain}[/]",
                f"{n['seconds']:.0f}",
            )
        )
    columns = (
        "problem",
        "prior",
        "at target>",
        "objective calls>",
        "result (dB)>",
        "H†y (dB)>",
        "time (s)>",
    )
    console.stdout.print(
        console.table(f"D-Flow on held-out images, {seconds:.0f} s", columns, rows)
    )
    console.stdout.print("[dim]medians; H†y is the pseudo-inverse of the measurement[/]")
