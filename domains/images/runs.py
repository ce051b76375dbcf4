"""A restoration run: batch by batch into files, and what is finished is kept when it is cut off.

Images are written as their batches end, into a folder that takes its name at the end. A run that is
interrupted, or broken by an error, after something was finished leaves that, with `complete` false
and the seeds that are missing in `result.json`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.costs.problems import psnr_of
from ctrlgen.domains.images.doubts import of_result
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.domains.images.restoration import Problem
from ctrlgen.domains.images.tiles import tiled
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import Event, Observer
from ctrlgen.rows.counts import Evaluations
from ctrlgen.rows.errors import Doubtful, partial_of
from ctrlgen.rows.status import Status
from ctrlgen.runs.interrupts import CutOff
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.outputs import output_folder

__all__ = ["SHOWN", "Solved", "restore", "target_of"]

SHOWN = 12
"""Reconstructions in the figure."""

_HISTORIES = 256
"""Samples whose course is written; those of more would be most of the file."""


@dataclass
class Solved:
    """What a run has finished so far.

    Attributes:
        rows: of `result.json`, one per sample.
        parts: results of the batches, without their images.
        images: the first `SHOWN` of them.
        courses: PSNR of the measurement and evaluations of the first samples, by iteration.
        seconds: of the methods.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: list[Result] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    courses: dict[str, list[list[float]]] = field(
        default_factory=lambda: {"measurement_psnr": [], "evaluations": []}
    )
    seconds: float = 0.0

    def add(self, problem: Problem, method: Method, result: Result, place: Path) -> None:
        """Note a batch, and write its images."""
        cost = problem.cost(method, len(result))
        rows = _rows(problem, psnr_of(cost, result.costs), result)
        for row, image in zip(rows, result.samples, strict=True):
            if bool(image.isfinite().all()):
                write_image(place / f"reconstruction-{row['seed']}.png", image)
            else:
                row["file"] = None  # black squares would hide it
        self.rows += rows
        self.images += list(result.samples[: max(0, SHOWN - len(self.images))])
        self.parts.append(replace(result, samples=result.samples[:, :0], history={}))
        history = result.history
        left = max(0, _HISTORIES - len(self.courses["evaluations"]))
        if "cost" in history:
            self.courses["measurement_psnr"] += psnr_of(cost, history["cost"]).T[:left].tolist()
            self.courses["evaluations"] += history["evaluations"].T[:left].tolist()

    @property
    def result(self) -> Result:
        """All batches as one, without images and courses."""
        first = self.parts[0]
        none = first.costs.new_zeros(sum(len(part) for part in self.parts), 0)
        network = sum((part.network for part in self.parts), Evaluations())
        joined: dict[str, Any] = {"samples": none, "controls": none, "network": network}
        for name in first.per_sample:
            if name not in joined:
                joined[name] = torch.cat([getattr(part, name) for part in self.parts])
        return replace(first, **joined)


def restore(
    problem: Problem,
    method: Method,
    seeds: list[int],
    folder: Path,
    *,
    label: int | None = None,
    batch: int = 64,
    **about: Any,
) -> dict[str, Any]:
    """Solve, and write images, figure and `result.json` into a new folder.

    Args:
        problem: what is to be solved.
        method: how.
        seeds: one per reconstruction.
        folder: to write.
        label: class of the image.
        batch: reconstructions at a time; it changes nothing but memory and time.
        **about: what else `result.json` says.

    Returns:
        What `result.json` holds.

    Raises:
        CutOff: after something was finished and written.
        ValueError: if not a single reconstruction is a number.
    """
    done, cause = Solved(), None
    with output_folder(folder) as place:
        try:
            for result in _solved(problem, method, seeds, label, batch, done):
                done.add(problem, method, result, place)
        except BaseException as error:
            partial = partial_of(error)
            if isinstance(partial, Result):
                with suppress(Exception):  # the error that is told is the first one
                    done.add(problem, method, partial, place)
            if not done.rows:
                raise
            cause = error
        if all(row["file"] is None for row in done.rows):
            raise ValueError(f"prior: no sample of {problem.task} is a number; see its network")
        about = {**about, "label": label}
        content = _content(problem, method, done, seeds, complete=cause is None, about=about)
        decibels = torch.tensor([row["measurement_psnr"] for row in done.rows])
        for text in of_result(decibels, problem.gain * problem.noise):
            console.warn(text)
            content["warnings"].append(text)
        _write(problem, done, content, place)
    if cause is not None:
        raise CutOff(cause, content) from cause
    return content


