"""A restoration as a run: from the options of a command to a job, and from shards to files.

Reconstructions of the same measurement, one per seed, are the samples. A run that is interrupted,
or broken by an error, after something was finished leaves that, with `complete` false and the seeds
that are missing in `result.json`; `ctrlgen resume` goes on with it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.costs.problems import psnr_of
from ctrlgen.domains.images.doubts import of_result
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.domains.images.options import Options
from ctrlgen.domains.images.restoration import Problem, operator_of, pose
from ctrlgen.domains.images.tiles import tiled
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import Event, Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import Doubtful
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job, Metric
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.schema import Record
from ctrlgen.runs.store import Rows, Store

__all__ = ["SHOWN", "Restoration", "Restorer", "target_of"]

SHOWN = 12
"""Reconstructions in the figure."""

_HISTORIES = 256
"""Samples whose course is written; those of more would be most of the file."""


@dataclass(frozen=True)
class Restorer:
    """A method on a problem, on tiles where it has some.

    Attributes:
        problem: what is solved.
        method: how.
        label: class of the image.
    """

    problem: Problem
    method: Method
    label: int | None = None

    def __call__(
        self, prior: Prior, cost: Any, *, seeds: Sequence[int], observer: Observer | None = None
    ) -> Result:
        """Reconstructions of some seeds; of the target `doubts` has spoken."""
        problem = self.problem
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Doubtful)
            if problem.tiles is None:
                return self.method(prior, cost, seeds=seeds, observer=observer)
            return tiled(
                self.method, problem.tiles, prior, problem.operator, problem.y, problem.sigma,
                seeds=seeds, label=self.label, observer=observer,
            )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A metric of images, as a report shows it.

    Attributes:
        name: "psnr", "ssim" or "measurement_psnr".
        problem: with the truth.
        method: whose form of the cost that of the measurement has.
        unit: of the number.
        better: which end is the better one.
    """

    name: str
    problem: Problem
    method: Method
    unit: str | None = "dB"
    better: str = "higher"

    def __call__(self, images: Tensor) -> Tensor:
        """One number per image (b, C, H, W)."""
        if self.name == "measurement_psnr":
            cost = self.problem.cost(self.method, len(images))
            return psnr_of(cost, cost(images))
        assert self.problem.truth is not None
        score = psnr if self.name == "psnr" else ssim
        return score(images, self.problem.truth.expand_as(images))


