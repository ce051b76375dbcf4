"""What the restoring commands share: the run from options to files, and what is said at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.markup import escape

from ctrlgen.commands import console
from ctrlgen.domains.images.options import Options
from ctrlgen.runs.interrupts import CutOff, exit_code
from ctrlgen.runs.outputs import reserved

__all__ = ["cut_off", "method_of", "restore", "seeds_of", "show", "typed"]


def restore(
    ctx: typer.Context,
    task: str,
    file: Path,
    operator: Callable[[tuple[int, ...]], Any],
    options: Options,
    settings: dict[str, Any],
    scale: int = 1,
    compare: Any = "measurement",
) -> None:
    """Pose, solve, write and show.

    Args:
        ctx: of the command.
        task: "inpaint", "upsample", "deblur" or "denoise".
        file: of the command.
        operator: H for images of a shape (C, H, W).
        options: of the command.
        settings: its own options, for `result.json`.
        scale: size of the result over that of the file.
        compare: what the cost compares.
    """
    seeds = seeds_of(options.seeds, options.samples)
    read = [f for f in (file, options.truth, settings.get("mask")) if f is not None]
    stem = f"{task}-{file.stem}"
    with reserved(options.out, stem, overwrite=options.overwrite, inputs=read) as folder:
        from ctrlgen.domains.images import doubts, restoration, runs

        device = console.device_named(options.device)
        problem = restoration.pose(
            task,
            file,
            operator,
            scale=scale,
            prior=options.prior,
            label=options.label,
            degrade=options.degrade,
            noise=options.noise,
            truth=options.truth,
            fit=options.fit,
            device=device,
            compare=compare,
            tile=options.tile,
            overlap=options.overlap,
        )
        name, evaluations = method_of(options, problem)
        method = problem.method(
            name,
            device=device,
            evaluations=evaluations,
            init=options.init,
            iterations=options.iterations,
            target=options.target,
        )
        warnings = doubts.of_problem(problem, options.target)
        for text in warnings:
            console.warn(text)
        try:
            content = runs.restore(
                problem,
                method,
                seeds,
                folder,
                label=options.label,
                batch=options.batch,
                command=typed(ctx),
                file=file,
                settings=settings,
                warnings=warnings,
            )
        except CutOff as stop:
            cut_off(stop, len(stop.content["samples"]), len(seeds), "reconstructions", folder)
        if options.json:
            print(console.dumps({"folder": folder, **content}))
        else:
            show(content, folder)


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


def cut_off(stop: CutOff, there: int, number: int, what: str, folder: Path) -> NoReturn:
    """Say what a run that did not come to its end has left, and end."""
    text = f"{there} of {number} {what} are in {folder}"
    if not isinstance(stop.cause, KeyboardInterrupt):
        console.warn(text)
        raise stop.cause
    console.warn(f"interrupted; {text}")
    raise typer.Exit(exit_code(stop.cause)) from None


def typed(ctx: typer.Context) -> str:
    """The words that were typed."""
    return str((ctx.obj or {}).get("command", ""))


def seeds_of(text: str | None, samples: int | None) -> list[int]:
    """Seeds 0 to N − 1, or those that are named.

    Raises:
        ValueError: for both, no integers, or one twice.
    """
    if text is None:
        return list(range(samples or 1))
    if samples is not None:
        raise ValueError("seeds: expected one of --seeds and --samples")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds: expected integers as in 3,5,8, got {text!r}") from error
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected each once, got {text!r}")
    return seeds


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
