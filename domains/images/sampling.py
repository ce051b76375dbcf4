"""Images drawn from a prior, into files, batch by batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.restoration import prior_of_images
from ctrlgen.priors.prior import BoundVelocity, Prior
from ctrlgen.runs.interrupts import CutOff
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.outputs import output_folder
from ctrlgen.solvers.failures import lost_seeds, lost_text

__all__ = ["draw"]

_GRID = 256
"""Images in the grid."""


def draw(
    name: str,
    seeds: list[int],
    folder: Path,
    *,
    label: int | None = None,
    steps: int = 50,
    batch: int = 64,
    device: str = "cpu",
    command: str = "",
) -> dict[str, Any]:
    """Draw one image per seed and write them, a grid of the first of them and `result.json`.

    Args:
        name: of a prior, or the path of a card.
        seeds: one per image.
        folder: to write.
        label: class of all images.
        steps: midpoint steps.
        batch: images at a time; it changes nothing but memory and time.
        device: of the run.
        command: for `result.json`.

    Returns:
        What `result.json` holds.

    Raises:
        CutOff: an interruption, an error, or images that are no numbers, after the others were
            written; of the last the cause is a ValueError that says at which step they arose.
        ValueError: if not a single image is one of numbers.
    """
    from ctrlgen.domains.images.figures import grid_figure

    prior = prior_of_images(name, device)
    solver = prior.solver(steps)
    if label is not None:
        prior.bind(label=torch.tensor([label]))  # raises where there is no such label
    begun, before = time.perf_counter(), prior.flow.evaluations.copy()
    done: list[int] = []
    shown: list[Tensor] = []
    lost: list[dict[str, Any]] = []
    cause: BaseException | None = None
    with output_folder(folder) as place:
        try:
            with console.Progress("sampling", len(seeds), "images") as progress:
                for start in range(0, len(seeds), batch):
                    part = seeds[start : start + batch]
                    bound = _bound(prior, label, len(part))
                    images = bound.sample(part, solver)
                    good = images.isfinite().flatten(1).all(1)
                    if not bool(good.all()):
                        velocity, x = BoundVelocity(bound), bound.start(part)
                        lost += lost_seeds(solver, velocity, x, part, good)
                    for seed, image, fine in zip(part, images, good.tolist(), strict=True):
                        if fine:
                            write_image(place / f"sample-{seed}.png", image)
                            done.append(seed)
                    shown += list(images[good][: max(0, _GRID - len(shown))])
                    progress.advance(len(part))
        except BaseException as error:
            cause = error
            if not done:
                raise
        if lost and cause is None:
            cause = ValueError(f"prior: {lost_text(lost, steps)}")
            if not done:
                raise cause
        assert prior.card is not None
        there = set(done)
        content = {
            "command": command,
            "complete": cause is None,
            "missing": [seed for seed in seeds if seed not in there],
            "lost": lost,
            "prior": {"name": prior.card.name, "sha256": prior.card.sha256},
            "label": label,
            "seeds": done,
            "solver": repr(solver),
            "network": vars(prior.flow.evaluations - before),
            "seconds": round(time.perf_counter() - begun, 3),
        }
        title = f"{prior.card.name}" + ("" if label is None else f", label {label}")
        grid_figure(place / "grid.png", torch.stack(shown), title)
        write_json(place / "result.json", content)
    if cause is not None:
        raise CutOff(cause, content) from cause
    return content


def _bound(prior: Prior, label: int | None, rows: int) -> Prior:
    return prior if label is None else prior.bind(label=torch.full((rows,), label))
