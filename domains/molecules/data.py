"""QM9 as padded tensors, in either alphabet: all atoms, or heavy atoms with their hydrogens.

    positions (N, A, 3) in A, plain mean of the present atoms at the origin, zero on padding
    classes   (N, A) class indices of `elements.ALL_ATOM` or `elements.HEAVY`, -1 on padding
    counts    (N,) atoms

The heavy alphabet attaches every hydrogen to the nearest heavy atom and keeps only the number.
The published files (see `qm9`) are read once and kept as one safetensors file, `qm9.safetensors`,
whose header holds the sha256 of its tensors; it is checked at every reading. Wherever a folder is
asked for, a packed file (`packed`) does as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ctrlgen.domains.molecules import packed, qm9
from ctrlgen.domains.molecules.elements import MAX_ATOMS, alphabet, classes_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.splits import MOLECULES, Split, split_rows
from ctrlgen.rows.batching import PerSample
from ctrlgen.training.packed import digest
from ctrlgen.training.wheels import wheel

__all__ = [
    "CACHE",
    "Molecules",
    "attach",
    "build_cache",
    "fetch",
    "pack",
    "pack_file",
    "read",
    "to_heavy",
]

CACHE = "qm9.safetensors"
"""Name of the compact file beside the published ones."""

_PACKAGE = "qm9pack==1.0.3"


@dataclass
class Molecules(PerSample):
    """Molecules padded to one size.

    Attributes:
        positions: (N, A, 3) float32 in A, centred, zero on padding.
        classes: (N, A) long, class indices of the alphabet, -1 on padding.
        counts: (N,) long, atoms of each molecule.
        properties: by name, (N,) float32 in the units of `properties.PROPERTIES`.
        index: (N,) long, QM9 index, from 1.
        alphabet: "qm9" or "qm9-heavy".
        split: name of the split.
    """

    positions: Tensor
    classes: Tensor
    counts: Tensor
    properties: dict[str, Tensor]
    index: Tensor
    alphabet: str = "qm9"
    split: str = "all"

    per_sample = ("positions", "classes", "counts", "properties", "index")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def mask(self) -> Tensor:
        """(N, A) bool, places that hold an atom."""
        return self.classes >= 0


def attach(numbers: Tensor, positions: Tensor) -> Tensor:
    """Hydrogens attached to each heavy atom, each hydrogen counted at the nearest one.

    Args:
        numbers: atomic numbers (N, A), 0 on padding.
        positions: (N, A, 3) in A.

    Returns:
        Counts (N, A), long; 0 on hydrogens and padding.

    Raises:
        ValueError: a molecule without a heavy atom.
    """
    heavy, hydrogen = numbers > 1, numbers == 1
    if not bool(heavy.any(dim=1).all()):
        row = int((~heavy.any(dim=1)).nonzero()[0])
        raise ValueError(f"numbers: expected a heavy atom in every molecule, got none in row {row}")
    distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.masked_fill(~heavy.unsqueeze(1), torch.inf).argmin(dim=2)
    return torch.zeros_like(numbers).scatter_add_(1, nearest, hydrogen.to(numbers.dtype))


def pack(records: Iterator[qm9.Record]) -> dict[str, np.ndarray]:
    """Records as flat arrays: numbers (S,), positions (S, 3) centred, and one row a molecule.

    Raises:
        ValueError: indices that do not increase, or no record at all.
    """
    numbers, positions, rows = [], [], []
    index: list[int] = []
    for record in records:
        if index and record.index <= index[-1]:
            raise ValueError(f"QM9: expected increasing indices, got {record.index} after others")
        index.append(record.index)
        numbers.append(record.numbers.astype(np.uint8))
        positions.append((record.positions - record.positions.mean(axis=0)).astype(np.float32))
        rows.append([record.properties[name] for name in PROPERTIES])
    if not index:
        raise ValueError("QM9: expected at least one molecule, got none")
    values = np.array(rows, dtype=np.float32)
    arrays = {
        "numbers": np.concatenate(numbers),
        "positions": np.concatenate(positions),
        "counts": np.array([len(n) for n in numbers], dtype=np.uint8),
    }
    return arrays | {
        "attached": _attached(arrays),
        "index": np.array(index, dtype=np.int32),
        **{name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(PROPERTIES)},
    }


def _attached(arrays: dict[str, np.ndarray], chunk: int = 4096) -> np.ndarray:
    """Hydrogens on each atom of flat arrays (S,), by parts to bound the memory."""
    parts = []
    for rows in np.split(
        np.arange(len(arrays["counts"])), range(chunk, len(arrays["counts"]), chunk)
    ):
        numbers, positions, counts = _padded(arrays, rows)
        present = torch.arange(numbers.shape[1]) < counts.unsqueeze(1)
        parts.append(attach(numbers, positions)[present].to(torch.uint8).numpy())
    return np.concatenate(parts)


def build_cache(folder: str | Path) -> Path:
    """Read the published files in a folder and write the compact file beside them.

    Raises:
        FileNotFoundError: no published files there.
        ValueError: they are incomplete or not what their names say.
    """
    folder = Path(folder)
    records = qm9.locate(folder)
    if records is None:
        raise FileNotFoundError(
            f"QM9: neither the {_PACKAGE} wheel, its qm9_part*.csv, nor dsgdb9nsd files under "
            f"{folder}; point to them or call fetch({str(folder)!r})"
        )
    arrays = pack(records)
    if len(arrays["index"]) != MOLECULES:
        found = len(arrays["index"])
        raise ValueError(f"QM9: expected {MOLECULES} molecules under {folder}, got {found}")
    path, scratch = folder / CACHE, folder / f".{CACHE}.{os.getpid()}"
    save_file(arrays, scratch, metadata={"sha256": digest(arrays), "data": "QM9"})
    scratch.replace(path)
    return path


def fetch(into: str | Path) -> Path:
    """Download the qm9pack wheel (104 MB, MIT) by name with pip into a folder; returns the folder.

    Raises:
        RuntimeError: pip is missing or cannot download it.
    """
    into = Path(into)
    if not (into / CACHE).is_file():
        wheel(_PACKAGE, into, otherwise="that wheel or the original dsgdb9nsd.xyz.tar.bz2")
    return into


def pack_file(folder: str | Path, path: str | Path) -> Path:
    """Write all of QM9 from a folder to one packed file, 14 MB; returns its path."""
    return packed.save(_arrays(Path(folder)), path)


def _arrays(source: Path) -> dict[str, np.ndarray]:
    """The flat arrays behind a folder or a packed file."""
    if source.is_file():
        arrays = packed.load(source)
        if len(arrays["index"]) != MOLECULES:
            found = len(arrays["index"])
            raise ValueError(f"QM9: expected {MOLECULES} molecules in {source}, got {found}")
        return arrays
    path = source / CACHE
    return _load(path if path.is_file() else build_cache(source))


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except Exception as error:  # safetensors raises its own kind for a broken header
        raise ValueError(f"{path}: expected a readable file ({error}); delete it") from error
    if digest(arrays) != expected:
        raise ValueError(f"{path}: its contents differ from its sha256; delete it to rebuild it")
    return arrays


def _places(arrays: dict[str, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the atoms of some rows are in the flat arrays, (N, A), and which exist, (N, A)."""
    counts = arrays["counts"].astype(np.int64)
    starts = np.concatenate(([0], counts.cumsum()[:-1]))[rows]
    place = np.arange(MAX_ATOMS["qm9"])
    mask = place < counts[rows, None]
    return np.where(mask, starts[:, None] + place, 0), mask


