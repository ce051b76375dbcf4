"""Images drawn from a prior, of it alone or by a score: a run, into files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ctrlgen.commands import console
from ctrlgen.commands.drawing import PriorDrawing
from ctrlgen.commands.scoring import Scoring
from ctrlgen.costs import BlackBoxCost
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.restoration import prior_of_images
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.store import Store

__all__ = ["Drawing"]

_GRID = 256
"""Images in the grid."""


@dataclass(frozen=True)
class Drawing(PriorDrawing):
    """One image per seed.

    Attributes:
        label: class of all images.
    """

    label: int | None = None

    what: ClassVar[str] = "images"

    def bound(self) -> Prior:
        """The prior, of the label where there is one."""
        prior = prior_of_images(self.prior, self.device)
        if self.label is None:
            return prior
        return prior.bind(label=torch.full((self.number,), self.label))

    def cost(self, scoring: Scoring) -> Any:
        """The score of images (n, C, H, W) in [-1, 1]."""
        return BlackBoxCost(**scoring.box())

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """Images, a grid of the first of them and `result.json`.

        Raises:
            ValueError: for images that are no numbers, after the others were written: at which
                step they arose.
        """
        from ctrlgen.domains.images.figures import grid_figure

        done, shown, gone = list[int](), list[torch.Tensor](), list[int]()
        for rows in store.rows():
            for record, image in zip(rows.records, rows.tensors["samples"], strict=True):
                if record["status"] == Status.DIVERGED.label:
                    gone.append(record["id"])
                    continue
                write_image(store.folder / f"sample-{record['seed']}.png", image)
                done.append(record["seed"])
                if len(shown) < _GRID:
                    shown.append(image)
        where = self.lost(job, gone)
        card = job.prior.card
        assert card is not None
        summary, there = store.summary(), set(done)
        content = {
            "command": store.manifest["command"],
            "complete": len(done) == len(store),
            "missing": [seed for seed in store.seeds if seed not in there],
            "lost": where,
            "prior": {"name": card.name, "sha256": card.sha256},
            "label": self.label,
            "seeds": done,
            "method": repr(job.method),
            "scores": self.scores(store),
            "solver": repr(getattr(job.method, "solver", None)),
            "network": summary["network"],
            "seconds": round(summary["seconds"], 3),
        }
        if done:
            title = f"{card.name}" + ("" if self.label is None else f", label {self.label}")
            grid_figure(store.folder / "grid.png", torch.stack(shown), title)
            write_json(store.folder / "result.json", content)
        self.refuse(where, len(done), store)
        return content

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The path of the grid."""
        seconds = content["seconds"]
        console.say(f"{len(content['seeds'])} images in {seconds:.1f} s\n{folder / 'grid.png'}")
