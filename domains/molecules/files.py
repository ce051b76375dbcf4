"""What files of molecules share, and CSV: one row per sample, a header, empty cells for nothing.

A file holds one entry per sample, in order, with a tag for every known number: a sample without a
molecule is an empty record of `sdf` or frame of `xyz` that still has its tags. Files are written
aside and moved into place, so that a reader never sees half of one.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrlgen.runs.outputs import naming

__all__ = ["Tags", "cell", "paired", "read_csv", "read_text", "write_csv", "write_text"]

Tags = Mapping[str, object]


def write_text(path: str | Path, text: str) -> Path:
    """Write a file whole, or not at all."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path):
        try:
            scratch.write_text(text, encoding="utf-8", newline="")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    return path


def cell(value: object) -> str:
    """A value as one line: numbers short and exact enough, truth as true/false."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return "nan" if math.isnan(value) else f"{float(value):.8g}"
    return " ".join(str(value).split())


def paired(mols: Sequence[Any], tags: Sequence[Tags] | None) -> Sequence[Tags]:
    """Tags for each molecule, none by default.

    Raises:
        ValueError: another number of them.
    """
    tags = [{} for _ in mols] if tags is None else tags
    if len(tags) != len(mols):
        raise ValueError(f"tags: expected one mapping per molecule, {len(mols)}, got {len(tags)}")
    return tags


def read_text(path: str | Path) -> str:
    """The text of a file, decompressed where its name ends in .gz; lines end in \\n.

    Raises:
        FileNotFoundError: no such file.
        ValueError: compressed data that is broken.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected gzip data ({error})") from error
    return content.decode("utf-8", errors="replace").replace("\r\n", "\n")


def write_csv(path: str | Path, rows: Sequence[Tags]) -> Path:
    """Write one row per sample; columns in the order in which they first appear.

    Name columns with their unit, e.g. "mu (D)".

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row.get(name)) for name in columns] for row in rows)
    return write_text(path, text.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row with another number of cells than the header.
    """
    path = Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    if not lines:
        raise ValueError(f"{path}: expected a header, got an empty file")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(lines[0]):
            raise ValueError(
                f"{path}, row {number}: expected {len(lines[0])} cells, got {len(line)}"
            )
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
