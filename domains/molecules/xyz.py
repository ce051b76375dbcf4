"""Molecules in and out of extended XYZ.

A frame is a count, `Properties=species:S:1:pos:R:3 name=value ...` and one `symbol x y z` a line,
in Angstrom. Reading checks first and names the line that is broken; see `files`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctrlgen.domains.molecules.files import Tags, cell, paired, read_text, write_text

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Frame", "read_xyz", "write_xyz"]


class Frame(NamedTuple):
    """A frame of an XYZ file: symbols (n,), positions (n, 3) in A, and its tags."""

    symbols: list[str]
    positions: np.ndarray
    tags: dict[str, str]


def write_xyz(
    path: str | Path, mols: Sequence[Mol | None], tags: Sequence[Tags] | None = None
) -> Path:
    """Write molecules with their tags as extended XYZ.

    Raises:
        ValueError: another number of tags than of molecules.
    """
    lines = []
    for mol, own in zip(mols, paired(mols, tags), strict=True):
        symbols = [] if mol is None else [atom.GetSymbol() for atom in mol.GetAtoms()]
        positions = mol.GetConformer().GetPositions() if mol is not None and symbols else []
        words = ["Properties=species:S:1:pos:R:3"]
        for name, value in own.items():
            key = re.sub(r"[^\w.()/^-]+", "_", name)
            quoted = cell(value).replace("\\", "\\\\").replace('"', '\\"')
            words.append(f'{key}="{quoted}"')
        lines += [str(len(symbols)), " ".join(words)]
        for symbol, (x, y, z) in zip(symbols, positions, strict=True):
            lines.append(f"{symbol:2} {x:15.8f} {y:15.8f} {z:15.8f}")
    return write_text(path, "".join(line + "\n" for line in lines))


def read_xyz(path: str | Path) -> list[Frame]:
    """Read a plain or extended XYZ file, one frame or many, plain or compressed (.gz).

    Columns beyond the fourth are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not what it should be, named by its number.
    """
    path = Path(path)
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: expected XYZ frames, got an empty file")
    frames, at = [], 0
    while at < len(lines):
        head = lines[at].strip()
        if not (head.isascii() and head.isdigit()):
            raise ValueError(f"{path}, line {at + 1}: expected a number of atoms, got {head!r}")
        count = int(head)
        body = lines[at + 2 : at + 2 + count]
        if at + 1 >= len(lines) or len(body) != count:
            raise ValueError(f"{path}, line {at + 1}: expected {count} atoms, got {len(body)}")
        atoms = [_atom(line, f"{path}, line {at + 3 + i}") for i, line in enumerate(body)]
        positions = np.array([place for _, place in atoms], dtype=np.float64).reshape(-1, 3)
        frames.append(Frame([symbol for symbol, _ in atoms], positions, _tags(lines[at + 1])))
        at += 2 + count
    return frames


def _atom(line: str, where: str) -> tuple[str, list[float]]:
    words = line.split()
    try:
        symbol, place = words[0], [float(word) for word in words[1:4]]
    except (IndexError, ValueError):
        symbol, place = "", []
    if not re.fullmatch(r"[A-Z][a-z]?", symbol) or len(place) != 3:
        raise ValueError(f"{where}: expected a symbol and three coordinates, got {line.strip()!r}")
    if not all(map(math.isfinite, place)):
        raise ValueError(f"{where}: expected finite coordinates, got {line.strip()!r}")
    return symbol, place


def _tags(comment: str) -> dict[str, str]:
    found = re.findall(r'([^\s="]+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))', comment)
    tags = {key: re.sub(r"\\(.)", r"\1", quoted) or plain for key, quoted, plain in found}
    tags.pop("Properties", None)
    return tags
