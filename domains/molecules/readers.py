"""Molecules of a user's file, one record each: SDF, MOL, XYZ, PDB, SMILES; compressed or not.

A record that cannot be read has no molecule and a reason, so that one broken record is not the end
of a file. What comes with bonds keeps them, with charges, isotopes and stereo marks. XYZ and PDB
have positions alone; their bonds are perceived (`perception`), for the charge that an XYZ comment
names (charge=-1). Hydrogens that are missing are placed where the heavy atoms have positions; what
has none at all, a SMILES or a flat drawing, gets them by ETKDG, but only where that is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ctrlgen.domains.molecules.chemistry import place_hydrogens
from ctrlgen.domains.molecules.elements import ALL_ATOM, MAX_ATOMS, NUMBERS, classes_of
from ctrlgen.domains.molecules.files import read_text
from ctrlgen.domains.molecules.perception import embed as embedded
from ctrlgen.domains.molecules.perception import perceive
from ctrlgen.domains.molecules.rdkit import crowded
from ctrlgen.domains.molecules.sdf import sdf_entry, sdf_records
from ctrlgen.domains.molecules.xyz import Frame, read_xyz
from ctrlgen.extras import require
from ctrlgen.rows.errors import concerning

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["FORMATS", "Record", "read_records"]

FORMATS = (".sdf", ".mol", ".xyz", ".pdb", ".smi", ".smiles")
"""Endings of files that are read, each also with .gz behind it."""


class Record(NamedTuple):
    """One record of a file.

    Attributes:
        number: from 1, as people count.
        title: its name, "" without one.
        mol: with positions and all hydrogens; None where there is a reason.
        tags: its properties, in order.
        reason: why there is no molecule; empty where there is.
    """

    number: int
    title: str
    mol: Mol | None
    tags: tuple[tuple[str, str], ...] = ()
    reason: str = ""


def read_records(file: Path, what: str, embed: bool = False) -> list[Record]:
    """All records of a file.

    Args:
        file: its name says the format.
        what: name of the argument, for errors.
        embed: give positions by ETKDG to what has none.

    Raises:
        ValueError: no such file, another format, or nothing in it.
    """
    require("rdkit", "molecules")
    if not file.is_file():
        raise ValueError(f"{what}: there is no file {file}")
    ending = Path(file.stem if file.suffix.lower() == ".gz" else file.name).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(
            f"{what}: expected an SDF, MOL, XYZ, PDB or SMILES file "
            f"({', '.join(FORMATS)}; .gz behind it), got {file}"
        )
    with concerning(what):
        if ending in (".sdf", ".mol"):
            records = list(_sdf(file))
        elif ending == ".xyz":
            records = _bare(read_xyz(file))
        elif ending == ".pdb":
            records = _bare(list(_pdb(read_text(file))))
        else:
            records = list(_smiles(read_text(file)))
    if not records:
        raise ValueError(f"{what}: expected molecules in {file}, got none")
    return _completed(records, embed)


def _sdf(file: Path) -> Iterator[Record]:
    for number, text in enumerate(sdf_records(file), 1):
        title = text.split("\n", 1)[0].strip()
        try:
            entry = sdf_entry(text)
        except ValueError as error:
            yield Record(number, title, None, reason=str(error))
            continue
        reason = "an empty record" if entry.mol is None else ""
        yield Record(number, title, entry.mol, tuple(entry.tags.items()), reason)


def _smiles(text: str) -> Iterator[Record]:
    chem = require("rdkit.Chem", "molecules")
    lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=1)
        title = words[1].strip() if len(words) > 1 else ""
        with require("rdkit.rdBase", "molecules").BlockLogs():
            mol = chem.MolFromSmiles(words[0])
        if mol is None or not mol.GetNumAtoms():
            yield Record(number, title, None, reason=f"{words[0]!r} is no SMILES")
        else:
            yield Record(number, title, mol)


def _pdb(text: str) -> Iterator[Frame]:
    """Elements and positions of the models of a PDB file; alternate places are left out."""
    atoms: list[tuple[str, list[float]]] = []
    for line in text.split("\n"):
        kind = line[:6].strip()
        if kind in ("ATOM", "HETATM") and line[16:17] in ("", " ", "A"):
            symbol = line[76:78].strip().capitalize() or line[12:14].strip(" 0123456789")
            try:
                atoms.append((symbol, [float(line[i : i + 8]) for i in (30, 38, 46)]))
            except ValueError:
                atoms.append((symbol, [np.nan] * 3))
        if kind in ("ENDMDL", "END") and atoms:
            yield Frame([s for s, _ in atoms], np.array([x for _, x in atoms]), {})
            atoms = []
    if atoms:
        yield Frame([s for s, _ in atoms], np.array([x for _, x in atoms]), {})


def _bare(frames: Sequence[Frame]) -> list[Record]:
    """Molecules whose bonds are perceived; what is not of H, C, N, O, F is left as it is."""
    records = []
    for number, frame in enumerate(frames, 1):
        tags = tuple(frame.tags.items())
        title = frame.tags.get("name", "")
        strange = sorted(set(frame.symbols) - set(ALL_ATOM))
        most = MAX_ATOMS["qm9"]
        reason = ""
        if not frame.symbols:
            reason = "an empty record"
        elif strange:
            reason = f"expected elements H, C, N, O, F, got {', '.join(strange)}"
        elif len(frame.symbols) > most:
            reason = f"expected at most {most} atoms, got {len(frame.symbols)}"
        elif not np.isfinite(frame.positions).all():
            reason = "expected finite coordinates, got others"
        else:
            reason = crowded(frame.positions)
        mol = None
        if not reason:
            numbers = torch.tensor([[NUMBERS[symbol] for symbol in frame.symbols]])
            place = torch.from_numpy(np.asarray(frame.positions))[None]
            try:
                charge = int(frame.tags["charge"]) if frame.tags.get("charge") else None
                (mol,) = perceive(place, classes_of(numbers), charges=[charge])
                reason = "" if mol else "no bond orders fit the valences of its atoms"
            except ValueError:
                reason = f"charge: expected an integer, got {frame.tags['charge']!r}"
        records.append(Record(number, title, mol, tags, reason))
    return records


def _completed(records: list[Record], embed: bool) -> list[Record]:
    """Records whose molecules have positions and all hydrogens."""
    flat, bare = [], []
    for place, record in enumerate(records):
        if record.mol is None:
            continue
        record.mol.UpdatePropertyCache(strict=False)
        if not record.mol.GetNumConformers() or not record.mol.GetConformer().Is3D():
            flat.append(place)
        elif reason := crowded(record.mol.GetConformer().GetPositions()):
            records[place] = record._replace(mol=None, reason=reason)
        elif any(atom.GetTotalNumHs() for atom in record.mol.GetAtoms()):
            bare.append(place)
    made = embedded([records[i].mol for i in flat]) if embed else [None] * len(flat)
    why = "ETKDG found no positions" if embed else "no positions in space; --embed makes some"
    placed = place_hydrogens([records[i].mol for i in bare])
    for where, mols, reason in ((flat, made, why), (bare, placed, "hydrogens cannot be placed")):
        for place, mol in zip(where, mols, strict=True):
            changes: dict[str, Any] = {"mol": mol, "reason": "" if mol else reason}
            records[place] = records[place]._replace(**changes)
    return records