@dataclass(frozen=True)
class Restoration:
    """Reconstructions of one file.

    Attributes:
        task: "inpaint", "upsample", "deblur" or "denoise".
        file: the measurement, or the clean image.
        settings: the command's own options.
        options: those that all restorations share.
        compare: what the cost compares.
    """

    task: str
    file: Path
    settings: dict[str, Any]
    options: Options
    compare: Any = "measurement"

    what: ClassVar[str] = "reconstructions"

    @classmethod
    def of(
        cls, task: str, file: Path, settings: dict[str, Any], options: Options, compare: Any
    ) -> Restoration:
        """A restoration by what was typed, whose paths hold from any folder."""
        prior = options.prior
        if prior is not None and prior.endswith(".json"):
            prior = str(Path(prior).absolute())
        truth = None if options.truth is None else options.truth.absolute()
        own = {k: v.absolute() if isinstance(v, Path) else v for k, v in settings.items()}
        lasting = replace(
            options, prior=prior, truth=truth, out=None, overwrite=False, json=False,
            workers=None, shard=None, ray=None, json_lines=False,
            batch=str(options.size(len(seeds_of(options.seeds, options.samples)))),
        )  # fmt: skip
        return cls(task, file.absolute(), own, lasting, compare)

    def problem(self) -> Problem:
        """What is to be solved; reads the files."""
        options = self.options
        return pose(
            self.task,
            self.file,
            operator_of(self.task, self.settings, options.fit),
            scale=self.settings.get("factor", 1),
            prior=options.prior,
            label=options.label,
            degrade=options.degrade,
            noise=options.noise,
            truth=options.truth,
            fit=options.fit,
            device=console.device_named(options.device),
            compare=self.compare,
            tile=options.tile,
            overlap=options.overlap,
        )

    def job(self) -> Job:
        """The job.

        Raises:
            ValueError: for files, sizes or options that do not fit together.
        """
        from ctrlgen.domains.images.commands import method_of

        options, problem = self.options, self.problem()
        name, evaluations = method_of(options, problem)
        method = problem.method(
            name,
            device=options.device,
            evaluations=evaluations,
            init=options.init,
            iterations=options.iterations,
            target=options.target,
        )
        seeds, prior = seeds_of(options.seeds, options.samples), problem.prior
        if options.label is not None and problem.tiles is None:
            prior = prior.bind(label=torch.full((len(seeds),), options.label))
        metrics: dict[str, Metric] = {}
        if problem.tiles is None:
            metrics["measurement_psnr"] = Score("measurement_psnr", problem, method)
        if problem.truth is not None:
            metrics["psnr"] = Score("psnr", problem, method)
            if min(problem.truth.shape[-2:]) >= 11:  # its window fits
                metrics["ssim"] = Score("ssim", problem, method, None)
        return Job(
            prior,
            problem.cost(method, len(seeds)),
            Restorer(problem, method, options.label),
            seeds,
            options.size(len(seeds)),
            metrics,
        )

    def files(self) -> list[Path]:
        """What it reads."""
        named = [self.file, self.options.truth, *self.settings.values()]
        return [file for file in named if isinstance(file, Path)]

    def progress(self, job: Job) -> dict[str, Any]:
        """PSNR of the measurement, in dB."""
        problem, method = _parts(job)
        cost = problem.cost(method, 1)

        def decibels(_: Sequence[int], event: Event) -> Event:
            return event._replace(monitor=-psnr_of(cost, event.monitor))

        return {
            "unit": "dB",
            "sign": -1,
            "target": target_of(method),
            "shown": lambda value: -float(psnr_of(cost, torch.tensor(value))),
            "event": decibels,
        }

    def put(self, job: Job, store: Store) -> None:
        """Write measurement, truth and pseudo-inverse for reports."""
        problem, _ = _parts(job)
        plain = problem.operator.pinv(problem.y) if problem.tiles is None else None
        store.put(measurement=problem.y, truth=problem.truth, baseline=plain)

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """Images, figure and `result.json`.

        Raises:
            ValueError: if not a single reconstruction is a number.
        """
        problem, method = _parts(job)
        done = _Done(problem, method)
        for rows in store.rows():
            done.add(rows, store.folder)
        if all(row["file"] is None for row in done.rows):
            raise ValueError(f"prior: no sample of {problem.task} is a number; see its network")
        content = _content(problem, method, done, store)
        decibels = torch.tensor([row["measurement_psnr"] for row in done.rows])
        for text in (*of_result(decibels, problem.gain * problem.noise), *_failures(done)):
            console.warn(text)
            content["warnings"].append(text)
        _write(problem, done, content, store.folder)
        return content

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table, and the path of the figure."""
        from ctrlgen.domains.images.commands import show

        show(content, folder)


class _Done:
    """Rows, first images and first courses of what is finished."""

    def __init__(self, problem: Problem, method: Method) -> None:
        self.problem, self.cost = problem, problem.cost(method, 1)
        self.rows: list[dict[str, Any]] = []
        self.images: list[Tensor] = []
        self.reasons: list[str] = []
        self.courses: dict[str, list[list[float]]] = {"measurement_psnr": [], "evaluations": []}

    def add(self, rows: Rows, folder: Path) -> None:
        """Note a unit, and write its images."""
        for record, image in zip(rows.records, rows.tensors["samples"], strict=True):
            row = self._row(record)
            if bool(image.isfinite().all()) and record["reason"] is None:
                row["file"] = f"reconstruction-{record['seed']}.png"
                write_image(folder / row["file"], image)
            self.rows.append(row)
        self.reasons += [record["reason"] for record in rows.records if record["reason"]]
        self.images += list(rows.tensors["samples"][: max(0, SHOWN - len(self.images))])
        left = max(0, _HISTORIES - len(self.courses["evaluations"]))
        if "history.cost" in rows.tensors:
            values = psnr_of(self.cost, rows.tensors["history.cost"])
            self.courses["measurement_psnr"] += values.T[:left].tolist()
            self.courses["evaluations"] += rows.tensors["history.evaluations"].T[:left].tolist()

    def _row(self, record: Record) -> dict[str, Any]:
        value = math.nan if record["cost"] is None else record["cost"]
        scores = {k: v for k, v in record["metrics"].items() if k != "measurement_psnr"}
        return {
            "seed": record["seed"],
            "measurement_psnr": float(psnr_of(self.cost, torch.tensor(value))),
            **{
                name: record[name]  # type: ignore[literal-required]
                for name in (
                    "status", "iterations", "evaluations", "backward_passes", "objective_calls",
                )
            },
            **{name: math.nan if value is None else value for name, value in scores.items()},
            "file": None,  # black squares would hide it
        }  # fmt: skip


def _parts(job: Job) -> tuple[Problem, Method]:
    restorer: Any = job.method
    return restorer.problem, restorer.method


def _failures(done: _Done) -> list[str]:
    """A warning of samples for which something was raised."""
    if not done.reasons:
        return []
    label = Status.FAILED.label
    return [f"{len(done.reasons)} of {len(done.rows)} {label}: {done.reasons[0]}"]


def seeds_of(text: str | None, samples: int | None) -> list[int]:
    """Seeds 0 to N − 1, or those that are named.

    Raises:
        ValueError: for both, no integers, or one twice.
    """
    if text is None:
        return list(range(samples or 1))
    if samples is not None:
        raise ValueError("seeds: expected one of --seeds and --samples")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds: expected integers as in 3,5,8, got {text!r}") from error
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected each once, got {text!r}")
    return seeds


def target_of(method: Method) -> float | None:
    """PSNR of the measurement at which a sample stops, in dB, for a method that has one."""
    target = getattr(method, "target", None)
    return None if target is None else -target


def _content(problem: Problem, method: Method, done: _Done, store: Store) -> dict[str, Any]:
    card, summary, about = problem.prior.card, store.summary(), store.manifest["about"]
    seconds = summary.pop("seconds")
    missing = store.missing
    content: dict[str, Any] = {
        "task": problem.task,
        "command": store.manifest["command"],
        **{name: about[name] for name in ("file", "settings", "label")},
        "warnings": list(about["warnings"]),
        "complete": not missing and store.partial is None,
        "missing": missing,
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "operator": type(problem.operator).__name__,
        "noise": problem.noise,
        "rounding": problem.rounding,
        "compare": problem.compare,
        "tiles": None if problem.tiles is None else problem.tiles.places.tolist(),
        "method": summary["method"],
        "target_psnr": target_of(method),
        "seconds": round(seconds, 3),
        "samples": done.rows,
        "summary": summary,
        "history": done.courses,
    }
    if problem.truth is not None:
        plain = problem.operator.pinv(problem.y)
        content["pseudo_inverse"] = {
            name: float(Score(name, problem, method)(plain)[0])
            for name in ("psnr", "ssim")
            if name == "psnr" or min(problem.truth.shape[-2:]) >= 11
        }
    return content


def _write(problem: Problem, done: _Done, content: dict[str, Any], folder: Path) -> None:
    from ctrlgen.domains.images.figures import restoration_figure

    write_image(folder / "measurement.png", problem.y[0])
    restoration_figure(folder / "figure.png", problem, done.images, content)
    write_json(folder / "result.json", content)