def _solved(
    problem: Problem, method: Method, seeds: list[int], label: int | None, batch: int, done: Solved
) -> Iterator[Result]:
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        cost = problem.cost(method, len(part))
        title = problem.task
        if len(part) < len(seeds):
            title += f" {start + 1} to {start + len(part)} of {len(seeds)}"
        tiles = 1 if problem.tiles is None else len(problem.tiles.places)
        rows = [seed for seed in part for _ in range(tiles)]
        begun = time.perf_counter()
        try:
            with console.SampleProgress(
                title, rows, unit="dB", sign=-1, target=target_of(method)
            ) as progress:
                watch = _in_decibels(progress, cost)
                with warnings.catch_warnings():  # of the target `doubts` has spoken
                    warnings.simplefilter("ignore", Doubtful)
                    result = _batch(problem, method, part, label, cost, watch)
        finally:
            done.seconds += time.perf_counter() - begun
        yield result


def _batch(
    problem: Problem,
    method: Method,
    seeds: list[int],
    label: int | None,
    cost: Any,
    watch: Observer,
) -> Result:
    prior = problem.prior
    if problem.tiles is not None:
        return tiled(
            method, problem.tiles, prior, problem.operator, problem.y, problem.sigma, seeds=seeds,
            label=label, observer=watch,
        )  # fmt: skip
    if label is not None:
        prior = prior.bind(label=torch.full((len(seeds),), label))
    return method(prior, cost, seeds=seeds, observer=watch)


def target_of(method: Method) -> float | None:
    """PSNR of the measurement at which a sample stops, in dB, for a method that has one."""
    target = getattr(method, "target", None)
    return None if target is None else -target


def _in_decibels(observer: Observer, cost: Any) -> Observer:
    """An observer that sees −PSNR of the measurement, whatever the form of the cost."""

    def observe(event: Event) -> None:
        observer(event._replace(monitor=-psnr_of(cost, event.monitor)))

    return observe


def _rows(problem: Problem, decibels: Tensor, result: Result) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {
        "seed": result.seeds.tolist(),
        "measurement_psnr": decibels.tolist(),
        "status": [Status(code).label for code in result.status.tolist()],
        "iterations": result.iterations.tolist(),
        "evaluations": result.evaluations.tolist(),
        "backward_passes": result.backward_passes.tolist(),
        "objective_calls": result.objective_calls.tolist(),
    }
    if problem.truth is not None:
        columns |= _scores(result.samples, problem.truth.expand_as(result.samples))
    columns["file"] = [f"reconstruction-{seed}.png" for seed in columns["seed"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _scores(images: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """PSNR, and SSIM where its window fits into the images."""
    scores = {"psnr": psnr(images, truth).tolist()}
    if min(truth.shape[-2:]) >= 11:
        scores["ssim"] = ssim(images, truth).tolist()
    return scores


def _content(
    problem: Problem,
    method: Method,
    done: Solved,
    seeds: list[int],
    *,
    complete: bool,
    about: dict[str, Any],
) -> dict[str, Any]:
    card, result = problem.prior.card, done.result
    there = {row["seed"] for row in done.rows}
    content: dict[str, Any] = {
        "task": problem.task,
        **about,
        "warnings": list(about.get("warnings", ())),
        "complete": complete,
        "missing": [seed for seed in seeds if seed not in there],
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "operator": type(problem.operator).__name__,
        "noise": problem.noise,
        "rounding": problem.rounding,
        "compare": problem.compare,
        "tiles": None if problem.tiles is None else problem.tiles.places.tolist(),
        "method": result.method,
        "target_psnr": target_of(method),
        "seconds": round(done.seconds, 3),
        "samples": done.rows,
        "summary": result.summary(),
        "history": done.courses,
    }
    if problem.truth is not None:
        plain = problem.operator.pinv(problem.y)
        content["pseudo_inverse"] = {k: v[0] for k, v in _scores(plain, problem.truth).items()}
    return content


def _write(problem: Problem, done: Solved, content: dict[str, Any], place: Path) -> None:
    from ctrlgen.domains.images.figures import restoration_figure

    write_image(place / "measurement.png", problem.y[0])
    restoration_figure(place / "figure.png", problem, done.images, content)
    write_json(place / "result.json", content)
