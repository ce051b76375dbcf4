"""How a command runs its job: the way from a plan to its end.

A command makes a plan (`ctrlgen.runs.job.Plan`) that also knows how to write and show what has come
out. `carry_out` runs it into a folder; `ctrlgen resume` rebuilds it and does the same.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import typer

from ctrlgen.commands import console
from ctrlgen.commands.progress import RunProgress
from ctrlgen.commands.report import announce
from ctrlgen.commands.run_options import Running, check_files
from ctrlgen.runs.executors import Local, Slice
from ctrlgen.runs.fingerprint import file_digest
from ctrlgen.runs.interrupts import exit_code
from ctrlgen.runs.job import Job, Plan
from ctrlgen.runs.outputs import (
    check_inputs,
    check_output,
    check_place,
    cut_off,
    naming,
    reserved,
    run_folder,
)
from ctrlgen.runs.runner import begin, execute, resume
from ctrlgen.runs.schema import MANIFEST, RESULT
from ctrlgen.runs.store import Store

__all__ = ["Errand", "Running", "carry_out", "go_on", "place", "place_of", "typed"]


class Errand(Plan, Protocol):
    """A plan that a command carries out.

    One that has an attribute `out`, the file that the user named, ends with a report beside that.
    One with an attribute `code`, files of Python, runs them: `ctrlgen resume` asks to trust each.

    Attributes:
        what: the samples in a word, e.g. "reconstructions".
    """

    what: ClassVar[str]

    def files(self) -> list[Path]:
        """The files that it reads, whose sha256 belongs to the run's key."""

    def progress(self, job: Job) -> dict[str, Any]:
        """Arguments of `RunProgress`."""

    def put(self, job: Job, store: Store) -> None:
        """Write what the samples share, for reports."""

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """Write what there is into the store's folder, `result.json` last; returns its content.

        Raises:
            ValueError: if there is not a single sample of use; what was computed stays.
        """

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """Say on standard output what came out."""


