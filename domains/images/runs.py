"""A restoration as a run: from the options of a command to a job, and from shards to files.

Reconstructions of the same measurement, one per seed, are the samples. A run that is interrupted,
or broken by an error, after something was finished leaves that, with `complete` false and the seeds
that are missing in `result.json`; `ctrlgen resume` goes on with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ctrlgen.commands import console
from ctrlgen.commands.run_options import absolute, seeds_of
from ctrlgen.costs.problems import psnr_of
from ctrlgen.domains.images.doubts import of_result
from ctrlgen.domains.images.options import Options
from ctrlgen.domains.images.restoration import Problem, operator_of, pose
from ctrlgen.domains.images.restored import (
    Restored,
    Score,
    content_of,
    failures,
    target_of,
    write,
)
from ctrlgen.domains.images.tiles import tiled
from ctrlgen.methods import Method
from ctrlgen.methods.result import Result
from ctrlgen.optimizers import Event, Observer
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import Doubtful
from ctrlgen.runs.job import Job, Metric
from ctrlgen.runs.store import Store

__all__ = ["Restoration", "Restorer"]


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
        own = {name: absolute(value) for name, value in settings.items()}
        lasting = options.lasting(len(seeds_of(options.seeds, options.samples, 1, "--samples")))
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
        seeds, prior = seeds_of(options.seeds, options.samples, 1, "--samples"), problem.prior
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
        masks = [value for value in self.settings.values() if isinstance(value, Path)]
        return [self.file, *masks, *self.options.files()]

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
        done = Restored(problem, method)
        for rows in store.rows():
            done.add(rows, store.folder)
        if all(row["file"] is None for row in done.rows):
            raise ValueError(f"prior: no sample of {problem.task} is a number; see its network")
        content = content_of(problem, method, done, store)
        decibels = torch.tensor([row["measurement_psnr"] for row in done.rows])
        for text in (*of_result(decibels, problem.gain * problem.noise), *failures(done)):
            console.warn(text)
            content["warnings"].append(text)
        write(problem, done, content, store.folder)
        return content

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table, and the path of the figure."""
        from ctrlgen.domains.images.commands import show

        show(content, folder)


def _parts(job: Job) -> tuple[Problem, Method]:
    restorer: Any = job.method
    return restorer.problem, restorer.method
