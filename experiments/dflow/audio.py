r"""D-Flow on sound: the tasks of Table 3 of arXiv 2402.14017, at our size.

    python -m ctrlgen.experiments.dflow.audio --clips 8
    python -m ctrlgen.experiments.dflow.audio --clips 2 --methods d-flow-paper,d-flow-fast
    python -m ctrlgen.experiments.dflow.audio --music /usr/share/games/singularity/music

Tasks: a gap in the middle of 10 or 20 % of a clip of 4 s, and rates lower by 2, 4 and 8, without
noise. Clips are renders of scores that were never trained on, evenly spread over all of them, or of
the sound files of `--music`, at −20 dB. All clips of a task are one batch.

D-Flow as the commands run it, `fast`, and by the paper's settings, `paper` (for hours or a card);
RED-diff as in the paper, on the latents, and at the rate and weight that a small search finds for
them (`dflow.audio_search`); and guided samplers of the library at settings for these latents.
Beside them what costs nothing (silence, a line, the low band), and the codec's own way there and
back, the ceiling of them all. PSNR, at peak 1, can't tell a fill from silence: read LSD and
FAD-musicnn and the F1 of the notes in gaps, where the wheels of musicnn and Basic Pitch lie beside
the data (`domains.audio.musicnn.fetch`, `domains.audio.notes.fetch`).

A row that is finished for these weights lies under `runs/` and is not run again; `results.json`
under `experiments/results` holds them all, with the table and the figure beside it. Rows that it
has already, of the same weights and clips, stay: tasks and methods may be run one by one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import ctrlgen
from ctrlgen.domains.audio import musicnn, notes
from ctrlgen.domains.audio.data import RATE
from ctrlgen.domains.audio.loudness import gain
from ctrlgen.domains.audio.quality import foreign_clips, held_out_clips
from ctrlgen.experiments.dflow.audio_scores import TASKS, Problem, scores
from ctrlgen.experiments.dflow.audio_settings import DEFAULTS, METHODS, build
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish, timed
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.json_files import read_json
from ctrlgen.training.wheels import there

__all__ = ["GOAL", "clips_of", "main", "verdicts"]

GOAL = 40.0
"""PSNR in dB of what is observed at which D-Flow stops, where the codec can do as much."""

EMBEDDER = "FAD-musicnn"

SOUNDS = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3")


def clips_of(count: int, data: Path, music: Sequence[Path] = ()) -> tuple[Tensor, dict[str, Any]]:
    """Clips at −20 dB, shape (B, 1, L), and where they are from.

    Args:
        count: B, fewer where files of music are silent or short.
        data: folder of the rendered scores, where there is no music.
        music: sound files, or folders of them; the clips are spread evenly over all.

    Raises:
        ValueError: a folder without a sound file.
    """
    if not music:
        return held_out_clips(data, count), {"set": "held-out renders", "music": []}
    every: list[Path] = []
    for place in music:
        inside = sorted(file for file in place.rglob("*") if file.suffix.lower() in SOUNDS)
        if place.is_dir() and not inside:
            raise ValueError(f"music: expected sound files in {place}, got none")
        every += inside if place.is_dir() else [place]
    files = [every[i * len(every) // count] for i in range(min(count, len(every)))]
    if len(every) < count:
        files = every
    x = foreign_clips(files, -(-count // len(files)))[:count]
    names = [file.name for file in files]
    return x * gain(x)[:, None, None], {"set": "other music", "music": names}


def ceiling_of(prior: Prior, problem: Problem) -> Tensor:
    """PSNR of what is observed, in dB, that the codec leaves of the true clips, shape (B,)."""
    with torch.no_grad():
        return problem.observed(prior.codec.decode(prior.codec.encode(problem.truth)))


def spent_at(result: Result, goal: Tensor) -> list[int | None]:
    """Evaluations at which each clip's cost was first at −goal, None where it never was."""
    if "cost" not in result.history or "evaluations" not in result.history:
        return [None] * len(goal)
    there = result.history["cost"].cummin(0).values <= -goal
    spent = result.history["evaluations"].gather(0, there.float().argmax(0).unsqueeze(0))[0]
    return [int(n) if hit else None for n, hit in zip(spent, there.any(0), strict=True)]


