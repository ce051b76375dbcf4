"""Molecules in and out of files: SDF, extended XYZ and CSV, with a tag for every known number.

A file holds one entry per sample, in order: a sample without a molecule is an empty SDF record or
XYZ frame that still has its tags. Files are written aside and moved into place, so that a reader
never sees half of one. Reading checks first and names the record or the line that is broken.

    SDF   V2000, Kekulé bonds, tags as `> <name>` (Dalby et al. 1992)
    XYZ   count, `Properties=species:S:1:pos:R:3 name=value ...`, one `symbol x y z` a line (A)
    CSV   one row per sample, a header, empty cells for what is not known
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctrlgen.extras import require
from ctrlgen.runs.outputs import naming

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "Entry",
    "Frame",
    "Tags",
    "read_csv",
    "read_sdf",
    "read_text",
    "read_xyz",
    "sdf_entry",
    "sdf_records",
    "write_csv",
    "write_sdf",
    "write_xyz",
]

Tags = Mapping[str, object]


class Entry(NamedTuple):
    """A record of an SDF file: the molecule, None for an empty record, and its tags."""

    mol: Mol | None
    tags: dict[str, str]


class Frame(NamedTuple):
    """A frame of an XYZ file: symbols (n,), positions (n, 3) in A, and its tags."""

    symbols: list[str]
    positions: np.ndarray
    tags: dict[str, str]


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path):
        try:
            scratch.write_text(text, encoding="utf-8", newline="")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    return path


def _text(value: object) -> str:
    """A value as one line: numbers short and exact enough, truth as true/false."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return "nan" if math.isnan(value) else f"{float(value):.8g}"
    return " ".join(str(value).split())


def _item(value: object) -> str:
    """A value as lines of a data item, none of which ends the item or the record."""
    lines = value.split("\n") if isinstance(value, str) else [_text(value)]
    lines = [" ".join(line.split()) for line in lines]
    return "\n".join(f" {x}" if x.startswith("$$$$") else x for x in lines if x or len(lines) == 1)


def _paired(mols: Sequence[Any], tags: Sequence[Tags] | None) -> Sequence[Tags]:
    tags = [{} for _ in mols] if tags is None else tags
    if len(tags) != len(mols):
        raise ValueError(f"tags: expected one mapping per molecule, {len(mols)}, got {len(tags)}")
    return tags


def _fits(mol: Mol) -> bool:
    """Whether V2000's ten columns hold every coordinate."""
    return all((np.abs(c.GetPositions()) < 1e5 - 1).all() for c in mol.GetConformers())


def write_sdf(
    path: str | Path, mols: Sequence[Mol | None], tags: Sequence[Tags] | None = None
) -> Path:
    """Write molecules with their tags as SDF.

    Args:
        path: file to write; an old one is replaced when the new one is complete.
        mols: with one conformer each; None gives an empty record, as does a coordinate that the
            format has no room for (NaN, or 100,000 A and more).
        tags: by name, for each molecule; a tag "name" becomes the title line as well.

    Raises:
        ValueError: another number of tags than of molecules, or a tag with `<` or `>` in its name.
    """
    require("rdkit", "molecules")
    from rdkit import Chem

    parts = []
    for mol, own in zip(mols, _paired(mols, tags), strict=True):
        copy = Chem.Mol(mol) if mol is not None and _fits(mol) else Chem.Mol()
        title = _text(own.get("name"))
        copy.SetProp("_Name", f" {title}" if title.startswith("$$$$") else title)
        try:
            block = Chem.MolToMolBlock(copy, kekulize=True)
        except ValueError:  # a graph that was not sanitised has its bonds as they were found
            block = Chem.MolToMolBlock(copy, kekulize=False)
        parts.append(block)
        for name, value in own.items():
            if not name or re.search(r"[<>\n]", name):
                raise ValueError(f"tags: expected a name without < or >, got {name!r}")
            parts.append(f">  <{name}>\n{_item(value)}\n\n")
        parts.append("$$$$\n")
    return _write(path, "".join(parts))


