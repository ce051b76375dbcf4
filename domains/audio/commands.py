"""The work of `ctrlgen audio`: what is refused before it begins, the run, and what it writes.

Results lie where `--out` says: for one take OUT itself, for several OUT with -1, -2, ... before its
ending; beside them OUT.json with every number. A result has format, subtype, rate, channels and
tags of its file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

from ctrlgen.commands import console
from ctrlgen.commands.report import announce
from ctrlgen.rows.errors import concerning
from ctrlgen.runs.interrupts import exit_code
from ctrlgen.runs.json_files import write_json
from ctrlgen.runs.outputs import check_inputs, hold, output_folder, reserved

if TYPE_CHECKING:
    from ctrlgen.domains.audio.cli import Options
    from ctrlgen.domains.audio.files import Recording
    from ctrlgen.domains.audio.restoration import Take
    from ctrlgen.priors.prior import Prior

__all__ = ["degrade", "restore", "sample"]

SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".ogg")
"""Files that a folder is searched for."""


def restore(task: str, file: Path, options: Options, **way: Any) -> None:
    """Restore a file, or every file of a folder.

    Args:
        task: "inpaint", "upsample", "declip" or "extend".
        file: or folder.
        options: of the command.
        way: options of the task.

    Raises:
        ValueError, OSError: whatever is wrong with a single file; with files of a folder it is said
            and the command ends with exit code 1.
    """
    if not file.is_dir():
        _one(task, file, _target(task, file, options.out), options, way)
        return
    files = sorted(f for f in file.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"file: {file} holds no sound file ({', '.join(SUFFIXES)})")
    folder = options.out or file.with_name(f"{file.name}-{task}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder for the files of {file}, {folder} is a file")
    failed = []
    for each in files:
        try:
            _one(task, each, folder / each.name, options, way)
        except (ValueError, OSError) as error:
            failed.append(each.name)
            console.warn(f"{each.name}: {error}")
    if failed:
        console.warn(f"{len(failed)} of {len(files)} files failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _target(task: str, file: Path, out: Path | None) -> Path:
    if out is None:
        return file.with_name(f"{file.stem}-{task}{file.suffix}")
    if out.suffix.lower() != file.suffix.lower():
        raise ValueError(
            f"out: expected a file that ends in {file.suffix}, the format of {file}, got {out}"
        )
    return out


def _names(out: Path, takes: int) -> list[Path]:
    if takes == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, takes + 1)]


def _one(task: str, file: Path, out: Path, options: Options, way: dict[str, Any]) -> None:
    from ctrlgen.domains.audio import files
    from ctrlgen.domains.audio.restoration import Settings

    settings = Settings(
        preset=options.preset,
        seeds=tuple(range(options.seed, options.seed + options.takes)),
        iterations=options.iterations,
        fit=options.fit,
        fade=options.fade / 1000,
    )
    recording = files.read(file)
    names = _names(out, options.takes)
    numbers = out.with_suffix(".json")
    check_inputs([*names, numbers], [file])
    for name in [*names, numbers]:
        if name.exists() and not options.overwrite:
            raise ValueError(f"out: {name} is there; name another file or add --overwrite")
    device = console.device_named(options.device)
    prior = _prior(options.prior, device)
    work, rows, about = _pose(task, prior, recording, settings, way)
    if options.dry_run:
        _estimate(prior, rows * options.takes, settings, names)
        return
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(hold(name))
        begun = time.monotonic()
        stops: list[KeyboardInterrupt] = []
        console.log.info("%s: %s, %d rows", task, file.name, rows * options.takes)
        takes = work(stops.append)
        for name, take in zip(names, takes, strict=True):
            files.write(name, take.recording)
        content: dict[str, Any] = {
            "task": task,
            "file": file,
            "prior": options.prior,
            "sha256": prior.card.sha256 if prior.card else "",
            "settings": {"preset": settings.preset, "fit_dB": settings.fit},
            **about,
            "seconds": round(time.monotonic() - begun, 2),
            "takes": [
                {"file": name, "seed": take.seed, "rows": take.rows}
                for name, take in zip(names, takes, strict=True)
            ],
        }
        write_json(numbers, console.plain(content), indent=1)
    _show(content, options.json)
    if stops:
        console.warn(f"interrupted; the best so far is in {', '.join(map(str, names))}")
        raise typer.Exit(exit_code(stops[0]))
    announce(numbers)


def _prior(name: str, device: str = "cpu") -> Prior:
    from ctrlgen.domains.audio.states import LatentCodec
    from ctrlgen.priors.storage import load

    with concerning("prior"):
        prior = load(name, device=device)
    if not isinstance(prior.codec, LatentCodec):
        raise ValueError(f"prior: expected one of audio, {name} has another kind of signal")
    return prior


Work = Callable[[Callable[[KeyboardInterrupt], None]], "list[Take]"]


def _pose(
    task: str, prior: Prior, recording: Recording, settings: Any, way: dict[str, Any]
) -> tuple[Work, int, dict[str, Any]]:
    """What is to be done, how many rows a take needs, and what is said of it."""
    from ctrlgen.domains.audio import clipping, inpainting, restoration, times, upsampling

    rate, window = restoration.window_of(prior)
    longest = window / rate / 2
    if task == "upsample":
        upsampling.check_rate(prior, recording, way["rate"])
        rows = len(restoration.windows(prior, recording)) * recording.samples.shape[0]
        return (
            lambda stopped: upsampling.upsample(
                prior, recording, way["rate"], settings, stopped=stopped
            ),
            rows,
            {"rate": way["rate"]},
        )
    if task == "declip":
        threshold = clipping.threshold_of(recording, way["threshold"])
        return (
            lambda stopped: clipping.declip(prior, recording, threshold, settings, stopped=stopped),
            len(restoration.windows(prior, recording)) * recording.samples.shape[0],
            {"threshold": threshold},
        )
    if task == "extend":
        seconds = way["seconds"]
        if not 0 < seconds <= longest:
            raise ValueError(
                f"seconds: expected up to {longest:g} s, half of what the prior hears, "
                f"got {seconds:g}"
            )
        recording = restoration.lengthened(recording, seconds)
        length = recording.samples.shape[1]
        spans = [(length - round(seconds * recording.rate), length)]
    elif way["labels"] is not None:
        spans = times.labels(way["labels"], recording.rate)
    elif way["auto_gaps"]:
        spans = times.silent_gaps(recording.samples, recording.rate)
        if not spans:
            raise ValueError("gap: no run of zeros of 5 ms or more lies inside of the file")
    else:
        spans = [times.gap(text, recording.rate) for text in way["gap"]]
    spans = times.check_gaps(spans, recording.samples.shape[1], recording.rate, longest)
    gaps = [[start / recording.rate, end / recording.rate] for start, end in spans]
    return (
        lambda stopped: inpainting.inpaint(prior, recording, spans, settings, stopped=stopped),
        len(spans) * recording.samples.shape[0],
        {"gaps_s": gaps},
    )


def _estimate(prior: Prior, rows: int, settings: Any, names: list[Path]) -> None:
    """Say how long a run takes at most, from one evaluation of the network."""
    x0 = prior.start([0])
    with torch.no_grad():
        prior.velocity(x0, 0.5)
        begun = time.monotonic()
        prior.velocity(x0, 0.5)
    second = time.monotonic() - begun
    iterations = settings.iterations
    if iterations is None:
        iterations = 30 if settings.preset == "fast" else 1000
    evaluations = 200 + 6 * 1.25 * iterations * 3  # a backward pass costs two evaluations
    megabytes = 8e-6 * x0.numel() * 2 * min(iterations, 100) * min(rows, settings.batch)
    console.say(
        f"{rows} rows, at most {rows * evaluations * second:.0f} s and {megabytes:.0f} MB of "
        f"optimizer memory; would write {', '.join(map(str, names))}"
    )


def _show(content: dict[str, Any], json: bool) -> None:
    if json:
        print(console.dumps(content))
        return
    rows = []
    for take in content["takes"]:
        for row in take["rows"]:
            place = row.get("gap", row.get("window", 0))
            known = row.get("known_psnr_dB")
            rows.append(
                (
                    str(take["seed"]),
                    str(place),
                    "-" if known is None else f"{known:.1f}",
                    str(row.get("evaluations", "-")),
                    row["status"],
                )
            )
    columns = ["seed>", "place>", "known (dB)>", "evaluations>", "status"]
    title = f"{content['task']}, {content['seconds']:.1f} s"
    console.stdout.print(console.table(title, columns, rows[:64]))
    for take in content["takes"]:
        console.say(take["file"])


def degrade(
    file: Path,
    out: Path,
    *,
    gap: list[str] | None,
    rate: int | None,
    clip: float | None,
    overwrite: bool,
) -> None:
    """Write a degraded file; see `cli.degrade`."""
    from ctrlgen.domains.audio import files, times
    from ctrlgen.domains.audio.operators import Clipping, TimeMask, gaps
    from ctrlgen.domains.audio.resampling import resample

    if sum((bool(gap), rate is not None, clip is not None)) != 1:
        raise ValueError("gap: expected exactly one of --gap, --rate and --clip")
    recording = files.read(file)
    check_inputs([out], [file])
    if out.exists() and not overwrite:
        raise ValueError(f"out: {out} is there; name another file or add --overwrite")
    _target("degrade", file, out)
    x = recording.samples[None]
    if gap:
        spans = [times.gap(text, recording.rate) for text in gap]
        seconds = x.shape[2] / recording.rate
        times.check_gaps(spans, x.shape[2], recording.rate, seconds)
        x = TimeMask(gaps(spans, x.shape[2]))(x)
    elif clip is not None:
        x = Clipping(clip)(x)
    else:
        assert rate is not None
        if rate >= recording.rate:
            raise ValueError(f"rate: expected less than the file's {recording.rate}, got {rate}")
        x = resample(x, recording.rate, rate)
    degraded = files.Recording(
        x[0], rate or recording.rate, recording.format, recording.subtype, recording.tags
    )
    with hold(out):
        files.write(out, degraded)
    console.say(out)


def sample(
    name: str, out: Path, number: int, seed: int, steps: int, *, overwrite: bool
) -> dict[str, Any]:
    """Draw sound and write it; see `cli.sample`."""
    from ctrlgen.domains.audio import files
    from ctrlgen.domains.audio.restoration import window_of

    with reserved(out, "sample", overwrite=overwrite) as folder:
        prior = _prior(name)
        rate, _ = window_of(prior)
        begun, written = time.monotonic(), []
        with output_folder(folder) as place, console.Progress("sampling", number, "clips") as bar:
            for each in range(seed, seed + number):
                x = prior.sample([each], prior.solver(steps))[0].double()
                peak = float(x.abs().max())
                x = x / max(1.0, peak)
                files.write(place / f"{each:04d}.wav", files.Recording(x, rate))
                written.append({"file": f"{each:04d}.wav", "seed": each, "peak": round(peak, 3)})
                bar.advance()
            content = {
                "task": "sample",
                "prior": name,
                "steps": steps,
                "seconds": round(time.monotonic() - begun, 2),
                "samples": written,
            }
            write_json(place / "result.json", content, indent=1)
    announce(folder)
    return content
