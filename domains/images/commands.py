"""What the restoring commands share: the run from options to files, and what is said at its end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from ctrlgen.commands import console
from ctrlgen.commands.run_options import seeds_of
from ctrlgen.commands.running import carry_out, place, typed
from ctrlgen.domains.images.options import Options
from ctrlgen.runs.json_files import plain

__all__ = ["method_of", "restore", "show"]


def restore(
    ctx: typer.Context,
    task: str,
    file: Path,
    options: Options,
    settings: dict[str, Any],
    compare: Any = "measurement",
) -> None:
    """Pose, solve, write and show.

    Args:
        ctx: of the command.
        task: "inpaint", "upsample", "deblur" or "denoise".
        file: of the command.
        options: of the command.
        settings: its own options, for `result.json`.
        compare: what the cost compares.
    """
    from ctrlgen.domains.images.runs import Restoration

    seeds_of(options.seeds, options.samples, 1, "--samples")
    read = [f for f in (file, options.truth, settings.get("mask")) if f is not None]
    stem = f"{task}-{file.stem}"
    overwrite = options.overwrite
    with place(options.out, stem, options, overwrite=overwrite, inputs=read) as folder:
        from ctrlgen.domains.images import doubts

        plan = Restoration.of(task, file, settings, options, compare)
        # errors name the paths that were typed
        job = Restoration(task, file, settings, options, compare).job()
        warnings = doubts.of_problem(job.method.problem, options.target)  # type: ignore[attr-defined]
        for text in warnings:
            console.warn(text)
        about = {
            "file": str(file),
            "settings": {k: v if v is None else plain(v) for k, v in settings.items()},
            "label": options.label,
            "warnings": warnings,
        }
        carry_out(
            plan, job, folder, options,
            json=options.json, command=typed(ctx), domain="images", title=task, about=about,
        )  # fmt: skip


def method_of(options: Options, problem: Any) -> tuple[str, int | None]:
    """The method and its evaluations: those that are named, or the best for task and prior.

    Options that only some methods take, and a comparison of pseudo-inverses, mean D-Flow.
    """
    from ctrlgen.domains.images.defaults import FALLBACK, default_for

    if options.method is not None:
        return options.method, options.evaluations
    own = (options.init, options.iterations, options.target)
    if any(value is not None for value in own) or problem.compare != "measurement":
        return FALLBACK, options.evaluations
    card = problem.prior.card
    method, evaluations = default_for(card.name if card else None, problem.task)
    console.log.debug("method: %s", method)
    return method, options.evaluations or evaluations


def show(content: dict[str, Any], folder: Path) -> None:
    """The table at the end of a run, and where its figure is."""
    plain = content.get("pseudo_inverse", {})
    columns = ["seed>", "measurement (dB)>", "evaluations>"]
    columns += [*(_HEADS[name] for name in plain), "status"]
    rows = [
        (
            str(sample["seed"]),
            _decimals(sample["measurement_psnr"], 1),
            str(sample["evaluations"]),
            *(_score(name, sample[name]) for name in plain),
            sample["status"],
        )
        for sample in content["samples"][:_LISTED]
    ]
    if plain:
        scores = (f"[dim]{_score(name, value)}[/]" for name, value in plain.items())
        rows.append(("[dim]H†y[/]", "", "", *scores, ""))
    name = content["prior"]["name"] if content["prior"] else "an unnamed prior"
    title = f"{content['task']} with {escape(name)}, {content['seconds']:.1f} s"
    console.stdout.print(console.table(title, columns, rows))
    more = len(content["samples"]) - _LISTED
    if more > 0:
        console.say(f"and {more} more in {folder / 'result.json'}")
    console.say(f"\n{folder / 'figure.png'}")


_LISTED = 64
"""Samples in the table at the end."""

_HEADS = {"psnr": "PSNR (dB)>", "ssim": "SSIM>"}


def _score(name: str, value: float) -> str:
    return _decimals(value, 2 if name == "psnr" else 3)


def _decimals(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
