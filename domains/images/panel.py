"""Images in a report: what was measured, what came out, what is true and where they differ.

Reads the folders of `ctrlgen image ...` and of the demonstration; of run folders (`docs/runs.md`)
it adds the pictures. The pictures are exact as long as they fit into the page's budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from ctrlgen.domains.images.files import read_image
from ctrlgen.report.media import BUDGET, picture_uri
from ctrlgen.report.panels import Panel
from ctrlgen.report.reading import object_of
from ctrlgen.report.sections import Metric, Sample, Section, thinned, trouble

__all__ = ["METRICS", "PANEL", "SCENES", "is_image"]

SCENES = "scenes.safetensors"
"""Tensors of the demonstration, beside its `result.json`."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "dB", "higher", 2),
        Metric("ssim", None, "higher", 3),
        Metric("measurement_psnr", "dB", "higher", 1),
        Metric("probability", None, "higher", 4),
    )
}
_SHARED = ("measurement", "baseline", "truth")
_COUNTS = ("evaluations", "backward_passes", "objective_calls", "iterations")


def is_image(tensor: Tensor) -> bool:
    """Whether a row of a tensor (N, \\*) is a picture: (1 or 3, H, W)."""
    return tensor.ndim == 4 and tensor.shape[1] in (1, 3)


class _Pictures:
    """Pictures of a section, each within its share of the budget."""

    def __init__(self, number: int, budget: float) -> None:
        self.share, self.exact = budget / max(number, 1), True

    def uri(self, image: Tensor) -> str | None:
        """A picture (1 or 3, H, W) in [-1, 1], clipped; None for one that is not finite."""
        if not bool(image.isfinite().all()):
            return None
        pixels = image.detach().cpu().float().clamp(-1, 1).add(1).mul(127.5).round().byte().numpy()
        plane = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
        made, exact = picture_uri(np.ascontiguousarray(plane), self.share)
        self.exact &= exact
        return made

    def note(self, shared: dict[str, Any]) -> dict[str, Any]:
        """What the page says of them."""
        if not self.exact:
            shared["note"] = (
                "The pictures are compressed to fit the page; the run's folder has the exact ones."
            )
        return shared


def read(folder: Path, budget: float = BUDGET) -> list[Section] | None:
    """The sections of a folder that a command for images wrote; None for anything else."""
    content = object_of(folder / "result.json")
    if content is None:
        return None
    if "scenes" in content and (folder / SCENES).is_file():
        return _scenes(folder, content, budget)
    if "operator" in content and "samples" in content and "task" in content:
        return [_restoration(folder, content, budget)]
    if "solver" in content and "seeds" in content and (folder / "grid.png").is_file():
        return [_draws(folder, content, budget)]
    return None


def _restoration(folder: Path, content: dict[str, Any], budget: float) -> Section:
    rows, history = content["samples"], content.get("history") or {}
    files = [folder / row["file"] for row in rows if row.get("file")]
    alike = {name: folder / f"{name}.png" for name in _SHARED}
    alike = {name: file for name, file in alike.items() if file.is_file()}
    pictures = _Pictures(len(files) + len(alike), budget)
    samples = []
    for id, row in enumerate(rows):
        name = row.get("file")
        made = pictures.uri(read_image(folder / name)) if name else None
        courses = [history.get(key, [])[id : id + 1] for key in ("evaluations", "measurement_psnr")]
        course = thinned(*(each[0] for each in courses)) if all(courses) else None
        samples.append(
            Sample(
                id,
                row["seed"],
                row["status"],
                _negative(row.get("measurement_psnr")),
                {key: row[key] for key in METRICS if key in row},
                {key: row[key] for key in _COUNTS if key in row},
                flags=_flags(row["status"], name is not None),
                course=course,
                panel={"picture": made} if made else None,
            )
        )
    shared = {name: pictures.uri(read_image(file)) for name, file in alike.items()}
    return Section(
        title=_title(content),
        samples=samples,
        problem=_problem(content, alike.get("measurement")),
        panel="images",
        shared=pictures.note(shared),
        facts={
            "task": content["task"],
            "method": content.get("method"),
            "prior": (content.get("prior") or {}).get("name"),
            "operator": content.get("operator"),
            "noise": content.get("noise") or None,
            "seconds": content.get("seconds"),
            **{
                f"H†y: {k} ({METRICS[k].unit or 1})": v
                for k, v in (content.get("pseudo_inverse") or {}).items()
                if k in METRICS
            },
        },
        **_about(content),
        course="PSNR of the measurement (dB)",
        better="higher",
        target=content.get("target_psnr"),
    )


