"""The folder of a comparison: a manifest of its own, and ordinary run folders as its parts.

    FOLDER/manifest.json                   kind "ctrlgen-comparison", what is compared, its key
    FOLDER/tune/dps-50-x0.5/               run folder: a setting on the problems held aside
    FOLDER/runs/dps-50/                    run folder: the chosen setting on the other problems
    FOLDER/result.json                     rows, verdicts and what the search took

The key is what the numbers depend on, as that of a run (docs/runs.md), and a folder of another key
is refused. One process at a time has the folder, by the lock that run folders have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctrlgen.priors.documents import read_object, write_whole
from ctrlgen.rows.errors import ResultError
from ctrlgen.runs.json_files import dumps
from ctrlgen.runs.locks import lock_folder
from ctrlgen.runs.manifest import check_key, versions
from ctrlgen.runs.schema import MANIFEST, RESULT

__all__ = ["KIND", "begin", "is_comparison", "manifest", "part", "read_result", "write_result"]

KIND = "ctrlgen-comparison"
SCHEMA = 1
_LARGEST = 2**28


def is_comparison(folder: Path | str) -> bool:
    """Whether a folder holds a comparison."""
    file = Path(folder) / MANIFEST
    with suppress(ValueError, OSError):
        return read_object(file, _LARGEST).get("kind") == KIND
    return False


def manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a comparison.

    Raises:
        ResultError: if the folder holds none, or a newer ctrlgen wrote it.
    """
    file = Path(folder) / MANIFEST
    if not is_comparison(folder):
        raise ResultError(f"{folder} holds no comparison")
    content = read_object(file, _LARGEST)
    if content.get("schema") != SCHEMA:
        raise ResultError(f"{file}: expected schema {SCHEMA}, got {content.get('schema')!r}")
    return content


@contextmanager
def begin(folder: Path, key: Mapping[str, Any], **about: Any) -> Iterator[None]:
    """A comparison of a key in a folder, new or to go on with, which is this process's meanwhile.

    Args:
        folder: made where there is none.
        key: what its numbers depend on.
        **about: `command`, `plan` and `title` of the manifest.

    Raises:
        OtherRun: if the folder holds another comparison; the message says what differs.
        ResultError: if it holds something else.
        Held: if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        file = folder / MANIFEST
        if is_comparison(folder):
            check_key(manifest(folder)["key"], key, folder)
        elif file.exists():
            raise ResultError(f"out: {folder} holds something else; name another folder")
        else:
            content = {
                "schema": SCHEMA,
                "kind": KIND,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
                **about,
                "key": dict(key),
            }
            write_whole(file, (dumps(content) + "\n").encode())
        yield


def part(folder: Path, kind: str, *words: object) -> Path:
    """The run folder of a part, whose name is safe wherever folders are."""
    name = "-".join(re.sub(r"[^\w.=+]+", "-", str(word)).strip("-.") for word in words)
    return folder / kind / (name or "part")


def write_result(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `result.json`."""
    write_whole(folder / RESULT, (dumps(content) + "\n").encode())


def read_result(folder: Path | str) -> dict[str, Any]:
    """The content of `result.json`.

    Raises:
        ResultError: where there is none yet.
    """
    file = Path(folder) / RESULT
    if not file.is_file():
        raise ResultError(f"{folder}: the comparison is not finished: ctrlgen resume {folder}")
    return read_object(file, _LARGEST)
