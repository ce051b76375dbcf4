"""The work of `ctrlgen audio`: what is refused before it begins, the run, and what is said."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import typer

from ctrlgen.commands import console
from ctrlgen.commands.running import carry_out, place, typed
from ctrlgen.domains.audio.options import Options
from ctrlgen.extras import require
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.outputs import check_inputs, hold

__all__ = ["restore", "show"]

_LISTED = 64
"""Takes in the table at the end."""


def restore(ctx: typer.Context | str, task: str, file: Path, options: Options, **way: Any) -> None:
    """Restore a file, or every file of a folder, as one run.

    Args:
        ctx: of the command, or what was typed.
        task: "inpaint", "upsample", "declip" or "extend".
        file: or folder.
        options: of the command.
        way: options of the task.

    Raises:
        ValueError, OSError: whatever is wrong with a single file, or with every file of a folder.
        typer.Exit: with 1 where some files of a folder are refused, after the others.
    """
    settings = options.settings
    require("soundfile", "audio")
    way = {name: tuple(v) if isinstance(v, list) else v for name, v in way.items()}
    way["fade"] = settings.fade
    written = _file_to_write(file, options.out)
    folder = None if written is not None else options.out
    if options.dry_run:
        _estimate(_surveyed(task, file, options, way, written), options)
        return
    inputs = [file, *(v for v in way.values() if isinstance(v, Path))]
    with ExitStack() as stack:
        stem = f"{task}-{file.stem}"
        held = place(folder, stem, options, overwrite=options.overwrite, inputs=inputs)
        run = stack.enter_context(held)
        plan = _surveyed(task, file, options, way, written)
        if written is not None:
            names = plan.names(plan.sources[0], run)
            check_inputs(names, [file])
            for name in names:
                if name.exists() and not options.overwrite:
                    raise ValueError(f"out: {name} is there; name another file or add --overwrite")
                stack.enter_context(hold(name))
        lasting = plan.lasting()
        about = {
            "task": task,
            "file": str(file),
            "settings": {name: value for name, value in way.items() if value is not None},
        }
        carry_out(
            lasting, lasting.job(), run, options,
            json=options.json, command=ctx if isinstance(ctx, str) else typed(ctx), domain="audio",
            title=f"{task} of {file.name}", about=about,
        )  # fmt: skip
    if plan.refused:
        raise typer.Exit(1)


def _file_to_write(file: Path, out: Path | None) -> Path | None:
    """The sound file that was named, None where it was a folder or nothing.

    Raises:
        ValueError: a file of another format, or one for a folder of files.
    """
    from ctrlgen.domains.audio.tasks import SUFFIXES

    if out is None or out.is_dir() or out.suffix.lower() not in (*SUFFIXES, file.suffix.lower()):
        return None
    if not out.suffix:
        return None
    if file.is_dir():
        raise ValueError(f"out: expected a folder for the files of {file}, got {out}")
    if out.suffix.lower() != file.suffix.lower():
        raise ValueError(
            f"out: expected a file that ends in {file.suffix}, the format of {file}, got {out}"
        )
    return out


def _surveyed(
    task: str, file: Path, options: Options, way: dict[str, Any], written: Path | None
) -> Any:
    """The run: which files can be restored, and what is wrong with the others."""
    from ctrlgen.domains.audio.filling import Source
    from ctrlgen.domains.audio.posing import window_of
    from ctrlgen.domains.audio.priors import prior_of_audio
    from ctrlgen.domains.audio.runs import Restoration
    from ctrlgen.domains.audio.tasks import posed, sounds_in

    sounds = sounds_in(file) if file.is_dir() else [file]
    window = window_of(prior_of_audio(options.prior, console.device_named(options.device)))
    items, sources, refused = tuple(way.items()), list[Source](), list[tuple[str, str]]()
    for sound in sounds:
        try:
            rows, _ = posed(task, sound.absolute(), items, window)
            sources.append(Source(sound, sound.name, tuple(rows.seeds(0))))
        except (ValueError, OSError) as error:
            if not file.is_dir():
                raise
            refused.append((sound.name, str(error)))
    if not sources:
        name, reason = refused[0]
        raise ValueError(
            f"file: none of the {len(sounds)} files of {file} will do; {name}: {reason}"
        )
    return Restoration(
        task, tuple(sources), items, (window.rate, window.length), options, written, tuple(refused)
    )  # fmt: skip


def _estimate(plan: Any, options: Options) -> None:
    """Say how long a run takes at most, from one evaluation of the network."""
    from ctrlgen.domains.audio.priors import prior_of_audio

    prior: Prior = prior_of_audio(options.prior, console.device_named(options.device))
    rows = sum(source.rows for source in plan.sources) * options.takes
    x0 = prior.start([0])
    with torch.no_grad():
        prior.velocity(x0, 0.5)
        begun = time.monotonic()
        prior.velocity(x0, 0.5)
    second = time.monotonic() - begun
    iterations = options.iterations
    if iterations is None:
        iterations = 30 if options.preset == "fast" else 1000
    evaluations = 200 + 6 * 1.25 * iterations * 3  # a backward pass costs two evaluations
    size = options.size(rows)
    batch = size if isinstance(size, int) else rows
    megabytes = 8e-6 * x0.numel() * 2 * min(iterations, 100) * min(rows, batch)
    for name, reason in plan.refused:
        console.warn(f"{name}: {reason}")
    folder = options.out if plan.to is None and options.out is not None else Path("runs/...")
    names = [str(n) for source in plan.sources for n in plan.names(source, folder)]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    console.say(
        f"{rows} rows, at most {rows * evaluations * second:.0f} s and {megabytes:.0f} MB of "
        f"optimizer memory; would write {', '.join(names[:8])}{more}"
    )


def show(content: dict[str, Any], folder: Path) -> None:
    """The table of takes, with the files that were refused, and where the results are."""
    rows = []
    for take in content["takes"]:
        known = [row["known_psnr_dB"] for row in take["rows"] if row.get("known_psnr_dB")]
        rows.append(
            (
                Path(take["source"]).name,
                str(take["seed"]),
                f"{min(known):.1f}" if known else "-",
                str(sum(row.get("evaluations") or 0 for row in take["rows"])),
                take["reason"] or take["status"],
            )
        )
    rows += [
        (each["file"], "-", "-", "-", f"refused: {each['reason']}") for each in content["refused"]
    ]
    columns = ["file", "seed>", "known (dB)>", "evaluations>", "status"]
    title = f"{content['task']}, {content['seconds']:.1f} s"
    console.stdout.print(console.table(title, columns, rows[:_LISTED]))
    if len(rows) > _LISTED:
        console.say(f"and {len(rows) - _LISTED} more in {folder / 'result.json'}")
    for take in content["takes"]:
        if take["file"] is not None:
            console.say(folder / take["file"])
