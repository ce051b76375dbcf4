"""What a restoration came to: rows, scores, images, figure and `result.json`, from its shards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs.problems import psnr_of
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.domains.images.restoration import Problem
from ctrlgen.methods import Method
from ctrlgen.rows.status import Status
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.schema import Record
from ctrlgen.runs.store import Rows, Store

__all__ = ["SHOWN", "Restored", "Score", "content_of", "failures", "target_of", "write"]

SHOWN = 12
"""Reconstructions in the figure."""

_HISTORIES = 256
"""Samples whose course is written; those of more would be most of the file."""


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


class Restored:
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
                name: record[name]
                for name in (
                    "status", "iterations", "evaluations", "backward_passes", "objective_calls",
                )
            },
            **{name: math.nan if value is None else value for name, value in scores.items()},
            "file": None,  # black squares would hide it
        }  # fmt: skip


def failures(done: Restored) -> list[str]:
    """A warning of samples for which something was raised."""
    if not done.reasons:
        return []
    label = Status.FAILED.label
    return [f"{len(done.reasons)} of {len(done.rows)} {label}: {done.reasons[0]}"]


def target_of(method: Method) -> float | None:
    """PSNR of the measurement at which a sample stops, in dB, for a method that has one."""
    target = getattr(method, "target", None)
    return None if target is None else -target


def content_of(problem: Problem, method: Method, done: Restored, store: Store) -> dict[str, Any]:
    """What `result.json` says."""
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


def write(problem: Problem, done: Restored, content: dict[str, Any], folder: Path) -> None:
    """Write the measurement, the figure and `result.json`."""
    from ctrlgen.domains.images.figures import restoration_figure

    write_image(folder / "measurement.png", problem.y[0])
    restoration_figure(folder / "figure.png", problem, done.images, content)
    write_json(folder / "result.json", content)
