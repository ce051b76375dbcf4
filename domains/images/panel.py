"""Images in a report: what was measured, what came out, what is true and where they differ.

Adds the pictures to run folders (`docs/runs.md`), which `ctrlgen image ...` writes, and reads those
of the demonstration. Pictures are exact as long as they fit into the page's budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from ctrlgen.report.documents import object_of
from ctrlgen.report.media import BUDGET, picture_uri
from ctrlgen.report.panels import Panel
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
    """The sections of a folder of the demonstration; None for anything else."""
    content = object_of(folder / "result.json")
    if content is None or "scenes" not in content or not (folder / SCENES).is_file():
        return None
    return _scenes(folder, content, budget)


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
    plain = (section.settings.get("result") or {}).get("pseudo_inverse") or {}
    section.facts |= {f"{name} of H†y": round(value, 3) for name, value in plain.items()}


PANEL = Panel("images", Path(__file__).with_name("panel.js").read_text, read, show)


def _flags(status: str, picture: bool) -> Sequence[str]:
    return trouble(status) or ([] if picture else ["no picture"])
