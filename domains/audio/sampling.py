"""Sound drawn from a prior, of it alone or by a score: a run, into WAV files of one window each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ctrlgen.commands import console
from ctrlgen.commands.drawing import PriorDrawing
from ctrlgen.commands.scoring import Scoring
from ctrlgen.costs import BlackBoxCost
from ctrlgen.domains.audio import files
from ctrlgen.domains.audio.posing import window_of
from ctrlgen.domains.audio.priors import prior_of_audio
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Batch, Job
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.store import Store

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing(PriorDrawing):
    """One clip per seed."""

    number: int = 4
    steps: int = 25
    batch: Batch = 8

    what: ClassVar[str] = "clips"

    def bound(self) -> Prior:
        """The prior."""
        return prior_of_audio(self.prior, self.device)

    def cost(self, scoring: Scoring) -> Any:
        """The score of clips (n, C, L) in [-1, 1]."""
        return BlackBoxCost(**scoring.box())

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """WAV files, none above full scale, and `result.json`.

        Raises:
            ValueError: for clips that are no numbers, after the others were written: at which step
                they arose.
        """
        rate, _ = window_of(job.prior)
        rows, gone = list[dict[str, Any]](), list[int]()
        for unit in store.rows():
            for record, x in zip(unit.records, unit.tensors["samples"], strict=True):
                row = {"seed": record["seed"], "status": record["status"], "file": None}
                if record["status"] != Status.DIVERGED.label:
                    x = x.double()
                    peak = float(x.abs().max())
                    row |= {"file": f"{record['seed']:04d}.wav", "peak": round(peak, 3)}
                    clip = files.Recording(x / max(1.0, peak), rate)
                    files.write(store.folder / str(row["file"]), clip)
                else:
                    gone.append(record["id"])
                rows.append(row)
        where = self.lost(job, gone)
        steps = {each["seed"]: each["step"] for each in where}
        for row in rows:
            if row["file"] is None:
                row["step"] = steps.get(row["seed"])
        card, summary = job.prior.card, store.summary()
        content = {
            "task": "sample",
            "command": store.manifest["command"],
            "complete": not store.missing and store.partial is None and not gone,
            "missing": store.missing,
            "lost": where,
            "prior": {"name": card.name, "sha256": card.sha256} if card else None,
            "steps": self.steps,
            "method": repr(job.method),
            "scores": self.scores(store),
            "seconds": round(summary["seconds"], 2),
            "samples": rows,
            "summary": summary,
        }
        good = len(rows) - len(gone)
        if good:
            write_json(store.folder / "result.json", content, indent=1)
        self.refuse(where, good, store)
        return content

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """How many, and where."""
        console.say(f"{len(content['samples'])} clips in {content['seconds']:.1f} s\n{folder}")
