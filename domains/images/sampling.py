"""Images drawn from a prior, into files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ctrlgen import console
from ctrlgen.domains.images.files import write_image
from ctrlgen.outputs import output_folder
from ctrlgen.priors import load

__all__ = ["draw"]


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
    """Draw one image per seed and write them, a grid of them and `result.json`.

    Args:
        name: of a prior, or the path of a card.
        seeds: one per image.
        folder: to write, whole or not at all.
        label: class of all images.
        steps: midpoint steps.
        batch: images at a time; it changes nothing but memory and time.
        device: of the run.
        command: for `result.json`.

    Returns:
        What `result.json` holds.
    """
    from ctrlgen.domains.images.figures import grid_figure

    prior = load(name, device=device)
    solver = prior.solver(steps)
    if label is not None:
        prior.bind(label=torch.tensor([label]))  # raises where there is no such label
    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    begun, parts = time.perf_counter(), []
    with Progress(*columns, console=console.screen, transient=True) as bar:
        task = bar.add_task("", total=len(seeds))
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            bound = prior if label is None else prior.bind(label=torch.full((len(part),), label))
            parts.append(bound.sample(part, solver))
            bar.advance(task, len(part))
    images, seconds = torch.cat(parts), time.perf_counter() - begun
    assert prior.card is not None
    content = {
        "command": command,
        "prior": {"name": prior.card.name, "sha256": prior.card.sha256},
        "label": label,
        "seeds": seeds,
        "solver": repr(solver),
        "network": vars(prior.flow.evaluations),
        "seconds": round(seconds, 3),
    }
    with output_folder(folder) as place:
        for seed, image in zip(seeds, images, strict=True):
            write_image(place / f"sample-{seed}.png", image)
        title = f"{prior.card.name}" + ("" if label is None else f", label {label}")
        grid_figure(place / "grid.png", images, title)
        (place / "result.json").write_text(console.dumps(content) + "\n")
    return content