def _draws(folder: Path, content: dict[str, Any], budget: float) -> Section:
    lost = {item["seed"]: item for item in content.get("lost", ())}
    pictures = _Pictures(len(content["seeds"]), budget)
    samples = []
    for id, seed in enumerate([*content["seeds"], *lost]):
        if seed in lost:
            step = lost[seed].get("step")
            reason = "no number" + (f" from step {step} on" if step is not None else "")
            samples.append(Sample(id, seed, "diverged", flags=["diverged"], reason=reason))
        else:
            made = pictures.uri(read_image(folder / f"sample-{seed}.png"))
            samples.append(Sample(id, seed, "finished", panel={"picture": made}))
    prior = content["prior"]["name"]
    return Section(
        title=f"Draws from {prior}",
        samples=samples,
        panel="images",
        shared=pictures.note({}),
        facts={
            "prior": prior,
            "label": content.get("label"),
            "solver": content["solver"],
            "seconds": content.get("seconds"),
        },
        **_about(content),
    )


def _scenes(folder: Path, content: dict[str, Any], budget: float) -> list[Section]:
    """One section per problem of the demonstration."""
    tensors = load_file(folder / SCENES)
    sections = []
    for place, (title, numbers) in enumerate(content["scenes"].items()):
        own = {
            key.partition(".")[2]: value
            for key, value in tensors.items()
            if key.partition(".")[0] == str(place)
        }
        images = own["samples"]
        rows = len(images)
        pictures = _Pictures(4 * rows, budget / max(len(content["scenes"]), 1))
        there = {
            k: [pictures.uri(x) for x in own[k]] for k in _SHARED if k in own and is_image(own[k])
        }
        metrics = [METRICS[name] for name in METRICS if name in numbers]
        samples = []
        for id in range(rows):
            x, y = own["history.evaluations"][:, id].tolist(), own["history.cost"][:, id].tolist()
            status = numbers["status"][id]
            samples.append(
                Sample(
                    id,
                    numbers["seeds"][id],
                    status,
                    float(own["costs"][id]),
                    {metric.name: numbers[metric.name][id] for metric in metrics},
                    {key: numbers[key][id] for key in _COUNTS if key in numbers},
                    flags=_flags(status, True),
                    course=thinned(x, y),
                    panel={
                        "picture": pictures.uri(images[id]),
                        **{k: v[id] for k, v in there.items()},
                    },
                )
            )
        sections.append(
            Section(
                title=title,
                samples=samples,
                metrics=metrics,
                panel="images",
                shared=pictures.note({}),
                facts={
                    "prior": numbers["prior"],
                    "method": numbers["summary"].get("method"),
                    "operator": numbers.get("operator"),
                    "seconds": numbers["seconds"],
                },
                environment=_about(content)["environment"],
                command="ctrlgen demo",
                target=None
                if numbers.get("target") is None
                else float(numbers["target"]) * (-1 if "psnr" in numbers else 1),
                settings=numbers["summary"],
                seconds=numbers["seconds"],
            )
        )
    return sections


def show(
    section: Section,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    units: Iterable[Any],
    budget: float = BUDGET,
) -> None:
    """Add the pictures of a run folder; see `ctrlgen.report.panels.Panel`."""
    number = len(section.samples)
    alike = {name: tensors[name] for name in _SHARED if name in tensors and is_image(tensors[name])}
    rows = sum(len(value) for value in alike.values())
    pictures = _Pictures(number + rows, budget)
    shared = {name: pictures.uri(value[0]) for name, value in alike.items() if len(value) == 1}
    by_id = {sample.id: sample for sample in section.samples}
    for unit in units:
        if not is_image(unit.tensors["samples"]):
            continue
        for id, image in zip(unit.ids, unit.tensors["samples"], strict=True):
            own = {name: pictures.uri(v[id]) for name, v in alike.items() if len(v) > 1}
            by_id[id].panel = {"picture": pictures.uri(image), **own}
    section.shared = pictures.note(shared)


PANEL = Panel("images", Path(__file__).with_name("panel.js").read_text, read, show)


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    """What every folder says of its making."""
    rows = content.get("samples") or [{}]
    prior = content.get("prior") or {}
    known = ("samples", "history", "warnings", "missing", "command", "scenes", "seeds")
    return {
        "metrics": [METRICS[name] for name in METRICS if any(name in row for row in rows)],
        "environment": {"prior, sha256": prior.get("sha256")},
        "command": content.get("command") or "",
        "settings": {key: value for key, value in content.items() if key not in known},
        "warnings": list(content.get("warnings") or ()),
        "complete": content.get("complete", True),
        "missing": list(content.get("missing") or ()),
        "seconds": content.get("seconds"),
    }


def _title(content: Mapping[str, Any]) -> str:
    file = content.get("file")
    return f"{content['task']}" + (f" of {Path(str(file)).name}" if file else "")


def _problem(content: Mapping[str, Any], measurement: Path | None) -> str | None:
    """Runs of one measurement by one operator solve one problem."""
    if measurement is None:
        return None
    digest = hashlib.sha256(measurement.read_bytes()).hexdigest()
    return f"{content['task']} {content.get('operator')} {content.get('noise')} {digest}"


def _flags(status: str, picture: bool) -> Sequence[str]:
    return trouble(status) or ([] if picture else ["no picture"])


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
