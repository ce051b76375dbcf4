"""Rows of an experiment on disk: each computed once for its weights and images, and kept.

A row is a JSON file with the key of what it was computed for, and a safetensors file of its images.
An experiment that was cut off goes on with the rows that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctrlgen.methods import Method
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.runs.json_files import read_json, write_json

__all__ = ["RESULTS", "Rows", "publish", "timed"]

RESULTS = Path("experiments/results")
"""Where tables are written, below the working folder: in a checkout, beside the experiments."""


class Rows:
    """Rows on disk: computed once for these weights and these images, and kept.

    Args:
        folder: where they lie.
        key: what they hold for, JSON-able; a row of another key is computed again.

    Attributes:
        rows: those that were asked for, by name.
        images: theirs.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, dict[str, Any]] = {}
        self.images: dict[str, Tensor] = {}

    def get(self, name: str, compute: Callable[[], tuple[dict[str, Any], Tensor]]) -> Tensor:
        """Compute the row of that name, or take it from disk; returns its images."""
        file, pictures = self.folder / f"{name}.json", self.folder / f"{name}.safetensors"
        if file.exists() and (row := read_json(file))["key"] == self.key:
            images = load_file(pictures)["images"]
        else:
            content, images = compute()
            row = {"key": self.key, **content}
            save_file({"images": images.contiguous()}, pictures)
            write_json(file, row, named=True, indent=None)
        typer.echo(f"{name}: {row.get('seconds', 0):.0f} s")
        self.rows[name], self.images[name] = row, images
        return images


def publish(out: Path, results: dict[str, Any], table: str) -> None:
    """Write results.json and table.md of an experiment into a folder, and show the table.

    Args:
        out: the folder, made where there is none.
        results: JSON-able; what is not finite is written as a string (`ctrlgen.runs.json_files`).
            Its "note" is what a reader must know of the table, and is written below it.
        table: Markdown.
    """
    out.mkdir(parents=True, exist_ok=True)
    if results.get("note"):
        table = f"{table.rstrip()}\n\n{results['note']}\n"
    write_json(out / "results.json", results, named=True, indent=1)
    (out / "table.md").write_text(table)
    typer.echo(table)


def timed(
    method: Method, prior: Prior, cost: CostLike, seeds: range
) -> tuple[Result, dict[str, Any]]:
    """A method's run on all samples, and the columns of its row that every table has.

    Args:
        method: to run.
        prior: to run it over.
        cost: of all samples.
        seeds: one per sample.

    Returns:
        The result; and its settings, evaluations and backward passes per sample, how the samples
        ended, and seconds for all of them: of this process's processor time, of the wall where the
        samples are on a device.
    """
    began = time.process_time(), time.perf_counter()
    result = method(prior, cost, seeds=seeds)
    if result.samples.is_cuda:
        torch.cuda.synchronize()
    seconds = time.process_time() - began[0], time.perf_counter() - began[1]
    return result, {
        "method": result.method,
        "evaluations": result.network.forward_rows / len(seeds),
        "vjps": result.network.vjp_rows / len(seeds),
        "jvps": result.network.jvp_rows / len(seeds),
        "status": result.counts(),
        "diverged": int((result.status == Status.DIVERGED).sum()),
        "seconds": seconds[result.samples.is_cuda],
        "threads": torch.get_num_threads(),
    }