def method_row(
    prior: Prior, problem: Problem, name: str, iterations: int | None
) -> tuple[dict[str, Any], Tensor]:
    """A method on all clips of a task at once."""
    ceiling = ceiling_of(prior, problem)
    goal = (ceiling - 0.5).nan_to_num(GOAL).clamp_max(GOAL)
    method = build(name, goal, iterations)
    result, account = timed(method, prior, problem.cost(method), range(len(problem.truth)))
    own = result.samples.detach()
    images = problem.spliced(own)
    row: dict[str, Any] = {
        **scores(problem, images, own),
        "goal": goal.tolist(),
        "ceiling": ceiling.tolist(),
    }
    row["evaluations_at_goal"] = spent_at(result, goal) if name.startswith("d-flow") else None
    return {**row, **account}, images


def plain_row(problem: Problem, x: Tensor) -> tuple[dict[str, Any], Tensor]:
    """What costs no evaluation."""
    return scores(problem, x), x


def frechet_row(
    network: musicnn.Musicnn, x: Tensor, theirs: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """FAD-musicnn of clips (B, 1, L) against embeddings (N, 200) of the true ones."""
    ours = network.embed(x.nan_to_num(0, 0, 0).clamp(-1, 1))
    with warnings.catch_warnings():  # the table names n
        warnings.filterwarnings("ignore", message="frechet: ")
        value = musicnn.frechet(ours, theirs)
    return {"embedder": EMBEDDER, "windows": len(ours), "value": value}, ours


def run(
    prior: Prior,
    truth: Tensor,
    rows: Rows,
    tasks: list[str],
    methods: list[str],
    iterations: int | None,
    network: musicnn.Musicnn | None,
    pitch: notes.BasicPitch | None = None,
) -> None:
    """All rows of some tasks and methods, those of gaps with the notes that came back."""
    theirs = None if network is None else network.embed(truth)
    for task in tasks:
        problem = Problem.of(task, truth)
        made: dict[str, Tensor] = {}
        with torch.no_grad():
            through = prior.codec.decode(prior.codec.encode(truth))
        for name, x in {**problem.trivial(), "codec": through}.items():
            made[name] = rows.get(f"{task}-{name}", partial(plain_row, problem, x))
        for name in methods:
            work = partial(method_row, prior, problem, name, iterations)
            made[name] = rows.get(f"{task}-{name}", work)
        for name, x in made.items():
            key = f"{task}-{name}"
            if pitch is not None and problem.span is not None:
                finite = x.nan_to_num(0, 0, 0)
                values = notes.note_f1(pitch, finite, truth, RATE, problem.span)
                rows.rows[key]["note_f1"] = values
            if network is not None and theirs is not None:
                work = partial(frechet_row, network, x, theirs)
                rows.get(f"frechet-{key}", work)
                rows.rows[key]["frechet"] = rows.rows.pop(f"frechet-{key}")


def verdicts(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What D-Flow's rows say of the trivial ones and of RED-diff, by task and preset.

    Args:
        results: as written, at least its "tasks" and "rows".

    Returns:
        "lsd_of_trivial": median LSD over that of silence or the low band; "below_line"; "at_goal":
        share of clips whose observed PSNR is within 1 dB of the codec's ceiling or of `GOAL`, the
        lower one; "frechet_below": by rows that have one, whether D-Flow's distance is lower; and
        of the preset fast, beside `paper`, "evaluations_of_paper": its evaluations up to the goal
        over those of paper, the median over clips. A clip that never gets there counts with all of
        its evaluations.
    """
    rows, found = results["rows"], {}
    for task in results["tasks"]:
        for name in ("d-flow-fast", "d-flow-paper"):
            row = rows.get(f"{task}-{name}")
            if row is None:
                continue
            plain = rows[f"{task}-{'silence' if task.startswith('gap') else 'low-pass'}"]
            least = np.array(row["goal"]) - 1.0
            entry: dict[str, Any] = {
                "lsd_of_trivial": float(np.median(row["lsd"]) / np.median(plain["lsd"])),
                "at_goal": float(np.mean(np.array(row["psnr_observed"]) >= least)),
                "evaluations": row["evaluations"],
            }
            if f"{task}-line" in rows:
                line = np.median(rows[f"{task}-line"]["lsd"])
                entry["below_line"] = bool(np.median(row["lsd"]) < line)
            if "frechet" in row:
                entry["frechet_below"] = {
                    other: row["frechet"]["value"] < rows[f"{task}-{other}"]["frechet"]["value"]
                    for other in ("silence", "line", "low-pass", "red-diff", "red-diff-tuned")
                    if "frechet" in rows.get(f"{task}-{other}", {})
                }
            paper = rows.get(f"{task}-d-flow-paper")
            if name == "d-flow-fast" and paper is not None:
                spent, theirs = (
                    np.array([each or one["evaluations"] for each in one["evaluations_at_goal"]])
                    for one in (row, paper)
                )
                entry["evaluations_of_paper"] = float(np.median(spent / theirs))
            found[f"{task}-{name}"] = entry
    return found


def gathered(out: Path, key: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows beside those of the same key that a folder has, in the order of the table.

    Args:
        out: folder of an earlier `results.json`, or of none.
        key: what the rows hold for.
        rows: new ones, by name; they replace the old.

    Returns:
        "rows", and the "tasks" and "methods" that they are of.
    """
    file = out / "results.json"
    earlier = read_json(file) if file.is_file() else {}
    if {name: earlier.get(name) for name in key} == key:
        rows = {**earlier["rows"], **rows}
    order = ("silence", "line", "low-pass", "codec", *METHODS)
    rows = {
        f"{task}-{name}": rows[f"{task}-{name}"]
        for task in TASKS
        for name in order
        if f"{task}-{name}" in rows
    }
    tasks = [task for task in TASKS if any(name.startswith(f"{task}-") for name in rows)]
    of = {name.split("-", 1)[1] for name in rows}
    return {"rows": rows, "tasks": tasks, "methods": [name for name in METHODS if name in of]}


def main(
    prior: Annotated[str, typer.Option(help="name, or a card's path")] = "freedoom-music",
    clips: Annotated[int, typer.Option(min=2, help="all in one batch")] = 8,
    tasks: Annotated[str, typer.Option(help="with commas")] = ",".join(TASKS),
    methods: Annotated[str, typer.Option(help=f"of {', '.join(METHODS)}")] = ",".join(DEFAULTS),
    data: Annotated[Path, typer.Option(help="folder of the rendered scores")] = Path("data/audio"),
    music: Annotated[list[Path] | None, typer.Option(help="sound files in their place")] = None,
    iterations: Annotated[int | None, typer.Option(min=0, help="most of D-Flow's")] = None,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
    note: Annotated[str, typer.Option(help="below the table")] = "",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, a table and a figure."""
    from ctrlgen.experiments.dflow.audio_figures import figure, table

    torch.set_num_threads(threads)
    asked, wanted = names("tasks", tasks, TASKS), names("methods", methods, METHODS)
    model = ctrlgen.load(prior, device=device)
    assert model.card is not None
    truth, source = clips_of(clips, data, music or ())
    truth = truth.to(device)
    network = None
    if there(musicnn.PACKAGE, data.parent):
        network = musicnn.load(data.parent).to(device)
    else:
        typer.echo(f"without {EMBEDDER}: no wheel of {musicnn.PACKAGE} in {data.parent}", err=True)
    pitch = None
    if there(notes.PACKAGE, data.parent):
        pitch = notes.load(data.parent)
    else:
        typer.echo(f"without notes: no wheel of {notes.PACKAGE} in {data.parent}", err=True)
    key: dict[str, Any] = {"sha256": model.card.sha256, "clips": len(truth), **source}
    key["iterations"] = iterations
    key["signals"] = hashlib.sha256(truth.cpu().numpy().tobytes()).hexdigest()
    where = "music" if music else "held-out"
    rows = Rows(cache / "dflow_audio" / where, key)
    run(model, truth, rows, asked, wanted, iterations, network, pitch)
    out = out or RESULTS / f"dflow_audio_{where}"
    results = {"prior": model.card.name, **key, **gathered(out, key, rows.rows), "goal": GOAL}
    results["verdicts"] = verdicts(results)
    if note:
        results["note"] = note
    publish(out, results, table(results))
    figure(results, out / "lsd.png")


if __name__ == "__main__":
    typer.run(main)