def read_sdf(path: str | Path) -> list[Entry]:
    """Read an SDF file with three-dimensional coordinates, plain or compressed (.gz).

    Returns:
        One entry per record, hydrogens, stereo marks, charges and isotopes kept, sanitised where
        RDKit can.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a record that is no molecule, has coordinates that are not finite or only
            two-dimensional; its number and title are named.
    """
    entries = []
    for number, record in enumerate(sdf_records(path), 1):
        title = record.split("\n", 1)[0].strip()
        where = f"{path}, record {number}" + (f" ({title})" if title else "")
        try:
            entry = sdf_entry(record)
            if entry.mol is not None and not entry.mol.GetConformer().Is3D():
                raise ValueError("expected three-dimensional coordinates, got a flat drawing")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        entries.append(entry)
    return entries


def sdf_records(path: str | Path) -> list[str]:
    """The records of an SDF file as text, without what ends them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no record at all, or compressed data that is broken.
    """
    records = re.split(r"^\$\$\$\$[^\n]*\n?", read_text(path), flags=re.MULTILINE)
    if not records[-1].strip():
        records.pop()
    if not records:
        raise ValueError(f"{path}: expected SDF records, got an empty file")
    return records


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


def sdf_entry(record: str) -> Entry:
    """The molecule and the data items of a record, flat drawings included.

    A molecule is flat where its positions lie in one coordinate plane and it has no 3D mark.

    Raises:
        ValueError: no molecule, or positions that are not finite.
    """
    require("rdkit", "molecules")
    from rdkit import Chem, rdBase

    block, end, rest = record.partition("M  END")
    with rdBase.BlockLogs():  # what fails is said in the error
        mol = Chem.MolFromMolBlock(block + end, sanitize=False, removeHs=False, strictParsing=True)
    if mol is None or not end:
        raise ValueError("expected a complete V2000 or V3000 record")
    tags = dict(_items(rest))
    if not mol.GetNumAtoms():
        return Entry(None, tags)
    positions = mol.GetConformer().GetPositions()
    if not np.isfinite(positions).all():
        raise ValueError("expected finite coordinates, got NaN or infinite ones")
    extent = np.ptp(positions, axis=0)
    if extent.all() or len(positions) == 1 or (len(positions) <= 3 and extent.any()):
        mol.GetConformer().Set3D(True)
    with rdBase.BlockLogs():
        clean = Chem.Mol(mol)
        if Chem.SanitizeMol(clean, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
            return Entry(mol, tags)
        if clean.GetConformer().Is3D():
            Chem.AssignStereochemistryFrom3D(clean)
        else:
            Chem.AssignChiralTypesFromBondDirs(clean)
            Chem.AssignStereochemistry(clean, cleanIt=True, force=True)
    return Entry(clean, tags)


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Data items after a molecule: `> <name>`, lines of the value, an empty line."""
    lines = iter(text.split("\n"))
    for line in lines:
        head = re.match(r">.*?<([^>]*)>", line)
        if head is None:
            continue
        value = []
        for own in lines:
            if not own.strip():
                break
            value.append(own.strip())
        yield head[1], "\n".join(value)


def write_xyz(
    path: str | Path, mols: Sequence[Mol | None], tags: Sequence[Tags] | None = None
) -> Path:
    """Write molecules with their tags as extended XYZ.

    Raises:
        ValueError: another number of tags than of molecules.
    """
    lines = []
    for mol, own in zip(mols, _paired(mols, tags), strict=True):
        symbols = [] if mol is None else [atom.GetSymbol() for atom in mol.GetAtoms()]
        positions = mol.GetConformer().GetPositions() if mol is not None and symbols else []
        words = ["Properties=species:S:1:pos:R:3"]
        for name, value in own.items():
            key = re.sub(r"[^\w.()/^-]+", "_", name)
            quoted = _text(value).replace("\\", "\\\\").replace('"', '\\"')
            words.append(f'{key}="{quoted}"')
        lines += [str(len(symbols)), " ".join(words)]
        for symbol, (x, y, z) in zip(symbols, positions, strict=True):
            lines.append(f"{symbol:2} {x:15.8f} {y:15.8f} {z:15.8f}")
    return _write(path, "".join(line + "\n" for line in lines))


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
    writer.writerows([_text(row.get(name)) for name in columns] for row in rows)
    return _write(path, text.getvalue())


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
