"""QM9 as it is published: the CSV files of the qm9pack wheel, or the original dsgdb9nsd files.

    qm9_part{1,2,3}.csv     inside qm9pack-1.0.3-py3-none-any.whl, or unpacked from it
    dsgdb9nsd_*.xyz         one file a molecule, in a folder or in dsgdb9nsd.xyz.tar.bz2

An original file holds n, a line of 17 columns (tag, index, A, B, C, mu, alpha, homo, lumo, gap,
<R^2>, ZPVE, U_0, U, H, G, Cv), n lines `symbol x y z charge`, frequencies, SMILES and InChI; powers
of ten may be written `*^`. Of its 133,885 molecules the 3,054 uncharacterised ones are left out, as
in the wheel. Energies come in hartree and leave in meV; see `properties`.

Sources: Ramakrishnan et al., Sci. Data 1, 140022 (2014); qm9pack 1.0.3 (MIT).
"""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctrlgen.domains.molecules.elements import ALL_ATOM, NUMBERS
from ctrlgen.domains.molecules.properties import convert

__all__ = ["Name", "Record", "locate", "names", "parse_xyz", "read_csv", "uncharacterized"]

PARTS = {
    "qm9_part1.csv": "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3",
    "qm9_part2.csv": "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61",
    "qm9_part3.csv": "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43",
}
"""The wheel's files and their sha256."""

_UNITS = {
    "alpha": "Bohr^3",
    "gap": "Ha",
    "homo": "Ha",
    "lumo": "Ha",
    "mu": "D",
    "cv": "cal/(mol K)",
}
_COLUMNS = {
    "alpha": "Polarizability_bohr3",
    "gap": "HOMO_LUMO_gap_au",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "mu": "Dipole_debye",
    "cv": "Heatcapacity_Cv_cal_mol_K",
}
_FIELDS = {"alpha": 6, "gap": 9, "homo": 7, "lumo": 8, "mu": 5, "cv": 16}


class Record(NamedTuple):
    """One molecule: QM9 index, atomic numbers (n,), positions (n, 3) in A, properties."""

    index: int  # type: ignore[assignment]
    numbers: np.ndarray
    positions: np.ndarray
    properties: dict[str, float]


class Name(NamedTuple):
    """What QM9 calls a molecule: its index, SMILES and InChI, without stereo marks."""

    index: int  # type: ignore[assignment]
    smiles: str
    inchi: str


def _record(
    where: str,
    index: int,
    symbols: Sequence[str],
    positions: np.ndarray,
    values: dict[str, str],
) -> Record:
    strange = sorted(set(symbols) - set(ALL_ATOM))
    if strange:
        raise ValueError(f"{where}: expected elements H, C, N, O, F, got {', '.join(strange)}")
    if positions.shape != (len(symbols), 3) or not np.isfinite(positions).all():
        raise ValueError(
            f"{where}: expected {len(symbols)} finite positions, got {positions.shape}"
        )
    properties = {name: convert(name, float(v), _UNITS[name]) for name, v in values.items()}
    return Record(index, np.array([NUMBERS[s] for s in symbols]), positions, properties)


def read_csv(lines: Iterable[str], where: str = "csv") -> Iterator[Record]:
    """Molecules of one CSV file of qm9pack.

    Args:
        lines: text lines, the header first.
        where: name for error messages.

    Raises:
        ValueError: a missing column, or a line that is not what the header says.
    """
    csv.field_size_limit(1 << 20)
    rows = csv.reader(lines)
    header = next(rows, [])
    missing = {"Index", "Elements", "XYZ_Ang", *_COLUMNS.values()} - set(header)
    if missing:
        raise ValueError(f"{where}: expected a qm9pack file, missing columns {sorted(missing)}")
    at = {column: header.index(column) for column in header}
    for row in rows:
        try:
            index = int(row[at["Index"]])
            symbols = row[at["Elements"]].strip("[]").replace("'", "").split(",")
            flat = row[at["XYZ_Ang"]].replace("[", "").replace("]", "").split(",")
            positions = np.array(flat, dtype=np.float64).reshape(-1, 3)
            values = {name: row[at[column]] for name, column in _COLUMNS.items()}
            yield _record(f"{where}, molecule {index}", index, symbols, positions, values)
        except (IndexError, ValueError) as error:
            raise ValueError(f"{where}, line {rows.line_num}: {error}") from error


