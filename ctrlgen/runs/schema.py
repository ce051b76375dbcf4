"""What a run folder holds, by name: the fields of its JSON and the names of its tensors.

    FOLDER/manifest.json               what is computed, written before anything is
    FOLDER/manifest.backup.json        the same, should the first be damaged
    FOLDER/shards/000000.safetensors   tensors of unit 0, one row per sample
    FOLDER/shards/000000.jsonl         its header, then one record per sample
    FOLDER/tensors.safetensors         what the samples share or are compared with
    FOLDER/result.json                 the run in numbers, when it is over

A run is a table of independent samples, ids 0 to N − 1, cut into units of consecutive ids. A unit
is finished when its two files are there; the JSON lines come last and hold the sha256 of the
tensors. JSON is strict: a number that is not finite is null. docs/runs.md says all of this in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ctrlgen.rows.errors import short

__all__ = [
    "BACKUP",
    "HISTORY",
    "MANIFEST",
    "RESULT",
    "SCHEMA",
    "SHARDS",
    "SHARED",
    "TENSORS",
    "Header",
    "Record",
    "check_manifest",
    "shard_files",
]

SCHEMA = 1
"""Version of all that is described here; a reader refuses a newer one."""

MANIFEST, BACKUP = "manifest.json", "manifest.backup.json"
RESULT, TENSORS, SHARDS = "result.json", "tensors.safetensors", "shards"

SHARED = ("measurement", "truth", "baseline")
"""Names in `tensors.safetensors`, each (1, *) where all samples share it or (N, *) in their order:
the measurement y as the user gave it, the true signals, and what the measurement alone says of
them (the pseudo-inverse of y). None of them must be there."""

HISTORY = "history."
"""Prefix of a shard's tensors (R, b): one row per round, e.g. "history.cost" and
"history.evaluations", which are drawn against each other."""


class Record(TypedDict):
    """One sample: a line of a shard.

    Attributes:
        id: its place in the run, 0 to N − 1.
        seed: of its draws.
        status: how it ended, in words (`Status.label`).
        cost: as the method's target sees it; None where it is no number.
        iterations: accepted iterations.
        evaluations: network evaluations.
        backward_passes: through the network.
        objective_calls: evaluations of the objective.
        seconds: of its batch, over the samples of the batch.
        metrics: by name, None where one is no number or could not be computed.
        flags: what is wrong with it, in words a table can be filtered by: "failed", "diverged",
            "timed out: METRIC", ...
        reason: what was raised, of a sample that failed; else None.
    """

    id: int
    seed: int
    status: str
    cost: float | None
    iterations: int
    evaluations: int
    backward_passes: int
    objective_calls: int
    seconds: float
    metrics: dict[str, Any]
    flags: list[str]
    reason: str | None


class Header(TypedDict):
    """The first line of a shard.

    Attributes:
        schema: `SCHEMA`.
        unit: its number.
        key: sha256 of the manifest's key.
        first: id of its first sample.
        samples: how many, so many lines follow.
        seconds: of the unit.
        network: passes through the network, by the names of `Evaluations`.
        method: the method as text.
        chunk: samples at a time.
        bytes: of the tensors' file.
        tensors_sha256: of that file.
        records_sha256: of the lines that follow, as UTF-8.
    """

    schema: int
    unit: int
    key: str
    first: int
    samples: int
    seconds: float
    network: dict[str, int]
    method: str
    chunk: int
    bytes: int
    tensors_sha256: str
    records_sha256: str


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "kind": str,
    "created": str,
    "command": str,
    "versions": dict,
    "device": str,
    "threads": int,
    "key": dict,
    "plan": (dict, type(None)),
    "domain": (str, type(None)),
    "title": str,
    "seeds": (list, dict),
    "unit": int,
    "chunk": int,
    "metrics": dict,
    "about": dict,
}


def check_manifest(content: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError, naming the file, for what is no manifest of this version."""
    if content.get("kind") != "ctrlgen-run":
        raise ValueError(f"{file}: expected the manifest of a run")
    version = content.get("schema")
    if type(version) is not int or not 0 < version <= SCHEMA:
        raise ValueError(
            f"{file}: expected schema {SCHEMA}, got {short(version)}"
            + ("; a newer ctrlgen wrote it" if isinstance(version, int) else "")
        )
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{file}: {name}: got {short(content.get(name))}")
    for name in ("unit", "chunk", "threads"):
        if content[name] < 1:
            raise ValueError(f"{file}: {name}: expected at least 1, got {content[name]}")


def shard_files(folder: Path, unit: int) -> tuple[Path, Path]:
    """The tensors and the JSON lines of a unit."""
    place = folder / SHARDS
    return place / f"{unit:06d}.safetensors", place / f"{unit:06d}.jsonl"
