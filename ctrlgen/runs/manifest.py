"""The manifest of a run: what is computed, with what, and the key that its numbers depend on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ctrlgen import __version__
from ctrlgen.priors.documents import read_object, write_whole
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.json_files import dumps
from ctrlgen.runs.schema import BACKUP, MANIFEST, SCHEMA, check_manifest

__all__ = [
    "OtherRun",
    "check_key",
    "differences",
    "digest",
    "manifest_of",
    "read",
    "seeds_in",
    "write",
]

LARGEST = 2**28  # bytes; of some ten million seeds


class OtherRun(ResultError):
    """A folder holds a run under another key."""


def manifest_of(
    *,
    seeds: Sequence[int],
    unit: int,
    key: Mapping[str, Any],
    device: str,
    threads: int,
    plan: Mapping[str, Any] | None = None,
    command: str = "",
    domain: str | None = None,
    title: str = "",
    metrics: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a new run; the fields are those of docs/runs.md."""
    consecutive = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return {
        "schema": SCHEMA,
        "kind": "ctrlgen-run",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(),
        "device": device,
        "threads": threads,
        "key": dict(key),
        "plan": None if plan is None else dict(plan),
        "domain": domain,
        "title": title,
        "seeds": {"first": seeds[0], "count": len(seeds)} if consecutive else list(seeds),
        "unit": unit,
        "chunk": unit,
        "metrics": dict(metrics or {}),
        "about": dict(about or {}),
    }


def versions() -> dict[str, str]:
    """Of everything that rounds."""
    return {
        "ctrlgen": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def seeds_in(manifest: Mapping[str, Any]) -> Sequence[int]:
    """The seeds of a run, in the order of its samples."""
    seeds = manifest["seeds"]
    if isinstance(seeds, list):
        return seeds
    return range(seeds["first"], seeds["first"] + seeds["count"])


def digest(key: Mapping[str, Any]) -> str:
    """sha256 of a key, by which a shard says to which run it belongs."""
    return hashlib.sha256(dumps(_sorted(key), indent=None).encode()).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def check_key(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise OtherRun where a folder's run is another than the one that is wanted.

    Args:
        there: key of the folder's manifest.
        wanted: key of the run that would go on.
        folder: for the message, which says what differs.
    """
    if digest(there) == digest(wanted):
        return
    changes = list(differences(there, wanted))
    listed = "; ".join(f"{name}: {old} there, {new} now" for name, old, new in changes[:4])
    more = f"; and {len(changes) - 4} more" if len(changes) > 4 else ""
    raise OtherRun(f"out: {folder} holds another run ({listed}{more}); name another folder")


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted names at which nested JSON differs, with both values; of another type, that alone."""
    if old == new:
        return
    both = isinstance(old, Mapping) and isinstance(new, Mapping)
    if both and old.get("type") == new.get("type"):
        for key in {**old, **new}:
            place = f"{name}.{key}" if name else str(key)
            yield from differences(old.get(key), new.get(key), place)
        return
    yield name, _shown(old), _shown(new)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping) and "type" in value:
        return str(value["type"])
    text = dumps(value, indent=None)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write(folder: Path, manifest: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Write a manifest and its backup.

    Raises:
        FileExistsError: if there is one, and it shall be a new one; nothing is written then.
    """
    content = (dumps(manifest) + "\n").encode()
    write_whole(folder / MANIFEST, content, fresh=fresh)
    write_whole(folder / BACKUP, content)


def read(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The manifest of a folder; where it is damaged its backup, and what is wrong with the first.

    Raises:
        ResultError: if the folder holds no run, or both are damaged.
    """
    reasons = []
    for name in (MANIFEST, BACKUP):
        file = folder / name
        try:
            content = read_object(file, LARGEST)
            check_manifest(content, file)
        except ValueError as error:
            reasons.append(str(error) if str(file) in str(error) else f"{file}: {error}")
        else:
            return content, reasons[0] if reasons else None
    if not any((folder / name).exists() for name in (MANIFEST, BACKUP)):
        raise ResultError(f"{folder} holds no run: there is no {MANIFEST}")
    raise ResultError(
        f"{reasons[0]}; its backup is damaged too. The shards are intact: start the same run into "
        f"this folder again, with --out {folder}, and it goes on with them"
    )
