"""Rows of an experiment on disk: each computed once for its weights and images, and kept.

    FOLDER/NAME.safetensors    its images
    FOLDER/NAME.json           schema, key that it was computed for, sha256 of the images, numbers

Both are written whole or not at all, as those of a run are (`ctrlgen.runs`), the JSON last: where
it is, the images are. An experiment that was cut off goes on with the rows that are missing; one
that is damaged, or of another key, is computed again and the difference said. While a row is
computed it is locked, and another process that wants it is refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ctrlgen.methods import Method
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.priors.documents import write_whole
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.status import Status
from ctrlgen.runs.json_files import read_json, write_json, write_results
from ctrlgen.runs.locks import lock_folder
from ctrlgen.runs.manifest import differences
from ctrlgen.runs.shards import packed

__all__ = ["RESULTS", "Rows", "publish", "timed"]

SCHEMA = 1
"""Of a row's JSON; rows without one are older, and have no sha256."""

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
        """Compute the row of that name, or take it from disk; returns its images.

        Raises:
            Held: if another process computes it.
        """
        with lock_folder(self.folder, name):
            row, images, why = self._read(name)
            if why is not None:
                if why:
                    typer.echo(f"{name}: computed again ({why})")
                content, images = compute()
                row = {"key": self.key, **content}
                self._write(name, row, images)
        typer.echo(f"{name}: {row.get('seconds', 0):.0f} s")
        self.rows[name], self.images[name] = row, images
        return images

    def _write(self, name: str, row: dict[str, Any], images: Tensor) -> None:
        payload = packed({"images": images})
        (self.folder / f"{name}.json").unlink(missing_ok=True)  # its images go
        write_whole(self.folder / f"{name}.safetensors", payload)
        mark = {"schema": SCHEMA, "sha256": hashlib.sha256(payload).hexdigest()}
        write_json(self.folder / f"{name}.json", mark | row, named=True, indent=None)

    def _read(self, name: str) -> tuple[dict[str, Any], Tensor, str | None]:
        """A row that is there, and None; else why it is to be computed, "" where there is none."""
        nothing: tuple[dict[str, Any], Tensor] = {}, torch.empty(0)
        file, pictures = self.folder / f"{name}.json", self.folder / f"{name}.safetensors"
        if not file.exists():
            return *nothing, ""
        try:
            row, payload = read_json(file), pictures.read_bytes()
            schema, digest = row.pop("schema", SCHEMA), row.pop("sha256", None)
            if schema != SCHEMA or digest not in (None, hashlib.sha256(payload).hexdigest()):
                return *nothing, f"{file} is damaged or of another version"
            changed = "; ".join(
                f"{place}: {old} there, {new} now"
                for place, old, new in differences(row["key"], self.key)
            )
            return (*nothing, changed) if changed else (row, load(payload)["images"], None)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
            return *nothing, f"{file} is damaged"


def publish(out: Path, results: dict[str, Any], table: str) -> None:
    """Write results.json and table.md of an experiment into a folder, and show the table.

    Args:
        out: the folder, made where there is none.
        results: JSON-able; written with six digits, what is not finite as a string
            (`ctrlgen.runs.json_files`), and a row's key only where it says what these do not.
            Its "note" is what a reader must know of the table, and is written below it.
        table: Markdown.
    """
    out.mkdir(parents=True, exist_ok=True)
    if results.get("note"):
        table = f"{table.rstrip()}\n\n{results['note']}\n"
    write_results(out / "results.json", keyless(results, results))
    (out / "table.md").write_text(table)
    typer.echo(table)


def keyless(part: Any, results: Mapping[str, Any]) -> Any:
    """A part of results without the keys of rows that repeat what the results say themselves."""
    if not isinstance(part, Mapping):
        return part
    key = part.get("key")
    known = isinstance(key, Mapping) and all(results.get(k) == v for k, v in key.items())
    return {k: keyless(v, results) for k, v in part.items() if not (known and k == "key")}


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
