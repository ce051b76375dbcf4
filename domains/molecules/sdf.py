"""Molecules in and out of SDF: V2000, Kekulé bonds, tags as `> <name>` (Dalby et al. 1992).

Reading checks first and names the record that is broken; see `files`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctrlgen.domains.molecules.files import Tags, cell, paired, read_text, write_text
from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["Entry", "read_sdf", "sdf_entry", "sdf_records", "write_sdf"]


class Entry(NamedTuple):
    """A record of an SDF file: the molecule, None for an empty record, and its tags."""

    mol: Mol | None
    tags: dict[str, str]


def _item(value: object) -> str:
    """A value as lines of a data item, none of which ends the item or the record."""
    lines = value.split("\n") if isinstance(value, str) else [cell(value)]
    lines = [" ".join(line.split()) for line in lines]
    return "\n".join(f" {x}" if x.startswith("$$$$") else x for x in lines if x or len(lines) == 1)


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
    for mol, own in zip(mols, paired(mols, tags), strict=True):
        copy = Chem.Mol(mol) if mol is not None and _fits(mol) else Chem.Mol()
        title = cell(own.get("name"))
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
    return write_text(path, "".join(parts))


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
