"""Restored sound files as a run: from the options of a command to a job, and from shards to files.

Files that cannot be restored are no part of the run: what is wrong with them is in its result,
beside the others. A run that is cut off leaves the takes of which something is there; what is
missing of them is as it was measured, and `ctrlgen resume` goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.domains.audio import files
from ctrlgen.domains.audio.filling import Filling, Rows, Source
from ctrlgen.domains.audio.options import Options
from ctrlgen.domains.audio.posing import Posed, Take, Window, window_of
from ctrlgen.domains.audio.priors import prior_of_audio
from ctrlgen.domains.audio.restoration import NOT_BEGUN, notes_of
from ctrlgen.report.sections import trouble
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.store import Store

__all__ = ["Restoration"]


@dataclass(frozen=True)
class Restoration:
    """Takes of some files.

    Attributes:
        task: "inpaint", "upsample", "declip" or "extend".
        sources: files that can be restored.
        way: options of the task, as items.
        window: of the prior.
        options: those that the commands share.
        to: file to write; None for one in the run's folder.
        refused: names of files that cannot be restored, each with what is wrong.
    """

    task: str
    sources: tuple[Source, ...]
    way: tuple[tuple[str, Any], ...]
    window: tuple[int, int]
    options: Options
    to: Path | None = None
    refused: tuple[tuple[str, str], ...] = ()

    what: ClassVar[str] = "rows"

    def lasting(self) -> Restoration:
        """The same, whose paths hold from any folder, and without what is of one process."""
        samples = sum(s.rows for s in self.sources) * self.options.takes
        return replace(
            self,
            sources=tuple(replace(s, path=s.path.absolute()) for s in self.sources),
            way=tuple((k, v.absolute() if isinstance(v, Path) else v) for k, v in self.way),
            to=None if self.to is None else self.to.absolute(),
            options=replace(self.options.lasting(samples), dry_run=False),
        )

    def rows(self) -> Rows:
        """The rows of all takes of all files."""
        options = self.options
        return Rows(self.task, self.sources, self.way, self.window, options.takes)

    def job(self) -> Job:
        """The job.

        Raises:
            ValueError: for a prior of something else.
        """
        options, rows = self.options, self.rows()
        prior = prior_of_audio(options.prior, console.device_named(options.device))
        if window_of(prior) != Window(*self.window):
            raise ValueError(f"prior: expected windows of {self.window}, got {window_of(prior)}")
        seeds = [
            options.seed + take + seed
            for source in self.sources
            for take in range(options.takes)
            for seed in source.seeds
        ]
        size = options.size(len(seeds))
        return Job(prior, rows, Filling(options.settings.fill), seeds, size)

    def files(self) -> list[Path]:
        """What it reads."""
        named = [source.path for source in self.sources]
        return named + [value for _, value in self.way if isinstance(value, Path)]

    def progress(self, job: Job) -> dict[str, Any]:
        """PSNR of what is known, in dB."""
        return {"unit": "dB", "sign": -1, "target": self.options.fit}

    def put(self, job: Job, store: Store) -> None:
        """Files share nothing."""

    def names(self, source: Source, folder: Path) -> list[Path]:
        """Where the takes of a file are written."""
        place = folder / source.name if self.to is None else self.to
        takes = range(1, self.options.takes + 1)
        if len(takes) == 1:
            return [place]
        return [place.with_name(f"{place.stem}-{number}{place.suffix}") for number in takes]

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """Sound files and `result.json`.

        Raises:
            ValueError: if not a single row of any file came to anything.
        """
        takes = [self._written(*parts, store.folder) for parts in self._parts(job, store)]
        if all(take["file"] is None for take in takes):
            reasons = (take["reason"] for take in takes if take["reason"])
            reason = next(reasons, "an interruption came first")
            raise ValueError(f"prior: no take came to anything: {reason}")
        card, summary = job.prior.card, store.summary()
        lost = [take for take in takes if take["reason"] or trouble(take["status"])]
        warnings = [f"{name}: {reason}" for name, reason in self.refused]
        warnings += [
            f"{Path(t['source']).name}, seed {t['seed']}: {t['reason'] or t['status']}"
            for t in lost
        ]
        options = self.options
        content = {
            "task": self.task,
            "command": store.manifest["command"],
            "complete": not store.missing and store.partial is None,
            "missing": store.missing,
            "prior": {"name": card.name, "sha256": card.sha256} if card else None,
            "settings": {"preset": options.preset, "fit_dB": options.fit},
            "warnings": warnings,
            "refused": [{"file": name, "reason": reason} for name, reason in self.refused],
            "seconds": round(summary["seconds"], 2),
            "takes": takes,
            "summary": summary,
        }
        for text in warnings:
            console.warn(text)
        write_json(store.folder / "result.json", content, indent=1)
        return content

    def _parts(
        self, job: Job, store: Store
    ) -> Iterator[tuple[Source, Posed, dict[str, Any], int, Tensor, list[dict[str, Any]]]]:
        """Every take of every file, with what its rows came to."""
        rows: Any = job.cost
        units, held = store.rows(), dict[int, tuple[Tensor, dict[str, Any]]]()
        first, done = 0, False
        for number, source in enumerate(self.sources):
            for take in range(self.options.takes):
                ids = range(first, first + source.rows)
                first = ids.stop
                while not done and (not held or max(held) < ids.stop - 1):
                    unit = next(units, None)
                    done = unit is None
                    if unit is not None:
                        notes = notes_of(unit.records, unit.tensors)
                        both = zip(unit.tensors["samples"], notes, strict=True)
                        held |= dict(zip(unit.ids, both, strict=True))
                file = rows.file(number)
                samples, notes = file.trivial().cpu(), []
                for row, id in enumerate(ids):
                    signal, note = held.pop(id, (None, {}))
                    if signal is None or _untouched(note):
                        notes.append(dict(NOT_BEGUN))
                        continue
                    if not bool(signal.isfinite().all()):
                        note["reason"] = note.get("reason", "its samples are no numbers")
                    if "reason" not in note:
                        samples[row] = signal
                    notes.append(note)
                yield source, file, rows.said(number), take, samples, notes

    def _written(
        self,
        source: Source,
        file: Posed,
        said: Mapping[str, Any],
        number: int,
        samples: Tensor,
        notes: list[dict[str, Any]],
        folder: Path,
    ) -> dict[str, Any]:
        """Write a take of which something is there; what is said of it."""
        seed, place = self.options.seed + number, self.names(source, folder)[number]
        statuses = [str(note["status"]) for note in notes]
        bad = (s for s in statuses if trouble(s) or s == NOT_BEGUN["status"])
        usable = [n for n in notes if "reason" not in n and n != NOT_BEGUN]
        take = file.take(samples, seed, notes) if usable else Take(file.recording, seed, notes)
        if usable:
            files.write(place, take.recording)
        return {
            "file": (place.name if self.to is None else str(place)) if usable else None,
            "source": str(source.path),
            "seed": seed,
            "status": next(bad, statuses[0]),
            "reason": next((note["reason"] for note in notes if "reason" in note), None),
            **said,
            "rows": take.rows,
        }

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table of takes, and where they are."""
        from ctrlgen.domains.audio.commands import show

        show(content, folder)


def _untouched(note: Mapping[str, Any]) -> bool:
    """Whether an interruption came before anything was done for a row."""
    return note["status"] == Status.RUNNING.label and not note["evaluations"]