@contextmanager
def place(
    out: Path | None,
    stem: str,
    running: Running,
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> Iterator[Path]:
    """The folder of a run, checked and held before any compute; shares of a run are in it together.

    Args:
        out: what the user named, if anything.
        stem: of the name where nothing was named.
        running: options, with the share.
        overwrite: whether earlier results make room.
        inputs: files that the run reads.

    Raises:
        ValueError: as `ctrlgen.runs.outputs.reserved`, or for a share without a folder.
    """
    running.executor(), running.size(1)  # raise where they are none
    if running.shard is None:
        with reserved(out, stem, overwrite=overwrite, inputs=inputs) as folder, run_folder(folder):
            yield folder
        return
    if out is None or overwrite:
        raise ValueError("shard: needs --out, the folder of all shares, and no --overwrite")
    check_output(out if not (out / MANIFEST).is_file() else out / "x")
    yield out


@contextmanager
def place_of(
    out: Path | None,
    stem: str,
    running: Running,
    suffixes: Sequence[str],
    *,
    overwrite: bool = False,
    inputs: Iterable[Path | None] = (),
) -> Iterator[tuple[Path, Path | None]]:
    """The folder of a run that ends with files of one name, and the first file if it is named.

    The folder of the run into FILE.sdf is FILE.run beside it; without a name, or with that of a
    folder, the files lie in the folder of the run.

    Args:
        out: what the user named, a folder or the first file.
        stem: as of `place`.
        running: options, with the share.
        suffixes: of the files, that of the first one first.
        overwrite: whether earlier results may be replaced.
        inputs: files that the run reads, which are never written over.

    Raises:
        ValueError: as `place`, or for another suffix, or files that are there already.
        OSError: if nothing can be written there.
    """
    read = [file for file in inputs if file is not None]
    if out is None or not out.suffix or out.is_dir():
        with place(out, stem, running, overwrite=overwrite, inputs=read) as folder:
            yield folder, None
        return
    if out.suffix.lower() != suffixes[0]:
        raise ValueError(f"out: expected a folder or a name that ends in {suffixes[0]}, got {out}")
    folder, files = out.with_suffix(".run"), [out.with_suffix(suffix) for suffix in suffixes]
    check_inputs(files, read)
    there = [file for file in files if os.path.lexists(file)]
    for file in there:
        if file.is_dir() or not file.exists():
            kind = "a folder" if file.is_dir() else "a link to nothing"
            raise ValueError(f"out: expected a file, {file} is {kind}")
    check_place(out)
    if there and not overwrite and running.shard is None:
        goes_on = f", or go on with it: ctrlgen resume {folder}" if cut_off(folder) else ""
        raise ValueError(f"out: {there[0]} exists; name another file or add --overwrite{goes_on}")
    with place(folder, stem, running, overwrite=overwrite, inputs=read):
        yield folder, out


def typed(ctx: typer.Context) -> str:
    """The words that were typed."""
    return str((ctx.obj or {}).get("command", ""))


def carry_out(
    plan: Errand,
    job: Job,
    folder: Path,
    running: Running,
    *,
    json: bool = False,
    **about: Any,
) -> None:
    """Run a plan into a folder, write and show what comes out.

    Args:
        plan: what to do.
        job: of the plan, which is sent to workers as the plan.
        folder: of the run, new or of the same plan.
        running: options.
        json: whether to print the numbers.
        **about: of the manifest; see `ctrlgen.runs.runner.begin`.

    Raises:
        typer.Exit: after an interruption, when what is finished is kept and said.
    """
    executor = running.executor()
    files = _digests(plan.files())
    store = begin(job, folder, executor, plan=plan, files=files, **about)
    here = isinstance(executor, Local) or (
        isinstance(executor, Slice) and isinstance(executor.inner, Local)
    )
    plan.put(job, store)
    cause: BaseException | None = None
    try:
        with RunProgress(**plan.progress(job), lines=running.json_lines) as progress:
            execute(job if here else plan, store, executor, progress)
    except BaseException as error:
        cause = error
        if store.partial is None and not any(True for _ in store.records()):
            raise
    if cause is None and store.pending():  # of other shares
        there = len(store) - len(store.missing)
        console.say(
            f"{there} of {len(store)} {plan.what} are in {folder}; the others are of other shards, "
            f"or of ctrlgen resume {shlex.quote(str(folder))}"
        )
        return
    try:
        with naming(folder):
            content = plan.finish(job, store)
    except OSError:
        console.warn(f"what is computed is kept: ctrlgen resume {shlex.quote(str(folder))}")
        raise
    except ValueError:
        if not (folder / RESULT).exists():  # there is nothing of use
            store.discard()
        raise
    if cause is not None:
        _cut_off(cause, plan, store)
    if json:
        print(console.dumps({"folder": folder, **content}))
    else:
        plan.show(content, folder)
    announce(getattr(plan, "out", None) or folder)


def _digests(files: Iterable[Path]) -> dict[str, str]:
    """sha256 by name; of two files of one name the second has its number with it."""
    digests: dict[str, str] = {}
    for file in files:
        again = sum(name.partition("#")[0] == file.name for name in digests)
        digests[f"{file.name}#{again + 1}" if again else file.name] = file_digest(file)
    return digests


def _cut_off(cause: BaseException, plan: Errand, store: Store) -> None:
    """Say what a run that did not come to its end has left, and how it goes on; ends it."""
    there = len(store) - len(store.missing)
    text = f"{there} of {len(store)} {plan.what} are in {store.folder}"
    shown = shlex.quote(str(getattr(plan, "out", None) or store.folder))
    remedy = f"ctrlgen report {shown} shows them, "
    remedy += f"ctrlgen resume {shlex.quote(str(store.folder))} goes on"
    if not isinstance(cause, KeyboardInterrupt):
        console.warn(f"{text}; {remedy}")
        raise cause
    console.warn(f"interrupted; {text}; {remedy}")
    raise typer.Exit(exit_code(cause)) from None


def go_on(folder: Path, running: Running, json: bool = False) -> None:
    """Compute what is missing of a folder, and end as the command that began it would have.

    Raises:
        ResultError: if the folder holds no run that can go on.
        OtherRun: if a file that it reads, or a prior, is another now.
    """
    plan, store = resume(folder)
    if running.batch is not None:
        raise ValueError("batch: it is that of the run")
    for text in store.warnings:
        console.warn(text)
    if isinstance(plan, Job):
        _plain(plan, folder, running, json)
        return
    check_files(folder, plan.files(), getattr(plan, "code", ()))  # type: ignore[attr-defined]
    carry_out(
        plan,  # type: ignore[arg-type]
        plan.job(),
        folder,
        running,
        json=json,
        **{name: store.manifest[name] for name in ("command", "domain", "title", "about")},
    )


def _plain(job: Job, folder: Path, running: Running, json: bool) -> None:
    """Go on with a job that a script began."""
    store = begin(job, folder)
    with RunProgress(lines=running.json_lines) as progress:
        execute(job, store, running.executor(), progress)
    if store.pending():
        return
    if not (folder / RESULT).exists():
        store.write_result()
    summary = store.summary()
    if json:
        print(console.dumps({"folder": folder, **summary}))
    else:
        rows = [(label, str(count)) for label, count in summary["status"].items()]
        console.stdout.print(console.table(str(folder), ("status", "samples>"), rows))
    announce(folder)