def _padded(arrays: dict[str, np.ndarray], rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """numbers (N, A), positions (N, A, 3) and counts (N,) of some rows."""
    flat, mask = _places(arrays, rows)
    numbers = np.where(mask, arrays["numbers"][flat], 0).astype(np.int64)
    positions = np.where(mask[..., None], arrays["positions"][flat], np.float32(0))
    return torch.from_numpy(numbers), torch.from_numpy(positions), torch.from_numpy(mask.sum(1))


def to_heavy(
    numbers: Tensor, positions: Tensor, attached: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Heavy atoms with their hydrogens, from all atoms.

    Args:
        numbers: atomic numbers (N, A), 0 on padding.
        positions: (N, A, 3) in A.
        attached: hydrogens on each atom (N, A) where they are known; see `attach`.

    Returns:
        Classes (N, A') of `HEAVY`, centred positions (N, A', 3) and counts (N,), A' the most heavy
        atoms of a molecule; order within a molecule is kept.

    Raises:
        ValueError: a molecule without a heavy atom, or more hydrogens on one than its valence.
    """
    heavy = numbers > 1
    attached = attach(numbers, positions) if attached is None else attached
    counts = heavy.sum(dim=1)
    order = torch.argsort((~heavy).to(torch.uint8), dim=1, stable=True)[:, : int(counts.max())]
    classes = classes_of(numbers.where(heavy, 0), attached).gather(1, order)
    present = (classes >= 0).unsqueeze(2)
    kept = positions.gather(1, order.unsqueeze(2).expand(-1, -1, 3))
    kept = kept * present
    centre = kept.sum(dim=1, keepdim=True) / counts.view(-1, 1, 1)
    return classes, (kept - centre) * present, counts


def read(name: str, folder: str | Path, split: Split = "D_b") -> Molecules:
    """QM9 in one of the two alphabets, from the compact file, which is made when it is absent.

    Args:
        name: "qm9" (A = 29) or "qm9-heavy" (A = 9).
        folder: where the compact file or the published files are, see `fetch`; or a packed file.
        split: "train", "valid", "test", the halves "D_a" and "D_b" of train, or "all".

    Raises:
        ValueError: unknown name or split, or a file whose checksum differs.
        FileNotFoundError: the folder holds no form of QM9.
    """
    alphabet(name)
    rows = split_rows(split)
    arrays = _arrays(Path(folder))
    numbers, positions, counts = _padded(arrays, rows)
    if name == "qm9":
        classes = classes_of(numbers)
    else:
        flat, mask = _places(arrays, rows)
        attached = torch.from_numpy(np.where(mask, arrays["attached"][flat], 0).astype(np.int64))
        classes, positions, counts = to_heavy(numbers, positions, attached)
        missing = MAX_ATOMS[name] - classes.shape[1]
        classes = torch.nn.functional.pad(classes, (0, missing), value=-1)
        positions = torch.nn.functional.pad(positions, (0, 0, 0, missing))
    properties = {key: torch.from_numpy(arrays[key][rows]) for key in PROPERTIES}
    index = torch.from_numpy(arrays["index"][rows].astype(np.int64))
    return Molecules(positions, classes, counts, properties, index, name, split)