def parse_xyz(text: str, where: str = "xyz") -> Record:
    """The molecule of one original dsgdb9nsd file.

    Raises:
        ValueError: the text is not such a file.
    """
    lines = text.splitlines()
    try:
        count, fields = int(lines[0]), lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + count]]
        flat = [[float(v.replace("*^", "e")) for v in atom[1:4]] for atom in atoms]
        positions = np.array(flat, dtype=np.float64)
        values = {name: fields[column] for name, column in _FIELDS.items()}
        index, symbols = int(fields[1]), [atom[0] for atom in atoms]
    except (IndexError, ValueError) as error:
        raise ValueError(f"{where}: expected a dsgdb9nsd file ({error})") from error
    if len(atoms) != count or fields[0] != "gdb":
        raise ValueError(f"{where}: expected a dsgdb9nsd file of {count} atoms, got {len(atoms)}")
    return _record(where, index, symbols, positions, values)


def uncharacterized() -> frozenset[int]:
    """QM9 indices of the 3,054 molecules whose geometry did not keep its SMILES."""
    text = (Path(__file__).parent / "uncharacterized.txt").read_text()
    return frozenset(map(int, text.split()))


def _checked(name: str, content: bytes) -> io.StringIO:
    digest = hashlib.sha256(content).hexdigest()
    if digest != PARTS[name]:
        raise ValueError(f"{name}: expected sha256 {PARTS[name]}, got {digest}")
    return io.StringIO(content.decode())


def locate(folder: str | Path) -> Iterator[Record] | None:
    """All molecules of the first form of QM9 found in a folder, by increasing index; None if none.

    Looked for: the wheel, its unpacked CSV files, dsgdb9nsd.xyz.tar.bz2, dsgdb9nsd_*.xyz files.
    The wheel's files are checked by their sha256.

    Raises:
        ValueError: while reading, a file that is not what its name says.
    """
    folder = Path(folder)
    wheels = sorted(folder.glob("qm9pack-1.0.3*.whl"))
    if wheels:
        return _from_wheel(wheels[0])
    for place in (folder, folder / "qm9pack" / "data", folder / "data"):
        if all((place / name).is_file() for name in PARTS):
            return _from_parts(place)
    archives = [p for p in sorted(folder.glob("dsgdb9nsd.xyz.tar*")) if p.is_file()]
    if archives:
        return _characterized(_from_archive(archives[0]))
    for place in (folder, folder / "dsgdb9nsd"):
        files = sorted(place.glob("dsgdb9nsd_*.xyz"))
        if files:
            return _characterized((f.name, f.read_text()) for f in files)
    return None


def _from_wheel(path: Path) -> Iterator[Record]:
    with zipfile.ZipFile(path) as wheel:
        for name in PARTS:
            yield from read_csv(_checked(name, wheel.read(f"qm9pack/data/{name}")), name)


def _from_parts(folder: Path) -> Iterator[Record]:
    for name in PARTS:
        yield from read_csv(_checked(name, (folder / name).read_bytes()), name)


def names(folder: str | Path) -> list[Name]:
    """Names of all molecules by increasing index, from the wheel of qm9pack in a folder.

    Raises:
        FileNotFoundError: there is no wheel.
        ValueError: it is not what its sha256 says.
    """
    wheels = sorted(Path(folder).glob("qm9pack-1.0.3*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{folder}: expected the wheel of qm9pack 1.0.3")
    csv.field_size_limit(1 << 20)
    rows = []
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in PARTS:
            for row in csv.DictReader(_checked(name, wheel.read(f"qm9pack/data/{name}"))):
                rows.append(Name(int(row["Index"]), row["SMILES"], row["InChi"]))
    return rows


def _from_archive(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".xyz") else None
            if content is not None:
                yield Path(member.name).name, content.read().decode()


def _characterized(files: Iterable[tuple[str, str]]) -> Iterator[Record]:
    left_out = uncharacterized()
    for name, text in files:
        record = parse_xyz(text, name)
        if record.index not in left_out:
            yield record
