r"""Rate and weight of RED-diff on the latents of sound: a search on clips that no table reports.

    python -m ctrlgen.experiments.dflow.audio_search --clips 4

The learning rate and the weight λ of the published baseline (0.05 and 0.5, arXiv 2402.14017) are
for EnCodec's latents. Here every pair of `RATES` and `WEIGHTS` fills a gap of a tenth in clips of
the training scores, 100 steps each, and the least median LSD in the gap wins: what the table reads.
`dflow.audio` runs the winner as "red-diff-tuned".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import ctrlgen
from ctrlgen.domains.audio.data import read
from ctrlgen.domains.audio.quality import LENGTH
from ctrlgen.domains.audio.trainer import levelled
from ctrlgen.experiments.dflow.audio_scores import Problem, scores
from ctrlgen.experiments.dflow.audio_settings import red_diff
from ctrlgen.experiments.shared.options import Threads
from ctrlgen.experiments.shared.rows import RESULTS, publish, timed

__all__ = ["RATES", "WEIGHTS", "main"]

RATES = (0.05, 0.2, 0.5)
WEIGHTS = (0.5, 0.05, 0.005)


def table(results: dict[str, Any]) -> str:
    """Medians over the clips, as Markdown."""
    lines = [
        f"{results['clips']} clips of the training scores, a gap of 10 %, 100 steps; medians.",
        "",
        "| rate | weight | LSD | observed (dB) |",
        "|---|---|---|---|",
    ]
    for row in results["rows"]:
        mark = "**" if (row["rate"], row["weight"]) == tuple(results["best"]) else ""
        lines.append(
            f"| {row['rate']:g} | {row['weight']:g} | {mark}{np.median(row['lsd']):.2f}{mark} "
            f"| {np.median(row['psnr_observed']):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    prior: Annotated[str, typer.Option(help="name, or a card's path")] = "freedoom-music",
    clips: Annotated[int, typer.Option(min=1, help="all in one batch")] = 4,
    data: Annotated[Path, typer.Option(help="folder of the rendered scores")] = Path("data/audio"),
    out: Annotated[Path, typer.Option(help="folder of results")] = RESULTS / "dflow_audio_search",
    threads: Threads = 1,
) -> None:
    """Run all pairs, and write results.json and a table."""
    torch.set_num_threads(threads)
    model = ctrlgen.load(prior)
    assert model.card is not None
    truth = levelled(read(data, "train"), (torch.arange(clips) + 0.5) / clips, LENGTH)
    problem = Problem.of("gap10", truth)
    rows: list[dict[str, Any]] = []
    for rate in RATES:
        for weight in WEIGHTS:
            method = red_diff(rate, weight)
            result, account = timed(method, model, problem.cost(method), range(clips))
            own = result.samples.detach()
            values = scores(problem, problem.spliced(own), own)
            row = {"rate": rate, "weight": weight, **values, "seconds": account["seconds"]}
            rows.append(row)
            typer.echo(f"{rate:g} {weight:g}: {np.median(row['lsd']):.3f}")
    best = min(rows, key=lambda row: float(np.median(row["lsd"])))
    results: dict[str, Any] = {"prior": model.card.name, "sha256": model.card.sha256}
    results |= {"clips": clips, "best": [best["rate"], best["weight"]], "rows": rows}
    publish(out, results, table(results))


if __name__ == "__main__":
    typer.run(main)
