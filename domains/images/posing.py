"""Image files as the problems of a comparison: `ctrlgen compare --task inpaint ... IMAGES`.

By default the files are clean images, from which the measurements are made, so that the truth is
known; with `degrade=False` they are the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ctrlgen.costs.problems import InverseProblem
from ctrlgen.domains.images.files import ROUNDING, read_image, read_mask, with_channels
from ctrlgen.domains.images.operators import (
    Denoise,
    GaussianBlur,
    Inpainting,
    NonlinearBlur,
    SuperResolution,
)
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior

__all__ = ["TASKS", "pose"]

TASKS: dict[str, dict[str, Any]] = {
    "inpaint": {"centre": None, "random": None, "mask": None},
    "upsample": {"factor": 2},
    "deblur": {"std": 1.0},
    "denoise": {},
    "nonlinear-blur": {},
}
"""What each task may be told, with its defaults."""


def pose(
    task: str,
    files: Sequence[Path],
    prior: Prior,
    *,
    noise: float = 0.0,
    degrade: bool = True,
    fit: bool = False,
    **settings: Any,
) -> InverseProblem:
    """The problems of image files.

    Args:
        task: a key of `TASKS`.
        files: images, grey or colour, of the prior's size.
        prior: of images.
        noise: σ_y with pixels in [−1, 1]; it is added where the measurements are made.
        degrade: whether the files are clean images.
        fit: whether to crop the middle of each and resample it to the prior's size.
        **settings: of the task: `centre=SIDE`, `random=SHARE` (another mask for each image) or
            `mask=FILE`; `factor`; `std`.

    Raises:
        ValueError: for an unknown task or setting, files of another size, or a value out of range.
    """
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    for name in settings:
        if name not in TASKS[task]:
            able = ", ".join([*TASKS[task], "noise", "degrade", "fit"])
            raise ValueError(f"arg: {task} takes {able}; got {name!r}")
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not noise >= 0:
        raise ValueError(f"noise: expected a standard deviation >= 0, got {noise!r}")
    with torch.no_grad():
        start = torch.zeros(1, *prior.source.shape, device=prior.device)
        shape = tuple(prior.codec.decode(start).shape[1:])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"prior: expected one of images, got signals of shape {shape}")
    seeds = range(len(files))
    operator = _operator(task, TASKS[task] | settings, shape, seeds)
    clean = torch.zeros(1, *shape)
    one = operator.take(torch.zeros(1, dtype=torch.int64))
    height, width = (clean if degrade else one(clean)).shape[-2:]
    size = (height, width)
    images = []
    for file in files:
        image = with_channels(read_image(file, size if fit else None, "images"), shape[0], "images")
        if tuple(image.shape[-2:]) != size:
            raise ValueError(
                f"images: expected {size[1]}x{size[0]} pixels, {file} has "
                f"{image.shape[2]}x{image.shape[1]}; --arg fit=true crops and resamples it"
            )
        images.append(image)
    stack = torch.stack(images).to(prior.device)
    if degrade:
        return InverseProblem.of(operator, stack, float(noise), seeds)
    if task == "inpaint":
        stack = operator(stack)
    return InverseProblem(operator, stack, float(noise), rounding=ROUNDING)


def _operator(task: str, way: dict[str, Any], shape: tuple[int, ...], seeds: range) -> Operator:
    if task == "upsample":
        if shape[1] % way["factor"] or shape[2] % way["factor"]:
            raise ValueError(
                f"factor: expected one that divides {shape[2]}x{shape[1]}, got {way['factor']}"
            )
        return SuperResolution(way["factor"])
    if task == "deblur":
        return GaussianBlur(way["std"])
    if task == "denoise":
        return Denoise()
    if task == "nonlinear-blur":
        return NonlinearBlur()
    named = [name for name, value in way.items() if value is not None]
    if len(named) != 1:
        raise ValueError("arg: inpaint needs exactly one of centre=, random= and mask=")
    if way["centre"] is not None:
        if not 0 < way["centre"] < min(shape[1:]):
            raise ValueError(
                f"centre: expected a side from 1 to {min(shape[1:]) - 1}, got {way['centre']}"
            )
        return Inpainting.centre(way["centre"], shape)
    if way["random"] is not None:
        if not 0 < way["random"] < 1:
            raise ValueError(f"random: expected a share between 0 and 1, got {way['random']}")
        return Inpainting.random(way["random"], shape, seeds)
    return Inpainting(read_mask(Path(way["mask"]), (shape[1], shape[2])))
